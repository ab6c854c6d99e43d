package cgroup

import (
	"path/filepath"

	"github.com/containerd/cgroups/v3/cgroup1/stats"
)

// statsV1 reads the files that Documentation/admin-guide/cgroup-v1 describes.
func (g Group) statsV1() *stats.Metrics {
	m := &stats.Metrics{CPU: &stats.CPUStat{Usage: new(stats.CPUUsage), Throttling: new(stats.Throttle)}}
	if d, ok := g["cpu"]; ok {
		t := dir(d).table("cpu.stat")
		m.CPU.Throttling.Periods = t["nr_periods"]
		m.CPU.Throttling.ThrottledPeriods = t["nr_throttled"]
		m.CPU.Throttling.ThrottledTime = t["throttled_time"]
	}
	if d, ok := g["cpuacct"]; ok {
		cpuV1(dir(d), m.CPU.Usage)
	}
	if d, ok := g["memory"]; ok {
		memoryV1(dir(d), m)
	}
	if d, ok := g["pids"]; ok {
		m.Pids = &stats.PidsStat{Current: dir(d).number("pids.current")}
		if limit := dir(d).lines("pids.max"); len(limit) == 1 && limit[0][0] != "max" { // no limit: 0
			m.Pids.Limit = figure(limit[0][0])
		}
	}
	if d, ok := g["blkio"]; ok {
		m.Blkio = blkioV1(dir(d))
	}
	if d, ok := g["hugetlb"]; ok {
		m.Hugetlb = hugetlbV1(dir(d))
	}
	if d, ok := g["rdma"]; ok {
		m.Rdma = &stats.RdmaStat{Current: rdmaV1(dir(d), "rdma.current"), Limit: rdmaV1(dir(d), "rdma.max")}
	}
	return m
}

func cpuV1(d dir, usage *stats.CPUUsage) {
	const tick = 1e9 / 100 // ns; the kernel's USER_HZ
	t := d.table("cpuacct.stat")
	usage.User, usage.Kernel = t["user"]*tick, t["system"]*tick
	usage.Total = d.number("cpuacct.usage")
	for _, fields := range d.lines("cpuacct.usage_percpu") {
		for _, field := range fields {
			usage.PerCPU = append(usage.PerCPU, figure(field))
		}
	}
}

func memoryV1(d dir, m *stats.Metrics) {
	m.Memory = new(stats.MemoryStat)
	t := d.table("memory.stat")
	t["hierarchical_swap_limit"] = t["hierarchical_memsw_limit"]
	fill(m.Memory, t)
	entry := func(prefix string) *stats.MemoryEntry {
		return &stats.MemoryEntry{
			Usage:   d.number(prefix + ".usage_in_bytes"),
			Max:     d.number(prefix + ".max_usage_in_bytes"),
			Failcnt: d.number(prefix + ".failcnt"),
			Limit:   d.number(prefix + ".limit_in_bytes"),
		}
	}
	m.Memory.Usage = entry("memory")
	m.Memory.Swap = entry("memory.memsw")
	m.Memory.Kernel = entry("memory.kmem")
	m.Memory.KernelTCP = entry("memory.kmem.tcp")
	m.MemoryOomControl = new(stats.MemoryOomControl)
	fill(m.MemoryOomControl, d.table("memory.oom_control"))
}

// blkioV1 reads what the CFQ scheduler counts or, without it, what passes the throttle.
func blkioV1(d dir) *stats.BlkIOStat {
	m := new(stats.BlkIOStat)
	names := deviceNames()
	counted := false
	for file, to := range map[string]*[]*stats.BlkIOEntry{
		"io_service_bytes_recursive": &m.IoServiceBytesRecursive,
		"io_serviced_recursive":      &m.IoServicedRecursive,
		"io_queued_recursive":        &m.IoQueuedRecursive,
		"io_service_time_recursive":  &m.IoServiceTimeRecursive,
		"io_wait_time_recursive":     &m.IoWaitTimeRecursive,
		"io_merged_recursive":        &m.IoMergedRecursive,
		"time_recursive":             &m.IoTimeRecursive,
		"sectors_recursive":          &m.SectorsRecursive,
	} {
		*to = d.blkio("blkio."+file, names)
		counted = counted || len(*to) > 0
	}
	if !counted {
		m.IoServicedRecursive = d.blkio("blkio.throttle.io_serviced", names)
		m.IoServiceBytesRecursive = d.blkio("blkio.throttle.io_service_bytes", names)
	}
	return m
}

// blkio reads lines "major:minor operation figure", where the operation may be missing.
func (d dir) blkio(file string, names map[[2]uint64]string) (entries []*stats.BlkIOEntry) {
	for _, fields := range d.lines(file) {
		major, minor, ok := device(fields[0])
		if !ok || len(fields) < 2 {
			continue // the total
		}
		e := &stats.BlkIOEntry{Major: major, Minor: minor, Device: names[[2]uint64{major, minor}], Value: figure(fields[len(fields)-1])}
		if len(fields) == 3 {
			e.Op = fields[1]
		}
		entries = append(entries, e)
	}
	return entries
}

// deviceNames are the paths of block devices by major and minor number.
func deviceNames() map[[2]uint64]string {
	names := make(map[[2]uint64]string)
	for i, fields := range dir("/proc").lines("partitions") {
		if i == 0 || len(fields) < 4 {
			continue
		}
		key := [2]uint64{figure(fields[0]), figure(fields[1])}
		if _, ok := names[key]; !ok {
			names[key] = filepath.Join("/dev", fields[3])
		}
	}
	return names
}

func hugetlbV1(d dir) (all []*stats.HugetlbStat) {
	for _, size := range d.pageSizes("limit_in_bytes") {
		prefix := "hugetlb." + size
		all = append(all, &stats.HugetlbStat{
			Pagesize: size,
			Usage:    d.number(prefix + ".usage_in_bytes"),
			Max:      d.number(prefix + ".max_usage_in_bytes"),
			Failcnt:  d.number(prefix + ".failcnt"),
		})
	}
	return all
}

func rdmaV1(d dir, file string) (entries []*stats.RdmaEntry) {
	for _, fields := range d.lines(file) {
		t := pairs(fields[1:])
		entries = append(entries, &stats.RdmaEntry{Device: fields[0], HcaHandles: uint32(t["hca_handle"]), HcaObjects: uint32(t["hca_object"])})
	}
	return entries
}
