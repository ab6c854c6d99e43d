package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// memory is the directory and the file in which the kernel counts OOM kills; ok: the container has a memory controller.
func (g Group) memory() (dir, file string, ok bool) {
	if g.unified() {
		return g[""], "memory.events", true
	}
	dir, ok = g["memory"]
	return dir, "memory.oom_control", ok
}

// OOMKills is how many processes the kernel's OOM killer has ended in the container's memory group; in v2 also in those
// below it. 0 if the group is gone or has no memory controller.
//
// Source: Documentation/admin-guide/cgroup-v1/memory.rst (memory.oom_control) and cgroup-v2.rst (memory.events).
func (g Group) OOMKills() (uint64, error) {
	dir, file, ok := g.memory()
	if !ok {
		return 0, nil
	}
	n, err := oomKills(dir, file)
	if isGone(err) {
		return 0, nil
	}
	return n, err
}

func isGone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) }

func oomKills(dir, file string) (uint64, error) {
	data, err := read(dir, file)
	if err != nil {
		return 0, fmt.Errorf("count OOM kills: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		if count, ok := strings.CutPrefix(line, "oom_kill "); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(count), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("count OOM kills: %w", err)
			}
			return n, nil
		}
	}
	return 0, nil
}

// otherOOMKills is how many kills the v2 group's parent counts, without those in the groups beside this one. When this
// group is gone its own kills stay in that figure. 0 unless the group is one that systemd removes with its last process.
func (g Group) otherOOMKills() (n uint64) {
	own, file, _ := g.memory()
	if !g.unified() || filepath.Ext(own) != ".scope" {
		return 0
	}
	parent := filepath.Dir(own)
	n, _ = oomKills(parent, file)
	siblings, _ := filepath.Glob(filepath.Join(parent, "*", file))
	for _, sibling := range siblings {
		if dir := filepath.Dir(sibling); dir != own {
			k, _ := oomKills(dir, file)
			n -= min(n, k)
		}
	}
	return n
}
