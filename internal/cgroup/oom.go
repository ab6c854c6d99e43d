package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// OOMKills is how many processes the kernel's OOM killer has ended in the container's memory group; in v2 also in those
// below it. 0 if the group is gone or has no memory controller.
//
// Source: Documentation/admin-guide/cgroup-v1/memory.rst (memory.oom_control) and cgroup-v2.rst (memory.events).
func (g Group) OOMKills() (uint64, error) {
	dir, ok := g["memory"]
	file := "memory.oom_control"
	if g.unified() {
		dir, ok = g[""]
		file = "memory.events"
	}
	if !ok {
		return 0, nil
	}
	data, err := read(dir, file)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return 0, nil
	}
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
