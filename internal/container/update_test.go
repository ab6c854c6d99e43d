package container_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/shimwright/shimwright/internal/enginetest"
	"github.com/shimwright/shimwright/internal/testkit"
	"github.com/shimwright/shimwright/task"
)

// limitsOf reads limits of a container's cgroup: files by name, which begin with their controller's.
func limitsOf(t *testing.T, spec *specs.Spec, files ...string) map[string]string {
	t.Helper()
	limits := make(map[string]string)
	for _, file := range files {
		dir := "/sys/fs/cgroup"
		if !enginetest.Unified() {
			controller, _, _ := strings.Cut(file, ".")
			dir = filepath.Join(dir, controller)
		}
		data, err := os.ReadFile(filepath.Join(dir, spec.Linux.CgroupsPath, file))
		if err != nil {
			t.Error(err)
		}
		limits[file] = strings.TrimSpace(string(data))
	}
	return limits
}

// disk is a block device, and how cgroup files call it.
func disk(t *testing.T) (major, minor int64, name string) {
	t.Helper()
	disks, _ := filepath.Glob("/sys/block/*/dev")
	for _, path := range disks {
		data, err := os.ReadFile(path)
		if n, _ := fmt.Sscanf(string(data), "%d:%d", &major, &minor); err == nil && n == 2 {
			return major, minor, strings.TrimSpace(string(data))
		}
	}
	testkit.Missing(t, "needs a block device")
	return 0, 0, ""
}

// Each step updates the same container, and the files of the steps before keep what they said.
func TestUpdate(t *testing.T) {
	h := newHost(t)
	r, _ := h.Request("c", testkit.Spec(h.Rootfs, "sleep", "1000"))
	r.Spec.Linux.Resources.CPU = &specs.LinuxCPU{Quota: new(int64(50000)), Period: new(uint64(50000))}
	r.Spec.Annotations = map[string]string{"kept": "1", "changed": "1"}
	c := h.Must(r)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	major, minor, device := disk(t)
	rate := func(n uint64) []specs.LinuxThrottleDevice {
		d := specs.LinuxThrottleDevice{Rate: n}
		d.Major, d.Minor = major, minor
		return []specs.LinuxThrottleDevice{d}
	}
	type files = map[string]string
	steps := []struct {
		name   string
		by     *specs.LinuxResources
		v1, v2 files
	}{
		{
			"memory", &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(64 << 20)), Swap: new(int64(96 << 20)), Reservation: new(int64(32 << 20))}},
			files{"memory.limit_in_bytes": "67108864", "memory.memsw.limit_in_bytes": "100663296", "memory.soft_limit_in_bytes": "33554432"},
			files{"memory.max": "67108864", "memory.swap.max": "33554432", "memory.low": "33554432"},
		},
		{
			"quota", &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: new(int64(40000))}}, // the period stays, after an update that says nothing of it too
			files{"cpu.cfs_quota_us": "40000", "cpu.cfs_period_us": "50000"},
			files{"cpu.max": "40000 50000"},
		},
		{
			"period, burst", &specs.LinuxResources{CPU: &specs.LinuxCPU{Period: new(uint64(80000)), Burst: new(uint64(10000))}},
			files{"cpu.cfs_quota_us": "40000", "cpu.cfs_period_us": "80000", "cpu.cfs_burst_us": "10000"},
			files{"cpu.max": "40000 80000", "cpu.max.burst": "10000"},
		},
		{
			"shares", &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: new(uint64(512))}},
			files{"cpu.shares": "512"},
			files{"cpu.weight": "59"},
		},
		{
			"more memory", &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(128 << 20)), Swap: new(int64(128 << 20)), CheckBeforeUpdate: new(true)}},
			files{"memory.limit_in_bytes": "134217728", "memory.memsw.limit_in_bytes": "134217728"},
			files{"memory.max": "134217728", "memory.swap.max": "0"},
		},
		{
			"pids", &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64(33))}},
			files{"pids.max": "33"},
			files{"pids.max": "33"},
		},
		{
			"rates", &specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{
				ThrottleReadBpsDevice: rate(1000), ThrottleWriteBpsDevice: rate(2000), ThrottleReadIOPSDevice: rate(30), ThrottleWriteIOPSDevice: rate(40),
			}},
			files{
				"blkio.throttle.read_bps_device": device + " 1000", "blkio.throttle.write_bps_device": device + " 2000",
				"blkio.throttle.read_iops_device": device + " 30", "blkio.throttle.write_iops_device": device + " 40",
			},
			files{"io.max": device + " rbps=1000 wbps=2000 riops=30 wiops=40"},
		},
		{
			"one rate", &specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{ThrottleReadBpsDevice: rate(5000)}},
			files{"blkio.throttle.read_bps_device": device + " 5000"},
			files{"io.max": device + " rbps=5000 wbps=2000 riops=30 wiops=40"},
		},
		{
			"idle", &specs.LinuxResources{CPU: &specs.LinuxCPU{Idle: new(int64(1))}},
			files{"cpu.idle": "1", "cpu.shares": "3"},
			files{"cpu.idle": "1", "cpu.weight": "0"},
		},
		{
			"not idle", &specs.LinuxResources{CPU: &specs.LinuxCPU{Idle: new(int64(0))}},
			files{"cpu.idle": "0", "cpu.shares": "1024"},
			files{"cpu.idle": "0", "cpu.weight": "100"},
		},
		{
			"no limits", &specs.LinuxResources{
				Memory: &specs.LinuxMemory{Limit: new(int64(-1))}, Pids: &specs.LinuxPids{Limit: new(int64(-1))}, CPU: &specs.LinuxCPU{Quota: new(int64(-1)), Burst: new(uint64(0))},
			},
			files{"memory.limit_in_bytes": "9223372036854771712", "memory.memsw.limit_in_bytes": "9223372036854771712", "pids.max": "max", "cpu.cfs_quota_us": "-1", "cpu.cfs_burst_us": "0"},
			files{"memory.max": "max", "memory.swap.max": "max", "pids.max": "max", "cpu.max": "max 80000", "cpu.max.burst": "0"},
		},
	}
	if enginetest.Unified() {
		steps = append(steps, struct {
			name   string
			by     *specs.LinuxResources
			v1, v2 files
		}{name: "unified", by: &specs.LinuxResources{Unified: files{"memory.high": "1048576", "memory.oom.group": "1"}}, v2: files{"memory.high": "1048576", "memory.oom.group": "1"}})
	} else {
		steps = append(steps, struct {
			name   string
			by     *specs.LinuxResources
			v1, v2 files
		}{name: "cpuset", by: &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0", Mems: "0"}}, v1: files{"cpuset.cpus": "0", "cpuset.mems": "0"}})
	}
	want := files{}
	for _, step := range steps {
		if err := c.(task.Updater).Update(t.Context(), &task.UpdateRequest{Resources: step.by}); err != nil {
			t.Errorf("%s: %v", step.name, err)
			continue
		}
		if enginetest.Unified() {
			maps.Copy(want, step.v2)
		} else {
			maps.Copy(want, step.v1)
		}
		if diff := cmp.Diff(want, limitsOf(t, r.Spec, slices.Collect(maps.Keys(want))...)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.name, diff)
		}
	}

	if err := c.(task.Updater).Update(t.Context(), &task.UpdateRequest{Annotations: files{"changed": "2", "new": "a=b"}}); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(want, limitsOf(t, r.Spec, slices.Collect(maps.Keys(want))...)); diff != "" {
		t.Errorf("annotations change limits:\n%s", diff)
	}
	var state struct {
		Config struct {
			Labels  []string `json:"labels"`
			Cgroups struct {
				Memory int64  `json:"memory"`
				Period uint64 `json:"cpu_period"`
				Quota  int64  `json:"cpu_quota"`
				Pids   int64  `json:"pids_limit"`
			} `json:"cgroups"`
		} `json:"config"`
	}
	data, err := os.ReadFile(filepath.Join(h.State("c"), "state.json"))
	if err == nil {
		err = json.Unmarshal(data, &state)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, label := range []string{"kept=1", "changed=2", "new=a=b", "bundle=" + r.Bundle} {
		if !slices.Contains(state.Config.Labels, label) {
			t.Errorf("labels %q lack %q", state.Config.Labels, label)
		}
	}
	if g := state.Config.Cgroups; g.Memory != -1 || g.Period != 80000 || g.Quota != -1 || g.Pids != -1 {
		t.Errorf("state.json: %+v", g)
	}
	p := h.Exec(c, "sh", "-c", "exit 4")
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	enginetest.ExitsWith(t, p, 4)
}

// An update that is refused, at whatever step, leaves each limit as it was.
func TestRefusedUpdateChangesNothing(t *testing.T) {
	h := newHost(t)
	c, r := h.Created("c", "sleep", "1000")
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	major, minor, _ := disk(t)
	everything := func() *specs.LinuxResources {
		d := specs.LinuxThrottleDevice{Rate: 1000}
		d.Major, d.Minor = major, minor
		return &specs.LinuxResources{
			Memory:  &specs.LinuxMemory{Limit: new(int64(64 << 20)), Swap: new(int64(96 << 20)), Reservation: new(int64(32 << 20))},
			CPU:     &specs.LinuxCPU{Shares: new(uint64(512)), Quota: new(int64(40000)), Period: new(uint64(80000))},
			Pids:    &specs.LinuxPids{Limit: new(int64(33))},
			BlockIO: &specs.LinuxBlockIO{ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{d}},
		}
	}
	names := []string{
		"memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.soft_limit_in_bytes", "cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us", "pids.max",
		"blkio.throttle.read_bps_device",
	}
	if enginetest.Unified() {
		names = []string{"memory.max", "memory.swap.max", "memory.low", "cpu.weight", "cpu.max", "pids.max", "io.max"}
	}
	for name, test := range map[string]struct {
		spoil func(r *task.UpdateRequest)
		class func(error) bool
	}{
		"period":       {func(r *task.UpdateRequest) { r.Resources.CPU.Period = new(uint64(1)) }, errdefs.IsInvalidArgument},
		"cpus":         {func(r *task.UpdateRequest) { r.Resources.CPU.Cpus = "9999" }, nil},
		"swap":         {func(r *task.UpdateRequest) { r.Resources.Memory.Swap = new(int64(1 << 20)) }, errdefs.IsInvalidArgument},
		"device":       {func(r *task.UpdateRequest) { r.Resources.BlockIO.ThrottleReadBpsDevice[0].Major = 4095 }, errdefs.IsInvalidArgument},
		"unified":      {func(r *task.UpdateRequest) { r.Resources.Unified = map[string]string{"memory.max": "fun"} }, errdefs.IsInvalidArgument},
		"unified name": {func(r *task.UpdateRequest) { r.Resources.Unified = map[string]string{"../x": "1"} }, nil},
		"annotation":   {func(r *task.UpdateRequest) { r.Annotations = map[string]string{"bundle": "/x"} }, errdefs.IsInvalidArgument},
	} {
		before := limitsOf(t, r.Spec, names...)
		request := &task.UpdateRequest{Resources: everything()}
		test.spoil(request)
		err := c.(task.Updater).Update(t.Context(), request)
		if err == nil {
			t.Errorf("%s: the update succeeded", name)
		}
		if test.class != nil && !test.class(err) {
			t.Errorf("%s: class of %v", name, err)
		}
		if diff := cmp.Diff(before, limitsOf(t, r.Spec, names...)); diff != "" {
			t.Errorf("%s: a refused update (-before +after):\n%s", name, diff)
		}
	}
	if err := c.(task.Updater).Update(t.Context(), &task.UpdateRequest{Resources: everything()}); err != nil {
		t.Errorf("after refused updates: %v", err)
	}
}

func TestUpdateOfAStoppedContainer(t *testing.T) {
	h := newHost(t)
	c := h.Running("c", "true")
	enginetest.ExitsWith(t, c, 0)
	err := c.(task.Updater).Update(t.Context(), &task.UpdateRequest{Resources: &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64(3))}}})
	if !errdefs.IsFailedPrecondition(err) {
		t.Errorf("update: %v", err)
	}
}
