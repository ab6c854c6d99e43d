package cgroup

import (
	"maps"
	"path/filepath"
	"strings"
)

// limitFiles are where limits are set: patterns of files by v1 controller, and those of v2 under "".
var limitFiles = map[string][]string{
	"": {
		"*.max", "*.min", "*.low", "*.high", "*.weight", "*.idle", "*.burst", "*.group",
		"io.latency", "cpu.uclamp.*", "cpuset.cpus", "cpuset.mems",
	},
	"memory":  {"memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.soft_limit_in_bytes"},
	"cpu":     {"cpu.shares", "cpu.cfs_*_us", "cpu.rt_*_us", "cpu.idle"},
	"cpuset":  {"cpuset.cpus", "cpuset.mems"},
	"pids":    {"pids.max"},
	"blkio":   {"blkio.*weight", "blkio.*weight_device", "blkio.throttle.*_device"},
	"hugetlb": {"hugetlb.*.limit_in_bytes"},
	"rdma":    {"rdma.max"},
}

// Limits are limits in force: what the files say that they are set in, by path.
type Limits map[string]string

// Limits reads the limits in force.
func (g Group) Limits() Limits {
	l := make(Limits)
	for name, dir := range g {
		if name == "" && !g.unified() {
			continue // a hybrid host's has no controllers
		}
		for _, pattern := range limitFiles[name] {
			paths, _ := filepath.Glob(filepath.Join(dir, pattern))
			for _, path := range paths {
				if data, err := read(dir, filepath.Base(path)); err == nil {
					l[path] = string(data)
				}
			}
		}
	}
	return l
}

// Restore puts l in force again, as far as the kernel lets it. A limit may depend on another, so that what is refused
// is tried again as long as anything changes.
func (l Limits) Restore() {
	left := maps.Clone(l)
	for done := false; !done; {
		done = true
		for path, was := range left {
			dir, file := filepath.Split(path)
			now, err := read(dir, file)
			if err != nil || string(now) == was {
				delete(left, path)
				continue
			}
			for _, line := range reverting(string(now), was) {
				_ = write(dir, file, line) // looked at again
			}
			if again, _ := read(dir, file); string(again) != string(now) {
				done = false
			}
		}
	}
}

// reverting are the writes that lead a file from what it says now to what it said. A file has a value, or a line for each
// device.
func reverting(now, was string) (writes []string) {
	device := func(line string) string {
		if name, _, ok := strings.Cut(line, " "); ok && (strings.Contains(name, ":") || strings.Contains(line, "=")) {
			return name
		}
		return ""
	}
	kept := make(map[string]bool)
	for line := range strings.Lines(was) {
		kept[device(line)] = true
	}
	for line := range strings.Lines(now) {
		if name := device(line); name != "" && !kept[name] {
			writes = append(writes, unlimited(name, line))
		}
	}
	was = strings.TrimRight(was, "\n")
	if was == "" && len(writes) > 0 {
		return writes
	}
	if was == "" {
		return []string{"\n"} // an empty write would not reach the kernel's file
	}
	return append(writes, strings.Split(was, "\n")...)
}

// unlimited lifts the limits in line, which are a device's: keys with values (io.max, rdma.max), or a rate or a weight.
func unlimited(device, line string) string {
	_, limits, _ := strings.Cut(strings.TrimSpace(line), " ")
	if !strings.Contains(limits, "=") {
		return device + " 0"
	}
	text := device
	for field := range strings.FieldsSeq(limits) {
		key, _, _ := strings.Cut(field, "=")
		text += " " + key + "=max"
	}
	return text
}
