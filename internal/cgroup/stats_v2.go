package cgroup

import (
	"strconv"
	"strings"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
)

// statsV2 reads the files that Documentation/admin-guide/cgroup-v2.rst describes.
func statsV2(d dir) *stats.Metrics {
	m := &stats.Metrics{
		Pids:   &stats.PidsStat{Current: d.number("pids.current"), Limit: d.number("pids.max")},
		CPU:    new(stats.CPUStat),
		Memory: new(stats.MemoryStat),
		Io:     &stats.IOStat{Usage: ioV2(d), PSI: d.pressure("io.pressure")},
		Rdma:   &stats.RdmaStat{Current: rdmaV2(d, "rdma.current"), Limit: rdmaV2(d, "rdma.max")},
	}
	fill(m.CPU, d.table("cpu.stat"))
	m.CPU.PSI = d.pressure("cpu.pressure")
	fill(m.Memory, d.table("memory.stat"))
	m.Memory.Usage = d.number("memory.current")
	m.Memory.UsageLimit = d.number("memory.max")
	m.Memory.MaxUsage = d.number("memory.peak")
	m.Memory.SwapUsage = d.number("memory.swap.current")
	m.Memory.SwapLimit = d.number("memory.swap.max")
	m.Memory.SwapMaxUsage = d.number("memory.swap.peak")
	m.Memory.PSI = d.pressure("memory.pressure")
	if events := d.table("memory.events"); len(events) > 0 {
		m.MemoryEvents = new(stats.MemoryEvents)
		fill(m.MemoryEvents, events)
	}
	for _, size := range d.pageSizes("max") {
		prefix := "hugetlb." + size
		m.Hugetlb = append(m.Hugetlb, &stats.HugeTlbStat{
			Pagesize: size,
			Current:  d.number(prefix + ".current"),
			Max:      d.number(prefix + ".max"),
			Failcnt:  d.table(prefix + ".events")["max"],
		})
	}
	return m
}

func ioV2(d dir) (entries []*stats.IOEntry) {
	for _, fields := range d.lines("io.stat") {
		major, minor, ok := device(fields[0])
		if !ok || len(fields) < 2 {
			continue
		}
		e := &stats.IOEntry{Major: major, Minor: minor}
		fill(e, pairs(fields[1:]))
		entries = append(entries, e)
	}
	return entries
}

func rdmaV2(d dir, file string) (entries []*stats.RdmaEntry) {
	for _, fields := range d.lines(file) {
		t := pairs(fields[1:])
		entries = append(entries, &stats.RdmaEntry{Device: fields[0], HcaHandles: uint32(t["hca_handle"]), HcaObjects: uint32(t["hca_object"])})
	}
	return entries
}

// pressure reads a file of pressure stall information; nil if the kernel keeps none.
func (d dir) pressure(file string) *stats.PSIStats {
	var m *stats.PSIStats
	for _, fields := range d.lines(file) {
		p := new(stats.PSIData)
		for _, field := range fields[1:] {
			name, value, _ := strings.Cut(field, "=")
			average, _ := strconv.ParseFloat(value, 64)
			switch name {
			case "avg10":
				p.Avg10 = average
			case "avg60":
				p.Avg60 = average
			case "avg300":
				p.Avg300 = average
			case "total":
				p.Total = figure(value)
			}
		}
		if m == nil {
			m = new(stats.PSIStats)
		}
		switch fields[0] {
		case "some":
			m.Some = p
		case "full":
			m.Full = p
		}
	}
	return m
}
