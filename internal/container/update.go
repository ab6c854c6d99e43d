package container

import (
	"context"
	"fmt"
	"slices"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/shimwright/shimwright/task"
)

// Update sets other limits, as `runc update` does: what r leaves out stays as it is.
func (t *Task) Update(_ context.Context, r *task.UpdateRequest) error {
	if r.Resources == nil {
		return nil
	}
	if err := t.update(r.Resources); err != nil {
		return fmt.Errorf("OCI runtime update failed: %w", err)
	}
	return nil
}

func (t *Task) update(r *specs.LinuxResources) error {
	c, err := load(t.states, t.id)
	if err != nil {
		return err
	}
	config := c.Config()
	old := config.Cgroups
	// Device rules are no part of an update, and others may have added to them. Set also applies the old resources, if
	// the new ones fail.
	old.SkipDevices = true
	group, resources := *old, *old.Resources
	merge(&resources, r)
	group.Resources = &resources
	config.Cgroups = &group
	return classify(guard(func() error { return c.Set(config) }))
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
	to.PidsLimit = nil // unchanged
	if r.Pids != nil {
		to.PidsLimit = r.Pids.Limit
	}
	to.Unified = r.Unified
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
	// Quota and period go together: if one alone is given, the other stays; if neither is, both are left to the kernel.
	var period uint64
	var quota int64
	set(&period, c.Period)
	set(&quota, c.Quota)
	if period != 0 || quota == 0 {
		to.CpuPeriod = period
	}
	if quota != 0 || period == 0 {
		to.CpuQuota = quota
	}
	to.CpuBurst = c.Burst
	to.CPUIdle = c.Idle
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
	to.CpusetCpus = c.Cpus // empty: unchanged
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
