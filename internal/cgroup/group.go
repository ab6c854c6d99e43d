// Package cgroup looks at one container's control groups, v1 and v2: what runs in them, what it uses, what the kernel's
// OOM killer took, and how to end all of it.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Group is where a container's control groups are: the directory of each v1 controller by the controller's name, that
// of the unified hierarchy under "". A hybrid host has both. An empty Group holds nothing.
type Group map[string]string

// unified tells whether the container is in no v1 hierarchy.
func (g Group) unified() bool {
	_, ok := g[""]
	return ok && len(g) == 1
}

// exists tells whether any of the directories is there.
func (g Group) exists() bool {
	for _, dir := range g {
		if _, err := os.Stat(dir); err == nil {
			return true
		}
	}
	return false
}

// PIDs are the processes in the container's groups and everything below them, in no order. A process that moves while
// they are read may be missed.
func (g Group) PIDs() ([]int, error) {
	for _, name := range [...]string{"devices", "pids", "freezer", ""} { // one hierarchy tells: a container is in all of them
		if dir, ok := g[name]; ok {
			return list(dir)
		}
	}
	return g.all()
}

// all are the processes in any of the groups.
func (g Group) all() ([]int, error) {
	var pids []int
	for _, dir := range g {
		more, err := list(dir)
		if err != nil {
			return nil, err
		}
		pids = append(pids, more...)
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

// list reads the processes in dir and below it; none if dir is gone.
func list(dir string) ([]int, error) {
	var pids []int
	err := walk(dir, func(dir string) error {
		data, err := read(dir, "cgroup.procs")
		if errors.Is(err, unix.EOPNOTSUPP) { // threaded: its processes are listed further up
			return nil
		}
		if err != nil {
			return err
		}
		for field := range strings.FieldsSeq(string(data)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				return fmt.Errorf("read cgroup.procs: %w", err)
			}
			pids = append(pids, pid)
		}
		return nil
	})
	return pids, err
}

// walk calls visit with dir and every group below it, parents first. A group that goes away meanwhile is no error.
func walk(dir string, visit func(dir string) error) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			err = visit(path)
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil
		}
		return err
	})
}
