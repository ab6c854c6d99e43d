package cgroup

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"github.com/containerd/cgroups/v3/cgroup1"
	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	"github.com/containerd/cgroups/v3/cgroup2"
	v2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
)

// write makes files below a directory of the test's own, which it returns.
func files(t testing.TB, texts map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range texts {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// The figures are those that containerd's managers read from the same files.

func TestStatsV2AsContainerd(t *testing.T) {
	root := files(t, map[string]string{
		"g/pids.current":        "3\n",
		"g/pids.max":            "max\n",
		"g/cpu.stat":            "usage_usec 1234\nuser_usec 1000\nsystem_usec 234\nnice_usec 0\ncore_sched.force_idle_usec 0\nnr_periods 5\nnr_throttled 2\nthrottled_usec 77\nnr_bursts 1\nburst_usec 9\n",
		"g/cpu.pressure":        "some avg10=0.12 avg60=1.50 avg300=99.99 total=123456\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n",
		"g/io.pressure":         "some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n",
		"g/memory.stat":         "anon 1\nfile 2\nkernel 99\nkernel_stack 3\npagetables 98\nsock 4\nshmem 5\nfile_mapped 6\nfile_dirty 7\nfile_writeback 8\nanon_thp 9\ninactive_anon 10\nactive_anon 11\ninactive_file 12\nactive_file 13\nunevictable 14\nslab_reclaimable 15\nslab_unreclaimable 16\nslab 17\nworkingset_refault_anon 97\npgscan 18\npgsteal 19\npgfault 20\npgmajfault 21\npgrefill 22\npgactivate 23\npgdeactivate 24\npglazyfree 25\npglazyfreed 26\nthp_fault_alloc 27\nthp_collapse_alloc 28\n",
		"g/memory.current":      "4096\n",
		"g/memory.max":          "8192\n",
		"g/memory.peak":         "6000\n",
		"g/memory.swap.current": "1\n",
		"g/memory.swap.max":     "max\n",
		"g/memory.events":       "low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 6\n",
		"g/io.stat":             "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n253:1 \n",
		"g/rdma.current":        "mlx4_0 hca_handle=2 hca_object=2000\n",
		"g/rdma.max":            "mlx4_0 hca_handle=max hca_object=9\n",
	})
	m, err := cgroup2.Load("/g", cgroup2.WithMountpoint(root))
	if err != nil {
		t.Fatal(err)
	}
	want, err := m.Stat()
	if err != nil {
		t.Fatal(err)
	}
	want.Hugetlb = nil // containerd's are the machine's
	got, err := Group{"": filepath.Join(root, "g")}.Stats()
	if err != nil {
		t.Fatal(err)
	}
	want.Io.Usage = slices.DeleteFunc(want.Io.Usage, func(e *v2.IOEntry) bool { return e.Major == 253 })
	if diff := cmp.Diff(proto.Message(want), got, protocmp.Transform()); diff != "" {
		t.Errorf("-containerd +ours:\n%s", diff)
	}
}

func TestStatsV1AsContainerd(t *testing.T) {
	root := files(t, map[string]string{
		"pids/g/pids.current":                         "3\n",
		"pids/g/pids.max":                             "100\n",
		"cpu/g/cpu.stat":                              "nr_periods 5\nnr_throttled 2\nthrottled_time 77\n",
		"cpuacct/g/cpuacct.stat":                      "user 12\nsystem 34\n",
		"cpuacct/g/cpuacct.usage":                     "460000000\n",
		"cpuacct/g/cpuacct.usage_percpu":              "230000000 230000000 \n",
		"memory/g/memory.stat":                        "cache 1\nrss 2\nrss_huge 3\nshmem 99\nmapped_file 4\ndirty 5\nwriteback 6\npgpgin 7\npgpgout 8\npgfault 9\npgmajfault 10\ninactive_anon 11\nactive_anon 12\ninactive_file 13\nactive_file 14\nunevictable 15\nhierarchical_memory_limit 16\nhierarchical_memsw_limit 17\ntotal_cache 18\ntotal_rss 19\ntotal_rss_huge 20\ntotal_mapped_file 21\ntotal_dirty 22\ntotal_writeback 23\ntotal_pgpgin 24\ntotal_pgpgout 25\ntotal_pgfault 26\ntotal_pgmajfault 27\ntotal_inactive_anon 28\ntotal_active_anon 29\ntotal_inactive_file 30\ntotal_active_file 31\ntotal_unevictable 32\n",
		"memory/g/memory.oom_control":                 "oom_kill_disable 0\nunder_oom 1\noom_kill 4\n",
		"memory/g/memory.usage_in_bytes":              "1\n",
		"memory/g/memory.max_usage_in_bytes":          "2\n",
		"memory/g/memory.failcnt":                     "3\n",
		"memory/g/memory.limit_in_bytes":              "9223372036854771712\n",
		"memory/g/memory.memsw.usage_in_bytes":        "5\n",
		"memory/g/memory.memsw.max_usage_in_bytes":    "6\n",
		"memory/g/memory.memsw.failcnt":               "7\n",
		"memory/g/memory.memsw.limit_in_bytes":        "8\n",
		"memory/g/memory.kmem.usage_in_bytes":         "9\n",
		"memory/g/memory.kmem.max_usage_in_bytes":     "10\n",
		"memory/g/memory.kmem.failcnt":                "11\n",
		"memory/g/memory.kmem.limit_in_bytes":         "12\n",
		"memory/g/memory.kmem.tcp.usage_in_bytes":     "13\n",
		"memory/g/memory.kmem.tcp.max_usage_in_bytes": "14\n",
		"memory/g/memory.kmem.tcp.failcnt":            "15\n",
		"memory/g/memory.kmem.tcp.limit_in_bytes":     "16\n",
		"blkio/g/blkio.throttle.io_serviced":          "8:0 Read 1\n8:0 Write 2\n8:0 Total 3\nTotal 3\n",
		"blkio/g/blkio.throttle.io_service_bytes":     "8:0 Read 10\n8:0 Total 30\nTotal 30\n",
		"rdma/g/rdma.current":                         "mlx4_0 hca_handle=2 hca_object=2000\n",
		"rdma/g/rdma.max":                             "mlx4_0 hca_handle=max hca_object=9\n",
	})
	want := &v1.Metrics{CPU: &v1.CPUStat{Throttling: new(v1.Throttle), Usage: new(v1.CPUUsage)}}
	group := make(Group)
	for name, c := range controllers(root) {
		group[name] = filepath.Join(root, name, "g")
		if err := c.Stat("/g", want); err != nil {
			t.Fatal(name, err)
		}
	}
	got, err := group.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(proto.Message(want), got, protocmp.Transform()); diff != "" {
		t.Errorf("-containerd +ours:\n%s", diff)
	}
}

func controllers(root string) map[string]interface {
	Stat(string, *v1.Metrics) error
} {
	return map[string]interface {
		Stat(string, *v1.Metrics) error
	}{
		"pids":    cgroup1.NewPids(root),
		"cpu":     cgroup1.NewCpu(root),
		"cpuacct": cgroup1.NewCpuacct(root),
		"memory":  cgroup1.NewMemory(root),
		"blkio":   cgroup1.NewBlkio(root),
		"rdma":    cgroup1.NewRdma(root),
	}
}

func TestSchedulersOwnCounts(t *testing.T) {
	root := files(t, map[string]string{
		"blkio.io_serviced_recursive": "8:0 Read 1\nTotal 1\n",
		"blkio.sectors_recursive":     "8:0 42\n",
		"blkio.throttle.io_serviced":  "8:0 Read 99\n",
	})
	m, err := Group{"blkio": root}.Stats()
	if err != nil {
		t.Fatal(err)
	}
	b := m.(*v1.Metrics).Blkio
	if len(b.IoServicedRecursive) != 1 || b.IoServicedRecursive[0].Value != 1 || len(b.SectorsRecursive) != 1 || b.SectorsRecursive[0].Value != 42 || b.SectorsRecursive[0].Op != "" {
		t.Errorf("%v", b)
	}
}

func TestHugePages(t *testing.T) {
	root := files(t, map[string]string{
		"v1/hugetlb.2MB.limit_in_bytes": "5\n", "v1/hugetlb.2MB.usage_in_bytes": "1\n", "v1/hugetlb.2MB.max_usage_in_bytes": "2\n", "v1/hugetlb.2MB.failcnt": "3\n",
		"v1/hugetlb.2MB.rsvd.limit_in_bytes": "5\n",
		"v2/hugetlb.1GB.max":                 "max\n", "v2/hugetlb.1GB.current": "1\n", "v2/hugetlb.1GB.events": "max 4\n", "v2/hugetlb.1GB.rsvd.max": "max\n",
	})
	if all := hugetlbV1(dir(filepath.Join(root, "v1"))); len(all) != 1 || all[0].Pagesize != "2MB" || all[0].Usage != 1 || all[0].Max != 2 || all[0].Failcnt != 3 {
		t.Errorf("v1: %v", all)
	}
	if all := statsV2(dir(filepath.Join(root, "v2"))).Hugetlb; len(all) != 1 || all[0].Pagesize != "1GB" || all[0].Current != 1 || all[0].Failcnt != 4 {
		t.Errorf("v2: %v", all)
	}
}

func TestOOMKills(t *testing.T) {
	root := files(t, map[string]string{
		"v1/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
		"v2/memory.events":      "low 0\noom 9\noom_kill 4\noom_group_kill 0\n",
		"torn/memory.events":    "oom_kill x\n",
	})
	for name, test := range map[string]struct {
		group Group
		want  uint64
	}{
		"v1":            {Group{"memory": filepath.Join(root, "v1"), "": filepath.Join(root, "v2")}, 3},
		"v2":            {Group{"": filepath.Join(root, "v2")}, 4},
		"gone":          {Group{"": filepath.Join(root, "v3")}, 0},
		"no controller": {Group{"pids": root}, 0},
		"nothing":       {nil, 0},
	} {
		if n, err := test.group.OOMKills(); err != nil || n != test.want {
			t.Errorf("%s: %d, %v", name, n, err)
		}
	}
	if _, err := (Group{"": filepath.Join(root, "torn")}).OOMKills(); err == nil {
		t.Error("a torn file was read")
	}
}

func TestNothingIsGone(t *testing.T) {
	gone := Group{"": filepath.Join(t.TempDir(), "x"), "devices": "/no/such"}
	for _, g := range []Group{nil, gone} {
		if _, err := g.Stats(); !errdefs.IsNotFound(err) {
			t.Errorf("stats: %v", err)
		}
		if pids, err := g.PIDs(); err != nil || len(pids) > 0 {
			t.Errorf("pids: %v, %v", pids, err)
		}
		if err := g.Kill(t.Context()); err != nil {
			t.Errorf("kill: %v", err)
		}
		if err := g.Remove(t.Context()); err != nil {
			t.Errorf("remove: %v", err)
		}
		g.Thaw()
	}
}

// A group that holds the caller is a mistake in somebody's config.json: the machine's own, say.
func TestOwnGroupIsNotKilled(t *testing.T) {
	g := Group{"pids": files(t, map[string]string{"below/cgroup.procs": strconv.Itoa(os.Getpid()) + "\n"})}
	if err := g.Kill(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("kill: %v", err)
	}
	if n, err := g.Signal(syscall.SIGTERM); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("signal: %d, %v", n, err)
	}
}
