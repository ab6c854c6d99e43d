package enginetest

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/shimwright/shimwright/internal/testkit"
	"github.com/shimwright/shimwright/task"
)

// glutton is a command that uses more memory than the containers of these tests may have.
const glutton = "dd if=/dev/zero of=/dev/null bs=256M count=1"

// confined is a started container of 64 MiB, and how often it has told of the OOM killer.
func (h *Host) confined(change func(*specs.Spec), args ...string) (task.Task, *task.CreateRequest, *atomic.Int32) {
	h.T.Helper()
	r, _ := h.Request("c", testkit.Spec(h.Rootfs, args...))
	r.Spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: new(int64(64 << 20)), Swap: new(int64(64 << 20))}
	if change != nil {
		change(r.Spec)
	}
	c := h.Must(r)
	told := new(atomic.Int32)
	if err := c.(task.OOMWatcher).WatchOOM(func() { told.Add(1) }); err != nil {
		h.T.Fatal(err)
	}
	if err := c.Start(h.T.Context()); err != nil {
		h.T.Fatal(err)
	}
	return c, r, told
}

func oomsTold(t *testing.T, told *atomic.Int32, n int32) {
	t.Helper()
	testkit.Await(t, 20*time.Second, "OOM", func() bool { return told.Load() >= n })
	if got := told.Load(); got != n {
		t.Errorf("OOM was told %d times, want %d", got, n)
	}
}

// The OOM killer takes a child, and the container lives on: that is told at once, and not again at the exit.
func testOOMIsToldWhileTheContainerLives(t *testing.T, e Engine) {
	h := NewHost(t, e)
	more := filepath.Join(h.Rootfs, "more")
	if err := syscall.Mkfifo(more, 0o600); err != nil {
		t.Fatal(err)
	}
	c, _, told := h.confined(nil, "sh", "-c", glutton+"; read line < /more; "+glutton+"; sleep 1000")
	oomsTold(t, told, 1)
	if err := os.WriteFile(more, []byte("go on\n"), 0); err != nil {
		t.Fatal(err)
	}
	oomsTold(t, told, 2)
	if err := c.Kill(t.Context(), syscall.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	if e := c.Wait(); e.OOM || e.Status != 137 {
		t.Errorf("exit %+v", e)
	}
	oomsTold(t, told, 2)
}

func testOOMIsToldBeforeTheExit(t *testing.T, e Engine) {
	h := NewHost(t, e)
	c, _, told := h.confined(nil, "sleep", "1000")
	for n := range int32(3) {
		p := h.Exec(c, "sh", "-c", "exec "+glutton)
		if err := p.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if e := p.Wait(); e.OOM || e.Status != 137 || told.Load() != n+1 {
			t.Errorf("exit %+v of an exec, OOM was told %d times", e, told.Load())
		}
	}
}

func testOOMOfTheInit(t *testing.T, e Engine) {
	h := NewHost(t, e)
	c, _, told := h.confined(nil, "sh", "-c", "exec "+glutton)
	if e := c.Wait(); e.OOM || e.Status != 137 || told.Load() != 1 {
		t.Errorf("exit %+v, OOM was told %d times", e, told.Load())
	}
}

// systemd removes the cgroup of a scope in the moment in which its last process ends.
func testOOMInACgroupThatIsGone(t *testing.T, e Engine) {
	h := NewHost(t, e)
	gone := make(chan struct{})
	stop := make(chan struct{})
	c, _, told := h.confined(func(s *specs.Spec) {
		s.Linux.CgroupsPath += ".slice/c.scope"
		parent := filepath.Dir(s.Linux.CgroupsPath)
		dir := "/sys/fs/cgroup/memory"
		if Unified() {
			dir = "/sys/fs/cgroup"
		}
		t.Cleanup(func() {
			for _, dir := range Cgroups(&specs.Spec{Linux: &specs.Linux{CgroupsPath: parent}}) {
				if err := os.Remove(dir); err != nil {
					t.Error(err)
				}
			}
		})
		dir = filepath.Join(dir, s.Linux.CgroupsPath)
		s.Process.Args = []string{"sh", "-c", "read line < /go; exec " + glutton}
		if err := syscall.Mkfifo(filepath.Join(h.Rootfs, "go"), 0o600); err != nil {
			t.Fatal(err)
		}
		go func() {
			defer close(gone)
			for {
				select {
				case <-stop:
					return
				default:
				}
				if pids, err := os.ReadFile(filepath.Join(dir, "cgroup.procs")); err == nil && len(pids) > 0 {
					break
				}
			}
			for {
				select {
				case <-stop:
					return
				default:
				}
				if syscall.Rmdir(dir) == nil {
					return
				}
			}
		}()
	})
	defer func() { close(stop); <-gone }()
	if err := os.WriteFile(filepath.Join(h.Rootfs, "go"), []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
	if e := c.Wait(); e.OOM || e.Status != 137 || told.Load() != 1 {
		t.Errorf("exit %+v, OOM was told %d times", e, told.Load())
	}
}

// A container that waits for memory instead of losing processes has lost none.
func testNoOOMWithoutAKill(t *testing.T, e Engine) {
	if Unified() {
		return // v2 cannot disable the OOM killer
	}
	h := NewHost(t, e)
	c, r, told := h.confined(func(s *specs.Spec) {
		s.Linux.Resources.Memory.DisableOOMKiller = new(true)
	}, "awk", `BEGIN { for (s = "x"; ; s = s s); }`) // what a system call cannot get it goes without, so no dd
	control := filepath.Join("/sys/fs/cgroup/memory", r.Spec.Linux.CgroupsPath, "memory.oom_control")
	testkit.Await(t, 20*time.Second, "a container under OOM", func() bool {
		data, err := os.ReadFile(control)
		return err == nil && strings.Contains(string(data), "under_oom 1")
	})
	if err := c.Kill(t.Context(), syscall.SIGKILL, true); err != nil {
		t.Fatal(err)
	}
	if e := c.Wait(); e.OOM || told.Load() != 0 {
		t.Errorf("exit %+v, OOM was told %d times", e, told.Load())
	}
}

// The kernel ends all of a group that asks for it, and that is one batch.
func testOOMOfAWholeGroup(t *testing.T, e Engine) {
	if !Unified() {
		return // v1 has no memory.oom.group
	}
	h := NewHost(t, e)
	c, _, told := h.confined(func(s *specs.Spec) {
		s.Linux.Resources.Unified = map[string]string{"memory.oom.group": "1"}
	}, "sh", "-c", "sleep 1000 & sleep 1000 & "+glutton+"; sleep 1000")
	if e := c.Wait(); e.OOM || e.Status != 137 || told.Load() != 1 {
		t.Errorf("exit %+v, OOM was told %d times", e, told.Load())
	}
}

// Unified tells whether the machine has cgroup v2 alone.
func Unified() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}
