package cgroup

import (
	"os"
	"path/filepath"
	"strings"
)

// At is the groups at path, which is absolute, in every hierarchy that has one there; the roots are none.
func At(path string) Group {
	g := Group{}
	if path = filepath.Clean(path); !filepath.IsAbs(path) || path == "/" {
		return g
	}
	if isDir(filepath.Join(mountpoint, path)) {
		g[""] = filepath.Join(mountpoint, path)
	}
	hierarchies, _ := os.ReadDir(mountpoint)
	for _, h := range hierarchies {
		dir := filepath.Join(mountpoint, h.Name(), path)
		if !h.IsDir() || !isDir(dir) { // links such as cpu -> cpu,cpuacct are none
			continue
		}
		if _, err := os.Stat(filepath.Join(mountpoint, h.Name(), "cgroup.controllers")); err == nil && h.Name() != "unified" {
			continue // a group of the unified hierarchy
		}
		for name := range strings.SplitSeq(h.Name(), ",") {
			if name == "unified" {
				name = ""
			}
			g[name] = dir
		}
	}
	return g
}

// Without is g but for the directories that are in other.
func (g Group) Without(other Group) Group {
	rest := Group{}
	for name, dir := range g {
		if other[name] != dir {
			rest[name] = dir
		}
	}
	return rest
}

// Frozen tells whether the group itself is frozen, or about to be.
func (g Group) Frozen() bool {
	if dir, ok := g["freezer"]; ok {
		state, _ := read(dir, "freezer.state")
		return len(state) > 0 && strings.TrimSpace(string(state)) != "THAWED"
	}
	dir, ok := g[""]
	if !ok {
		return false
	}
	frozen, _ := read(dir, "cgroup.freeze")
	return strings.TrimSpace(string(frozen)) == "1"
}

func isDir(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}
