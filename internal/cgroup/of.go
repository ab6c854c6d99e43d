package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/cgroups"
)

// mountpoint is where the hierarchies are: the unified one itself, or below it one directory for each of v1.
const mountpoint = "/sys/fs/cgroup"

// Of is the groups that process pid is in, other than the roots and those that this process is in too.
func Of(pid int) (Group, error) {
	theirs, err := cgroups.ParseCgroupFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil, fmt.Errorf("cgroups of process %d: %w", pid, err)
	}
	own, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("own cgroups: %w", err)
	}
	g := Group{}
	for name, path := range theirs {
		if path == "/" || path == own[name] {
			continue
		}
		dir := filepath.Join(mountpoint, strings.TrimPrefix(name, "name="), path)
		if name == "" && len(theirs) > 1 {
			dir = filepath.Join(mountpoint, "unified", path)
		}
		if _, err := os.Stat(dir); err == nil {
			g[name] = dir
		}
	}
	return g, nil
}
