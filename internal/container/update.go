package container

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/shimwright/shimwright/task"
)

// Update sets other limits, as `runc update` does, and annotations: what r leaves out stays as it is. If it fails, all
// limits are as before.
//
// ErrInvalidArgument: the kernel cannot have such limits. ErrFailedPrecondition: not now, the container uses more.
func (t *Task) Update(_ context.Context, r *task.UpdateRequest) error {
	if r.Resources == nil && len(r.Annotations) == 0 {
		return nil
	}
	if err := t.update(r); err != nil {
		return fmt.Errorf("OCI runtime update failed: %w", err)
	}
	return nil
}

func (t *Task) update(r *task.UpdateRequest) error {
	c, err := load(t.states, t.id)
	if err != nil {
		return err
	}
	config := c.Config()
	if config.Labels, err = annotate(config.Labels, r.Annotations); err != nil {
		return err
	}
	old := config.Cgroups
	// Device rules are no part of an update, and others may have added to them. Set also applies the old resources, if
	// the new ones fail.
	old.SkipDevices = true
	group, resources := *old, *old.Resources
	by := r.Resources
	if by == nil {
		by = new(specs.LinuxResources)
	}
	merge(&resources, by)
	if err := checkMemory(&resources); err != nil {
		return err
	}
	if ignored := ignored(by); len(ignored) > 0 {
		t.engine.log.Warn("an update cannot change these", "id", t.id, "ignored", ignored)
	}
	group.Resources = &resources
	config.Cgroups = &group
	before := t.Group.Limits()
	err = guard(func() error { return c.Set(config) })
	if err != nil {
		before.Restore()
	}
	return refusal(err)
}

// annotate changes the annotations among labels, which hold the bundle's path as well.
func annotate(labels []string, by map[string]string) ([]string, error) {
	labels = slices.Clone(labels)
	for _, key := range slices.Sorted(maps.Keys(by)) {
		if key == "bundle" || key == "" || strings.Contains(key, "=") {
			return nil, fmt.Errorf("annotation %q: the name cannot be used: %w", key, errdefs.ErrInvalidArgument)
		}
		labels = slices.DeleteFunc(labels, func(l string) bool { return strings.HasPrefix(l, key+"=") })
		labels = append(labels, key+"="+by[key])
	}
	return labels, nil
}

// checkMemory refuses what the kernel would, in words that help.
func checkMemory(r *cgroups.Resources) error {
	if r.MemorySwap > 0 && r.Memory > r.MemorySwap {
		return fmt.Errorf("memory limit %d is above the limit of memory and swap together, %d: set both: %w", r.Memory, r.MemorySwap, errdefs.ErrInvalidArgument)
	}
	return nil
}

// ignored are the names of what is in r and not honoured, by runc neither.
func ignored(r *specs.LinuxResources) (names []string) {
	if len(r.Devices) > 0 {
		names = append(names, "devices")
	}
	if r.Network != nil {
		names = append(names, "network")
	}
	if m := r.Memory; m != nil && (m.Kernel != nil || m.KernelTCP != nil) { //nolint:staticcheck // kernels have none; old clients may send it
		names = append(names, "kernel memory")
	}
	return names
}

// refusal gives the kernel's and libcontainer's refusals their class.
func refusal(err error) error {
	for _, cause := range []error{unix.EINVAL, unix.ERANGE, unix.ENODEV, unix.EDOM, cgroups.ErrV1NoUnified} {
		if errors.Is(err, cause) {
			return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	}
	return classify(err)
}

// merge changes to, which shares its slices with the resources in force, by what r says.
func merge(to *cgroups.Resources, r *specs.LinuxResources) {
	if r.Memory != nil {
		mergeMemory(to, r.Memory)
	}
	cpu := r.CPU
	if cpu == nil {
		cpu = new(specs.LinuxCPU)
	}
	mergeCPU(to, cpu)
	if r.BlockIO != nil {
		mergeBlockIO(to, r.BlockIO)
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		to.PidsLimit = r.Pids.Limit
	}
	mergeRest(to, r)
	to.Unified = r.Unified // once: set again they would undo a later update
}

func mergeMemory(to *cgroups.Resources, m *specs.LinuxMemory) {
	set(&to.Memory, m.Limit)
	set(&to.MemoryReservation, m.Reservation)
	set(&to.MemorySwap, m.Swap)
	set(&to.MemoryCheckBeforeUpdate, m.CheckBeforeUpdate)
	if m.Limit != nil && *m.Limit == -1 && m.Swap == nil {
		to.MemorySwap = 0 // there is no swap limit without a memory limit
	}
}

func mergeCPU(to *cgroups.Resources, c *specs.LinuxCPU) {
	// Quota and period go together in v2, where one alone would reset the other. 0 says nothing.
	setIf(&to.CpuPeriod, c.Period)
	setIf(&to.CpuQuota, c.Quota)
	if c.Burst != nil {
		to.CpuBurst = c.Burst
	}
	if c.Idle != nil {
		to.CPUIdle = c.Idle
	}
	shares := c.Shares
	if c.Idle != nil && shares == nil {
		shares = new(uint64) // an idle group has no weight
	}
	if shares != nil {
		to.CpuShares = *shares
		to.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(*shares)
	}
	set(&to.CpuRtPeriod, c.RealtimePeriod)
	set(&to.CpuRtRuntime, c.RealtimeRuntime)
	// Empty: unchanged. What was set before may be refused now, if a CPU has been taken away since.
	to.CpusetCpus = c.Cpus
	to.CpusetMems = c.Mems
}

func mergeBlockIO(to *cgroups.Resources, b *specs.LinuxBlockIO) {
	set(&to.BlkioWeight, b.Weight)
	set(&to.BlkioLeafWeight, b.LeafWeight)
	to.BlkioWeightDevice = slices.Clone(to.BlkioWeightDevice)
	for _, d := range b.WeightDevice {
		var weight, leaf uint16
		same := func(o *cgroups.WeightDevice) bool { return o.Major == d.Major && o.Minor == d.Minor }
		if i := slices.IndexFunc(to.BlkioWeightDevice, same); i >= 0 {
			weight, leaf = to.BlkioWeightDevice[i].Weight, to.BlkioWeightDevice[i].LeafWeight
			to.BlkioWeightDevice = slices.DeleteFunc(to.BlkioWeightDevice, same)
		}
		set(&weight, d.Weight)
		set(&leaf, d.LeafWeight)
		to.BlkioWeightDevice = append(to.BlkioWeightDevice, cgroups.NewWeightDevice(d.Major, d.Minor, weight, leaf))
	}
	throttle(&to.BlkioThrottleReadBpsDevice, b.ThrottleReadBpsDevice)
	throttle(&to.BlkioThrottleWriteBpsDevice, b.ThrottleWriteBpsDevice)
	throttle(&to.BlkioThrottleReadIOPSDevice, b.ThrottleReadIOPSDevice)
	throttle(&to.BlkioThrottleWriteIOPSDevice, b.ThrottleWriteIOPSDevice)
}

// mergeRest merges limits that runc's command does not know, and would drop without a word.
func mergeRest(to *cgroups.Resources, r *specs.LinuxResources) {
	to.HugetlbLimit = slices.Clone(to.HugetlbLimit)
	for _, l := range r.HugepageLimits {
		to.HugetlbLimit = slices.DeleteFunc(to.HugetlbLimit, func(o *cgroups.HugepageLimit) bool { return o.Pagesize == l.Pagesize })
		to.HugetlbLimit = append(to.HugetlbLimit, &cgroups.HugepageLimit{Pagesize: l.Pagesize, Limit: l.Limit})
	}
	to.Rdma = maps.Clone(to.Rdma)
	for device, l := range r.Rdma {
		if to.Rdma == nil {
			to.Rdma = make(map[string]cgroups.LinuxRdma)
		}
		to.Rdma[device] = cgroups.LinuxRdma(l)
	}
}

// throttle replaces the rates of the devices in by, or adds them.
func throttle(to *[]*cgroups.ThrottleDevice, by []specs.LinuxThrottleDevice) {
	*to = slices.Clone(*to)
	for _, d := range by {
		*to = slices.DeleteFunc(*to, func(o *cgroups.ThrottleDevice) bool { return o.Major == d.Major && o.Minor == d.Minor })
		*to = append(*to, cgroups.NewThrottleDevice(d.Major, d.Minor, d.Rate))
	}
}

// set sets to if there is something to set it to.
func set[T any](to, by *T) {
	if by != nil {
		*to = *by
	}
}

// setIf is set where 0 says nothing.
func setIf[T int64 | uint64](to, by *T) {
	if by != nil && *by != 0 {
		*to = *by
	}
}
