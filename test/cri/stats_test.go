package cri_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimwright/shimwright/internal/testkit"
)

// What the kubelet's summary and its metrics are made of.
func TestStats(t *testing.T) {
	n := newNode(t)
	p := n.pod("measured")
	app := p.shell("app", "trap 'exit 0' TERM; while :; do :; done", func(c *cri.ContainerConfig) { c.Linux.Resources.MemoryLimitInBytes = 64 << 20 })
	p.idle("side")
	check := func(what string, s *cri.ContainerStats, busy bool) {
		t.Helper()
		if s.GetAttributes() == nil || s.Memory.GetUsageBytes().GetValue() == 0 || s.Memory.GetWorkingSetBytes().GetValue() == 0 || s.Cpu.GetUsageCoreNanoSeconds().GetValue() == 0 {
			t.Errorf("%s: %v", what, s)
		}
		if busy && s.Memory.GetAvailableBytes().GetValue() > 64<<20 {
			t.Errorf("%s: %v available of 64 MiB", what, s.Memory.GetAvailableBytes())
		}
	}
	stats := func() *cri.ContainerStats {
		return call(n, n.runtime.ContainerStats, &cri.ContainerStatsRequest{ContainerId: app.id}).Stats
	}
	check("the container", stats(), true)
	before := stats().Cpu.GetUsageCoreNanoSeconds().GetValue()
	testkit.Await(t, patience, "the busy container's CPU time grows", func() bool {
		return stats().Cpu.GetUsageCoreNanoSeconds().GetValue() > before+10e6
	})
	var list []*cri.ContainerStats
	testkit.Await(t, patience, "the busy container's use of CPU", func() bool { // the daemon measures it each second
		list = call(n, n.runtime.ListContainerStats, &cri.ListContainerStatsRequest{}).Stats
		return slices.ContainsFunc(list, func(s *cri.ContainerStats) bool { return s.Cpu.GetUsageNanoCores().GetValue() > 50e6 })
	})
	if len(list) != 2 {
		t.Errorf("stats of %d containers, want 2", len(list))
	}
	for _, s := range list {
		check(s.Attributes.Metadata.Name, s, s.Attributes.Id == app.id)
	}

	pod := call(n, n.runtime.PodSandboxStats, &cri.PodSandboxStatsRequest{PodSandboxId: p.id}).Stats
	if got := pod.Linux.Process.GetProcessCount().GetValue(); got < 3 {
		t.Errorf("the pod has %d processes", got)
	}
	if len(pod.Linux.Containers) != 2 || pod.Linux.Network.GetDefaultInterface().GetName() != "eth0" || pod.Linux.Memory.GetUsageBytes().GetValue() == 0 {
		t.Errorf("the pod's stats are %v", pod)
	}
	if list := call(n, n.runtime.ListPodSandboxStats, &cri.ListPodSandboxStatsRequest{}).Stats; len(list) != 1 || list[0].Attributes.Id != p.id {
		t.Errorf("the list of pods' stats is %v", list)
	}

	described := make(map[string]bool)
	for _, d := range call(n, n.runtime.ListMetricDescriptors, &cri.ListMetricDescriptorsRequest{}).Descriptors {
		described[d.Name] = true
	}
	seen := make(map[string]uint64)
	for _, m := range call(n, n.runtime.ListPodSandboxMetrics, &cri.ListPodSandboxMetricsRequest{}).PodMetrics {
		for _, c := range m.ContainerMetrics {
			for _, metric := range c.Metrics {
				if !described[metric.Name] {
					t.Errorf("the metric %s is not described", metric.Name)
				}
				if c.ContainerId == app.id {
					seen[metric.Name] = metric.GetValue().GetValue()
				}
			}
		}
	}
	for _, name := range []string{"container_memory_usage_bytes", "container_memory_working_set_bytes", "container_processes", "container_spec_memory_limit_bytes"} {
		if seen[name] == 0 {
			t.Errorf("the metric %s is 0 or missing in %v", name, seen)
		}
	}
}

// Limits change in a running container, and it can be entered afterwards.
func TestUpdateContainerResources(t *testing.T) {
	n := newNode(t)
	app := n.pod("updated").idle("app", func(c *cri.ContainerConfig) {
		c.Linux.Resources = &cri.LinuxContainerResources{CpuShares: 256, MemoryLimitInBytes: 64 << 20}
	})
	call(n, n.runtime.UpdateContainerResources, &cri.UpdateContainerResourcesRequest{
		ContainerId: app.id,
		Linux:       &cri.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 30000, CpuShares: 512, MemoryLimitInBytes: 96 << 20, CpusetCpus: "0"},
	})
	v1 := map[string]string{
		"cpu/cpu.cfs_quota_us": "30000", "cpu/cpu.shares": "512", "memory/memory.limit_in_bytes": fmt.Sprint(96 << 20), "cpuset/cpuset.cpus": "0",
	}
	v2 := map[string]string{"cpu.max": "30000 100000", "memory.max": fmt.Sprint(96 << 20), "cpuset.cpus": "0"}
	files := v2
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		files = v1
	}
	for name, want := range files {
		dir, base := "/sys/fs/cgroup", name
		if controller, file, ok := strings.Cut(name, "/"); ok {
			dir, base = dir+"/"+controller, file
		}
		got, err := os.ReadFile(dir + n.cgroup + "/" + app.id + "/" + base)
		if err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("%s is %q, %v; want %q", name, got, err, want)
		}
	}
	r := app.status().Resources.GetLinux()
	if r.GetCpuQuota() != 30000 || r.GetCpuShares() != 512 || r.GetMemoryLimitInBytes() != 96<<20 || r.GetCpusetCpus() != "0" {
		t.Errorf("the status has %v", r)
	}
	if got := app.output("grep Cpus_allowed_list /proc/self/status"); !strings.HasSuffix(got, "\t0") {
		t.Errorf("an exec has %q", got)
	}
}
