package container

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Limits whose controllers few machines have.
func TestMerge(t *testing.T) {
	device := func(minor int64, weight, leaf uint16) specs.LinuxWeightDevice {
		d := specs.LinuxWeightDevice{Weight: &weight, LeafWeight: &leaf}
		d.Major, d.Minor = 8, minor
		return d
	}
	half := device(0, 0, 400)
	half.Weight = nil
	old := cgroups.Resources{
		BlkioWeight:       100,
		BlkioWeightDevice: []*cgroups.WeightDevice{cgroups.NewWeightDevice(8, 0, 300, 301)},
		HugetlbLimit:      []*cgroups.HugepageLimit{{Pagesize: "2MB", Limit: 1}, {Pagesize: "1GB", Limit: 2}},
		Rdma:              map[string]cgroups.LinuxRdma{"a": {HcaHandles: new(uint32(1))}},
		PidsLimit:         new(int64(5)),
		Unified:           map[string]string{"memory.high": "1"},
		CpusetCpus:        "0-3",
	}
	got := old
	merge(&got, &specs.LinuxResources{
		BlockIO:        &specs.LinuxBlockIO{Weight: new(uint16(200)), LeafWeight: new(uint16(201)), WeightDevice: []specs.LinuxWeightDevice{half, device(16, 500, 501)}},
		HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 7}},
		Rdma:           map[string]specs.LinuxRdma{"b": {HcaObjects: new(uint32(2))}},
		CPU:            &specs.LinuxCPU{RealtimePeriod: new(uint64(9)), RealtimeRuntime: new(int64(8))},
	})
	want := cgroups.Resources{
		BlkioWeight:       200,
		BlkioLeafWeight:   201,
		BlkioWeightDevice: []*cgroups.WeightDevice{cgroups.NewWeightDevice(8, 0, 300, 400), cgroups.NewWeightDevice(8, 16, 500, 501)},
		HugetlbLimit:      []*cgroups.HugepageLimit{{Pagesize: "1GB", Limit: 2}, {Pagesize: "2MB", Limit: 7}},
		Rdma:              map[string]cgroups.LinuxRdma{"a": {HcaHandles: new(uint32(1))}, "b": {HcaObjects: new(uint32(2))}},
		PidsLimit:         new(int64(5)),
		CpuRtPeriod:       9,
		CpuRtRuntime:      8,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if old.BlkioWeightDevice[0].LeafWeight != 301 || old.HugetlbLimit[0].Limit != 1 || len(old.Rdma) != 1 {
		t.Errorf("the resources in force are changed: %+v", old)
	}
}
