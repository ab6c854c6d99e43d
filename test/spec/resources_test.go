package spec_test

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/shimwright/shimwright/manager"
)

// update changes the limits of a container.
func (e *env) update(c *container, r *specs.LinuxResources) {
	e.Helper()
	if err := c.update(e, r); err != nil {
		e.Errorf("update %+v: %v", r, err)
	}
}

func (c *container) update(e *env, r *specs.LinuxResources) error {
	packed, err := manager.Pack(r)
	e.must(err)
	_, err = c.Task().Update(e.Context(), &taskapi.UpdateTaskRequest{ID: c.ID(), Resources: packed})
	return err
}

// cgroupFile reads a file of the container's cgroup: "memory.limit_in_bytes", "memory.max".
func cgroupFile(e *env, c *container, name string) string {
	e.Helper()
	for _, dir := range cgroups(c.spec) {
		if data, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
			return strings.TrimSpace(string(data))
		}
	}
	return "missing"
}

// files looks for contents of the container's cgroup's files: name and value, in turns. A value that ends in … is the
// beginning of what there is.
func files(pairs ...string) func(*env, *container) {
	return func(e *env, c *container) {
		e.Helper()
		for i := 0; i < len(pairs); i += 2 {
			got, want := cgroupFile(e, c, pairs[i]), pairs[i+1]
			if prefix, open := strings.CutSuffix(want, "…"); got != want && !(open && strings.HasPrefix(got, prefix)) {
				e.Errorf("%s is %q, want %q", pairs[i], got, want)
			}
		}
	}
}

// resources sets limits and keeps the device rules.
func resources(r specs.LinuxResources) func(*env, *specs.Spec) {
	return func(_ *env, s *specs.Spec) {
		r := r
		r.Devices = s.Linux.Resources.Devices
		s.Linux.Resources = &r
	}
}

// disk is the number of some block device of the machine; -1: it has none.
func disk() (major, minor int64) {
	numbers, _ := filepath.Glob("/sys/block/*/dev")
	for _, path := range numbers {
		if name := filepath.Base(filepath.Dir(path)); strings.HasPrefix(name, "loop") || strings.HasPrefix(name, "zram") {
			continue // which have no queue as long as they are not in use
		}
		data, err := os.ReadFile(path)
		if n, _ := fmt.Sscanf(string(data), "%d:%d", &major, &minor); err == nil && n == 2 {
			return major, minor
		}
	}
	return -1, -1
}

// hasDisk is a condition: the machine has a block device that can be throttled.
func hasDisk() bool {
	_, minor := disk()
	return minor >= 0
}

// realTime is there if cgroups limit real time, of which they have none at first.
const realTime = "/sys/fs/cgroup/cpu/cpu.rt_runtime_us"

func throttle(rate uint64) []specs.LinuxThrottleDevice {
	d := specs.LinuxThrottleDevice{Rate: rate}
	d.Major, d.Minor = disk()
	return []specs.LinuxThrottleDevice{d}
}

func resourceCases() []testCase {
	const mega = 1 << 20
	major, minor := disk()
	device := fmt.Sprintf("%d:%d", major, minor)
	has := func(controller string) func() bool {
		return func() bool {
			data, _ := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
			return strings.Contains(" "+string(data)+" ", controller) || exists("/sys/fs/cgroup/"+controller)()
		}
	}
	hasNo := func(controller string) func() bool { return func() bool { return !has(controller)() } }
	memory := specs.LinuxMemory{
		Limit: new(int64(64 * mega)), Reservation: new(int64(32 * mega)), Swap: new(int64(96 * mega)),
	}
	cpu := specs.LinuxCPU{
		Shares: new(uint64(512)), Quota: new(int64(40_000)), Period: new(uint64(80_000)), Burst: new(uint64(10_000)),
	}
	io := specs.LinuxBlockIO{
		ThrottleReadBpsDevice: throttle(1000), ThrottleWriteBpsDevice: throttle(2000),
		ThrottleReadIOPSDevice: throttle(30), ThrottleWriteIOPSDevice: throttle(40),
	}
	memoryFields := []string{"linux.resources.memory.limit", "linux.resources.memory.reservation", "linux.resources.memory.swap"}
	cpuFields := []string{"linux.resources.cpu.shares", "linux.resources.cpu.quota", "linux.resources.cpu.period", "linux.resources.cpu.burst"}
	ioFields := []string{
		"linux.resources.blockIO.throttleReadBpsDevice", "linux.resources.blockIO.throttleWriteBpsDevice",
		"linux.resources.blockIO.throttleReadIOPSDevice", "linux.resources.blockIO.throttleWriteIOPSDevice",
	}
	return []testCase{{
		name: "memory", on: onV1, fields: memoryFields,
		set:   resources(specs.LinuxResources{Memory: &memory}),
		check: files("memory.limit_in_bytes", "67108864", "memory.soft_limit_in_bytes", "33554432", "memory.memsw.limit_in_bytes", "100663296"),
	}, {
		name: "memory", on: onV2, fields: memoryFields,
		set:   resources(specs.LinuxResources{Memory: &memory}),
		check: files("memory.max", "67108864", "memory.low", "33554432", "memory.swap.max", "33554432"),
	}, {
		name: "swappiness and the OOM killer", on: onV1,
		fields: []string{"linux.resources.memory.swappiness", "linux.resources.memory.disableOOMKiller"},
		set:    resources(specs.LinuxResources{Memory: &specs.LinuxMemory{Swappiness: new(uint64(20)), DisableOOMKiller: new(true)}}),
		check:  files("memory.swappiness", "20", "memory.oom_control", "oom_kill_disable 1…"),
	}, {
		name: "memory hierarchy", on: onV1,
		fields: []string{"linux.resources.memory.useHierarchy"},
		set:    resources(specs.LinuxResources{Memory: &specs.LinuxMemory{UseHierarchy: new(true)}}),
		check:  files("memory.use_hierarchy", "1"), // of old kernels; today there is no other way
	}, {
		name:   "kernel memory is left alone, and that is logged",
		fields: []string{"linux.resources.memory.kernel", "linux.resources.memory.kernelTCP"},
		set: resources(specs.LinuxResources{Memory: &specs.LinuxMemory{
			Kernel: new(int64(64 * mega)), KernelTCP: new(int64(64 * mega)), //nolint:staticcheck // deprecated, and in use
		}}),
		script: "true", log: "Kernel memory settings are ignored", by: inProcess,
	}, {
		name:   "a memory limit below what is in use",
		fields: []string{"linux.resources.memory.checkBeforeUpdate"},
		set: resources(specs.LinuxResources{Memory: &specs.LinuxMemory{
			Limit: new(int64(64 * mega)), CheckBeforeUpdate: new(true),
		}}),
		check: func(e *env, c *container) {
			c.sh(e.T, "dd if=/dev/zero of=/run/file bs=1M count=8 2>/dev/null")
			// v2 without the check would make the OOM killer's choice.
			err := c.update(e, &specs.LinuxResources{Memory: &specs.LinuxMemory{
				Limit: new(int64(4 * mega)), CheckBeforeUpdate: new(true), // runc forgets what create said
			}})
			if err == nil || !strings.Contains(err.Error(), "memory limit") {
				e.Errorf("update: %v", err)
			}
			c.sh(e.T, "true")
		},
	}, {
		name: "CPU time", on: onV1, fields: cpuFields,
		set:   resources(specs.LinuxResources{CPU: &cpu}),
		check: files("cpu.shares", "512", "cpu.cfs_quota_us", "40000", "cpu.cfs_period_us", "80000", "cpu.cfs_burst_us", "10000"),
	}, {
		name: "CPU time", on: onV2, fields: cpuFields,
		set:   resources(specs.LinuxResources{CPU: &cpu}),
		check: files("cpu.weight", "59…", "cpu.max", "40000 80000", "cpu.max.burst", "10000"),
	}, {
		name:   "idle CPU time",
		fields: []string{"linux.resources.cpu.idle"},
		set:    resources(specs.LinuxResources{CPU: &specs.LinuxCPU{Idle: new(int64(1))}}),
		check:  files("cpu.idle", "1"), only: func() bool { return !unified() || exists("/sys/fs/cgroup/cpu.idle")() },
	}, {
		name: "CPU real time", only: exists(realTime),
		fields: []string{"linux.resources.cpu.realtimeRuntime", "linux.resources.cpu.realtimePeriod"},
		set: resources(specs.LinuxResources{CPU: &specs.LinuxCPU{
			RealtimeRuntime: new(int64(1000)), RealtimePeriod: new(uint64(500_000)),
		}}),
		check: files("cpu.rt_runtime_us", "1000", "cpu.rt_period_us", "500000"),
	}, {
		name: "CPUs and memory nodes", only: has("cpuset"),
		fields: []string{"linux.resources.cpu.cpus", "linux.resources.cpu.mems"},
		set:    resources(specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0", Mems: "0"}}),
		check: func(e *env, c *container) {
			files("cpuset.cpus", "0", "cpuset.mems", "0")(e, c)
			e.equal(c.sh(e.T, "grep Cpus_allowed_list /proc/self/status"), "Cpus_allowed_list:\t0\n")
		},
	}, {
		name: "CPUs that are missing", only: has("cpuset"),
		set:         resources(specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "999"}}),
		createFails: "cpuset",
	}, {
		name:   "processes",
		fields: []string{"linux.resources.pids.limit"},
		set:    resources(specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64(30))}}),
		check:  files("pids.max", "30"),
	}, {
		name:  "processes without a limit",
		set:   resources(specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64(-1))}}),
		check: files("pids.max", "max"),
	}, {
		name: "I/O rates", on: onV1, only: hasDisk, fields: ioFields,
		set: resources(specs.LinuxResources{BlockIO: &io}),
		check: files("blkio.throttle.read_bps_device", device+" 1000", "blkio.throttle.write_bps_device", device+" 2000",
			"blkio.throttle.read_iops_device", device+" 30", "blkio.throttle.write_iops_device", device+" 40"),
	}, {
		name: "I/O rates", on: onV2, only: hasDisk, fields: ioFields,
		set:   resources(specs.LinuxResources{BlockIO: &io}),
		check: files("io.max", device+" rbps=1000 wbps=2000 riops=30 wiops=40"),
	}, {
		name: "I/O weight", on: onV1, only: exists("/sys/fs/cgroup/blkio/blkio.bfq.io_serviced"),
		fields: []string{"linux.resources.blockIO.weight"},
		set:    resources(specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{Weight: new(uint16(300))}}),
		check:  files("blkio.bfq.weight", "300"),
	}, {
		name: "what only cgroup v1 has is passed over, and that is logged", on: onV2, by: inProcess,
		fields: []string{"linux.resources.blockIO.leafWeight"},
		set:    resources(specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{LeafWeight: new(uint16(300))}}),
		script: "true", log: "linux.resources.blockIO.leafWeight",
	}, {
		name: "huge pages without the controller", only: hasNo("hugetlb"),
		fields:      []string{"linux.resources.hugepageLimits"},
		set:         resources(specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 * mega}}}),
		createFails: "hugetlb",
	}, {
		name: "network class and priorities without the controllers", only: hasNo("net_cls"), on: onV1,
		fields:      []string{"linux.resources.network.classID"},
		set:         resources(specs.LinuxResources{Network: &specs.LinuxNetwork{ClassID: new(uint32(7))}}),
		createFails: "net_cls",
	}, {
		name: "network priorities without the controller", only: hasNo("net_prio"), on: onV1,
		fields:      []string{"linux.resources.network.priorities"},
		set:         resources(specs.LinuxResources{Network: &specs.LinuxNetwork{Priorities: []specs.LinuxInterfacePriority{{Name: "lo", Priority: 7}}}}),
		createFails: "net_prio",
	}, {
		name: "RDMA without the controller", only: hasNo("rdma"),
		fields:      []string{"linux.resources.rdma"},
		set:         resources(specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"mlx5_0": {HcaHandles: new(uint32(3)), HcaObjects: new(uint32(4))}}}),
		createFails: "rdma",
	}, {
		name: "files of cgroup v2", on: onV2,
		fields: []string{"linux.resources.unified"},
		set:    resources(specs.LinuxResources{Unified: map[string]string{"memory.high": "50331648", "pids.max": "40"}}),
		check:  files("memory.high", "50331648", "pids.max", "40"),
	}, {
		name: "files of cgroup v2 that are missing", on: onV2,
		set:         resources(specs.LinuxResources{Unified: map[string]string{"magic.max": "1"}}),
		createFails: `controller "magic" not available`,
	}, {
		name: "files of cgroup v2 without it", on: onV1,
		set:         resources(specs.LinuxResources{Unified: map[string]string{"memory.high": "50331648"}}),
		createFails: "unified", class: errdefs.IsInvalidArgument,
	}, {
		name:   "cgroup path",
		fields: []string{"linux.cgroupsPath"},
		set:    func(_ *env, s *specs.Spec) { s.Linux.CgroupsPath = "/shimwright-spec-" + rand.Text() },
		check: func(e *env, c *container) {
			data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.pid))
			e.must(err)
			if !strings.Contains(string(data), ":"+c.spec.Linux.CgroupsPath+"\n") {
				e.Errorf("cgroups %q", data)
			}
		},
	}, {
		name: "cgroup path that climbs stays inside",
		set:  func(_ *env, s *specs.Spec) { s.Linux.CgroupsPath = "/../../shimwright-spec-" + rand.Text() },
		check: func(e *env, c *container) {
			path := filepath.Clean(c.spec.Linux.CgroupsPath)
			data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.pid))
			e.must(err)
			if !strings.Contains(string(data), ":"+path+"\n") {
				e.Errorf("cgroups %q", data)
			}
		},
	}, {
		name: "systemd's cgroup without systemd", only: lacks("/run/systemd/system"),
		set:         func(_ *env, s *specs.Spec) { s.Linux.CgroupsPath = "system.slice:test:1" },
		options:     func(o *runcoptions.Options) { o.SystemdCgroup = true },
		createFails: "systemd",
	}, {
		name: "systemd's cgroup of another form", only: lacks("/run/systemd/system"),
		options:     func(o *runcoptions.Options) { o.SystemdCgroup = true },
		createFails: "slice:prefix:name", class: errdefs.IsInvalidArgument,
	}}
}
