package enginetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	v2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/shimwright/shimwright/internal/testkit"
	"github.com/shimwright/shimwright/task"
)

// Run runs all tests on e.
func Run(t *testing.T, e Engine) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, e Engine)
	}{
		{"RunToExitCode", testRunToExitCode},
		{"PathsAreRelativeToTheBundle", testPathsAreRelativeToTheBundle},
		{"SignalledExit", testSignalledExit},
		{"KillOfCreated", testKillOfCreated},
		{"StartTwice", testStartTwice},
		{"StuckStart", testStuckStart},
		{"DeleteOfCreated", testDeleteOfCreated},
		{"Exec", testExec},
		{"ExecErrors", testExecErrors},
		{"ExecWithCPUAffinity", testExecWithCPUAffinity},
		{"Terminals", testTerminals},
		{"ConsoleNobodyWants", testConsoleNobodyWants},
		{"PauseAndResume", testPauseAndResume},
		{"KillAllWithoutPIDNamespace", testKillAllWithoutPIDNamespace},
		{"ContainerWithoutPIDNamespaceEndsWithItsInit", testContainerWithoutPIDNamespaceEndsWithItsInit},
		{"NestedFrozenProcesses", testNestedFrozenProcesses},
		{"UpdateThenExec", testUpdateThenExec},
		{"Stats", testStats},
		{"OOMIsToldOnce", testOOMIsToldOnce},
		{"OOMIsToldWhileTheContainerLives", testOOMIsToldWhileTheContainerLives},
		{"OOMIsToldBeforeTheExit", testOOMIsToldBeforeTheExit},
		{"OOMOfTheInit", testOOMOfTheInit},
		{"OOMInACgroupThatIsGone", testOOMInACgroupThatIsGone},
		{"NoOOMWithoutAKill", testNoOOMWithoutAKill},
		{"OOMOfAWholeGroup", testOOMOfAWholeGroup},
		{"FailedCreateLeavesNothing", testFailedCreateLeavesNothing},
		{"DuplicateID", testDuplicateID},
		{"StuckCreate", testStuckCreate},
		{"KillWhileExecStarts", testKillWhileExecStarts},
		{"TwentyAtOnce", testTwentyAtOnce},
		{"ParallelExecs", testParallelExecs},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, e) })
	}
}

func testRunToExitCode(t *testing.T, e Engine) {
	h := NewHost(t, e)
	r, out := h.Request("c", testkit.Spec(h.Rootfs, "sh", "-c", "echo hello; hostname; exit 7"))
	r.Spec.Hostname = "inside"
	c := h.Must(r)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.IO.Stdout.Close()
	ExitsWith(t, c, 7)
	text, err := io.ReadAll(out)
	if err != nil || string(text) != "hello\ninside\n" {
		t.Errorf("output %q, %v", text, err)
	}
	for range 3 {
		if err := c.Delete(t.Context()); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	if _, err := os.Stat(h.State("c")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("state is left: %v", err)
	}
	if dirs := Cgroups(r.Spec); len(dirs) > 0 {
		t.Errorf("cgroups are left: %v", dirs)
	}
}

func testPathsAreRelativeToTheBundle(t *testing.T, e Engine) {
	h := NewHost(t, e)
	r, _ := h.Request("c", testkit.Spec(filepath.Base(h.Rootfs), "test", "-e", "/data/here"))
	r.Bundle = filepath.Dir(h.Rootfs)
	r.Spec.Mounts = append(r.Spec.Mounts, specs.Mount{Destination: "/data", Type: "bind", Source: "data", Options: []string{"bind"}})
	data := filepath.Join(r.Bundle, "data")
	if err := errors.Join(os.Mkdir(data, 0o700), os.WriteFile(filepath.Join(data, "here"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	c := h.Must(r)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ExitsWith(t, c, 0)
}

func testSignalledExit(t *testing.T, e Engine) {
	h := NewHost(t, e)
	c := h.Running("c", "sleep", "1000")
	if err := c.Kill(t.Context(), syscall.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	ExitsWith(t, c, 137)
	if err := c.Kill(t.Context(), syscall.SIGKILL, false); !errdefs.IsNotFound(err) {
		t.Errorf("second kill: %v", err)
	}
	if err := c.Kill(t.Context(), syscall.SIGTERM, true); !errdefs.IsNotFound(err) {
		t.Errorf("second kill of all: %v", err)
	}
}

func testKillOfCreated(t *testing.T, e Engine) {
	h := NewHost(t, e)
	c, _ := h.Created("c", "true")
	if err := c.Kill(t.Context(), syscall.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	ExitsWith(t, c, 137)
	if err := c.Start(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("start: %v", err)
	}
}

func testStartTwice(t *testing.T, e Engine) {
	h := NewHost(t, e)
	c := h.Running("c", "sleep", "1000")
	if err := c.Start(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("second start: %v", err)
	}
}

// The start of a frozen container is refused, or is stuck until its context or its container ends.
func testStuckStart(t *testing.T, e Engine) {
	h := NewHost(t, e)
	frozen := func(id string) task.Task {
		c, _ := h.Created(id, "true")
		if err := c.(task.Pauser).Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := frozen("timeout")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := c.Start(ctx)
	if err == nil {
		t.Error("the start of a frozen container succeeded")
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		if ctx.Err() != nil {
			t.Errorf("start of a frozen container: %v", err)
		}
		if err := c.Kill(t.Context(), syscall.SIGKILL, false); err != nil {
			t.Error(err)
		}
	}
	ExitsWith(t, c, 137)

	c = frozen("killed")
	started := make(chan error)
	go func() { started <- c.Start(t.Context()) }()
	if err := c.Kill(t.Context(), syscall.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	if err := <-started; err == nil {
		t.Error("the start of a killed container succeeded")
	}
	ExitsWith(t, c, 137)
}

func testDeleteOfCreated(t *testing.T, e Engine) {
	h := NewHost(t, e)
	c, r := h.Created("c", "true")
	if err := c.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	ExitsWith(t, c, 137)
	if dirs := Cgroups(r.Spec); len(dirs) > 0 {
		t.Errorf("cgroups are left: %v", dirs)
	}
}

func testExec(t *testing.T, e Engine) {
	h := NewHost(t, e)
	c := h.Running("c", "sleep", "1000")
	p := h.Exec(c, "sh", "-c", "exit 9")
	if pid := p.PID(); pid != 0 {
		t.Errorf("pid %d before the start", pid)
	}
	if err := p.Kill(t.Context(), syscall.SIGKILL, false); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("kill before the start: %v", err)
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ExitsWith(t, p, 9)
	if err := p.Start(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("second start: %v", err)
	}
	if err := p.Delete(t.Context()); err != nil {
		t.Errorf("delete: %v", err)
	}

	p = h.Exec(c, "sleep", "1000")
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	pids, err := c.(task.Lister).PIDs(t.Context())
	slices.Sort(pids)
	want := []int{c.PID(), p.PID()}
	slices.Sort(want)
	if err != nil || !slices.Equal(pids, want) {
		t.Errorf("pids %v, %v, want %v", pids, err, want)
	}
	if err := p.Kill(t.Context(), syscall.SIGTERM, false); err != nil {
		t.Fatal(err)
	}
	ExitsWith(t, p, 143)
	if err := p.Kill(t.Context(), syscall.SIGTERM, false); !errdefs.IsNotFound(err) {
		t.Errorf("kill after the exit: %v", err)
	}
}

func testExecErrors(t *testing.T, e Engine) {
	h := NewHost(t, e)
	c := h.Running("c", "sleep", "1000")
	p := h.Exec(c, "nosuch")
	err := p.Start(t.Context())
	text := "OCI runtime exec failed: " + e.NoCommandExec
	if err == nil || err.Error() != text {
		t.Errorf("got  %v\nwant %s", err, text)
	}
	if pid := p.PID(); pid != 0 {
		t.Errorf("pid %d after a failed start", pid)
	}
	if err := p.Kill(t.Context(), syscall.SIGKILL, false); !errdefs.IsNotFound(err) {
		t.Errorf("kill after a failed start: %v", err)
	}
	for name, spec := range map[string]*specs.Process{
		"nothing":     nil,
		"no args":     {Cwd: "/"},
		"relative":    {Cwd: "here", Args: []string{"true"}},
		"uid too big": {Cwd: "/", Args: []string{"true"}, User: specs.User{UID: 1 << 31}},
	} {
		if _, err := c.(task.Execer).Exec(t.Context(), &task.ExecRequest{ID: "x", Spec: spec}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := c.(task.Pauser).Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := h.Exec(c, "true").Start(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("exec in a paused container: %v", err)
	}
	if err := c.Kill(t.Context(), syscall.SIGKILL, true); err != nil {
		t.Fatal(err)
	}
	ExitsWith(t, c, 137)
	if err := h.Exec(c, "true").Start(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("exec in a stopped container: %v", err)
	}
}

func testExecWithCPUAffinity(t *testing.T, e Engine) {
	h := NewHost(t, e)
	c := h.Running("c", "sleep", "1000")
	streams, _ := h.Pipes()
	spec := Process("grep", "-q", "Cpus_allowed_list:\t0$", "/proc/self/status")
	spec.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0", Final: "0"}
	for range 10 {
		p, err := c.(task.Execer).Exec(t.Context(), &task.ExecRequest{ID: "x", Spec: spec, IO: streams})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		ExitsWith(t, p, 0)
	}
}

// Terminal is the IO of a process with a terminal, whose master comes out of the channel.
func Terminal(t testing.TB) (task.IO, <-chan *os.File) {
	masters := make(chan *os.File, 1)
	return task.IO{Terminal: true, SetConsole: func(f *os.File) error {
		t.Cleanup(func() { f.Close() })
		masters <- f
		return nil
	}}, masters
}

func testTerminals(t *testing.T, e Engine) {
	h := NewHost(t, e)
	const script = `[ -t 0 ] && stty size && read line && echo "got $line" && exit 5`
	r, _ := h.Request("c", testkit.Spec(h.Rootfs, "sh", "-c", script))
	r.Spec.Process.Terminal = true
	r.Spec.Process.ConsoleSize = &specs.Box{Width: 91, Height: 33}
	var masters <-chan *os.File
	r.IO, masters = Terminal(t)
	c := h.Must(r)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	talk(t, <-masters)
	ExitsWith(t, c, 5)

	host := h.Running("host", "sleep", "1000")
	spec := Process("sh", "-c", script)
	spec.Terminal, spec.ConsoleSize = true, r.Spec.Process.ConsoleSize
	streams, masters := Terminal(t)
	p, err := host.(task.Execer).Exec(t.Context(), &task.ExecRequest{ID: "x", Spec: spec, IO: streams})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	talk(t, <-masters)
	ExitsWith(t, p, 5)
}

func talk(t testing.TB, master *os.File) {
	t.Helper()
	if _, err := master.WriteString("word\n"); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(master) // ends with EIO
	if !errors.Is(err, syscall.EIO) {
		t.Errorf("read: %v", err)
	}
	// The first words may come before the terminal is set up, which whoever asks for one does.
	if s := string(text); !strings.Contains(s, "33 91") || !strings.Contains(s, "\ngot word\n") {
		t.Errorf("terminal said %q", s)
	}
}

func testConsoleNobodyWants(t *testing.T, e Engine) {
	h := NewHost(t, e)
	r, _ := h.Request("c", testkit.Spec(h.Rootfs, "true"))
	r.Spec.Process.Terminal = true
	refused := errors.New("no, thanks")
	r.IO = task.IO{Terminal: true, SetConsole: func(f *os.File) error { f.Close(); return refused }}
	if _, err := h.Make(t.Context(), r); !errors.Is(err, refused) {
		t.Errorf("create: %v", err)
	}
	h.NothingLeft(r)
}

func testPauseAndResume(t *testing.T, e Engine) {
	h := NewHost(t, e)
	for name, c := range map[string]task.Task{
		"running": h.Running("running", "sleep", "1000"),
		"created": func() task.Task { c, _ := h.Created("created", "sleep", "1000"); return c }(),
	} {
		for range 2 {
			if err := c.(task.Pauser).Pause(t.Context()); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if err := c.(task.Pauser).Resume(t.Context()); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if err := c.(task.Pauser).Resume(t.Context()); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%s: second resume: %v", name, err)
		}
		if name == "created" {
			if err := c.Start(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if err := c.(task.Pauser).Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := c.Kill(t.Context(), syscall.SIGKILL, false); err != nil {
			t.Fatal(err)
		}
		ExitsWith(t, c, 137)
		if err := c.(task.Pauser).Pause(t.Context()); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%s: pause of a stopped container: %v", name, err)
		}
	}
}

// HostPID is a spec without a pid namespace.
func (h *Host) HostPID(args ...string) *specs.Spec {
	s := testkit.Spec(h.Rootfs, args...)
	s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
	return s
}

func testKillAllWithoutPIDNamespace(t *testing.T, e Engine) {
	h := NewHost(t, e)
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		r, _ := h.Request("c"+strconv.Itoa(int(sig)), h.HostPID("sh", "-c", "sleep 1000 & sleep 1000 & wait"))
		c := h.Must(r)
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		Await(t, c, 3)
		if err := c.Kill(t.Context(), sig, true); err != nil {
			t.Fatal(err)
		}
		ExitsWith(t, c, 128+int(sig))
		Await(t, c, 0)
	}
}

func testContainerWithoutPIDNamespaceEndsWithItsInit(t *testing.T, e Engine) {
	h := NewHost(t, e)
	r, _ := h.Request("c", h.HostPID("sh", "-c", "sleep 1000 & exit 3"))
	c := h.Must(r)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ExitsWith(t, c, 3)
	Await(t, c, 0)
}

// A container may freeze cgroups of its own below its cgroup: what is in there ends too.
func testNestedFrozenProcesses(t *testing.T, e Engine) {
	h := NewHost(t, e)
	r, _ := h.Request("c", h.HostPID("sleep", "1000"))
	c := h.Must(r)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := h.Exec(c, "sleep", "1000")
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	dir, file, frozen := "/sys/fs/cgroup/freezer"+r.Spec.Linux.CgroupsPath, "freezer.state", "FROZEN"
	if _, err := os.Stat(dir); err != nil {
		dir, file, frozen = "/sys/fs/cgroup"+r.Spec.Linux.CgroupsPath, "cgroup.freeze", "1"
	}
	dir = filepath.Join(dir, "below")
	if err := errors.Join(os.Mkdir(dir, 0o755),
		os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(p.PID())), 0o644),
		os.WriteFile(filepath.Join(dir, file), []byte(frozen), 0o644)); err != nil {
		t.Fatal(err)
	}
	if err := c.Kill(t.Context(), syscall.SIGKILL, true); err != nil {
		t.Fatal(err)
	}
	ExitsWith(t, p, 137)
	ExitsWith(t, c, 137)
	if err := c.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.NothingLeft(r)
}

// Await waits until n processes are in c.
func Await(t testing.TB, c task.Task, n int) {
	t.Helper()
	testkit.Await(t, 10*time.Second, fmt.Sprintf("%d processes", n), func() bool {
		pids, err := c.(task.Lister).PIDs(t.Context())
		return err == nil && len(pids) == n
	})
}

func testUpdateThenExec(t *testing.T, e Engine) {
	h := NewHost(t, e)
	c, r := h.Created("c", "sleep", "1000")
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	update := func(r *specs.LinuxResources) error {
		return c.(task.Updater).Update(t.Context(), &task.UpdateRequest{Resources: r})
	}
	if err := update(&specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: new(int64(64 << 20))},
		CPU:    &specs.LinuxCPU{Shares: new(uint64(512)), Quota: new(int64(50000)), Period: new(uint64(100000))},
		Pids:   &specs.LinuxPids{Limit: new(int64(33))},
	}); err != nil {
		t.Fatal(err)
	}
	// The quota alone keeps the period.
	if err := update(&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: new(int64(40000))}}); err != nil {
		t.Fatal(err)
	}
	group := func(controller, v1, v2 string) string {
		data, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", controller, r.Spec.Linux.CgroupsPath, v1))
		if err != nil {
			data, err = os.ReadFile(filepath.Join("/sys/fs/cgroup", r.Spec.Linux.CgroupsPath, v2))
		}
		if err != nil {
			t.Error(err)
		}
		return strings.TrimSpace(string(data))
	}
	if got := group("memory", "memory.limit_in_bytes", "memory.max"); got != "67108864" {
		t.Errorf("memory limit %s", got)
	}
	if got := group("cpu", "cpu.cfs_quota_us", "cpu.max"); got != "40000" && got != "40000 100000" {
		t.Errorf("cpu quota %s", got)
	}
	if got := group("pids", "pids.max", "pids.max"); got != "33" {
		t.Errorf("pids limit %s", got)
	}
	if err := update(&specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "999"}}); err == nil {
		t.Error("an impossible update succeeded")
	}
	if err := update(nil); err != nil {
		t.Error(err)
	}
	p := h.Exec(c, "sh", "-c", "exit 4")
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ExitsWith(t, p, 4)
}

func testStats(t *testing.T, e Engine) {
	h := NewHost(t, e)
	c := h.Running("c", "sleep", "1000")
	// For a moment it is still libcontainer's init, with a few threads.
	testkit.Await(t, 10*time.Second, "figures of one process", func() bool {
		m, err := c.(task.Stater).Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		switch m := m.(type) {
		case *v1.Metrics:
			return m.GetPids().GetCurrent() == 1 && m.GetMemory().GetUsage().GetUsage() > 0 && m.GetCPU().GetUsage().GetTotal() > 0
		case *v2.Metrics:
			return m.GetPids().GetCurrent() == 1 && m.GetMemory().GetUsage() > 0 && m.GetCPU().GetUsageUsec() > 0
		}
		return false
	})
	if err := c.Kill(t.Context(), syscall.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	ExitsWith(t, c, 137)
	if err := c.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.(task.Stater).Stats(t.Context()); !errdefs.IsNotFound(err) {
		t.Errorf("stats after delete: %v", err)
	}
}

func testOOMIsToldOnce(t *testing.T, e Engine) {
	h := NewHost(t, e)
	r, _ := h.Request("c", testkit.Spec(h.Rootfs, "sleep", "1000"))
	r.Spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: new(int64(64 << 20)), Swap: new(int64(64 << 20))}
	c := h.Must(r)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := h.Exec(c, "sh", "-c", "dd if=/dev/zero of=/dev/null bs=256M count=1")
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e := p.Wait(); !e.OOM {
		t.Errorf("exec: %+v, want OOM", e)
	}
	if err := c.Kill(t.Context(), syscall.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	if e := c.Wait(); e.OOM {
		t.Errorf("init: %+v, want no OOM", e)
	}
}

// NothingLeft checks that nothing of a container is on the machine.
func (h *Host) NothingLeft(r *task.CreateRequest) {
	h.T.Helper()
	if _, err := os.Stat(h.State(r.ID)); !errors.Is(err, os.ErrNotExist) {
		h.T.Errorf("state is left: %v", err)
	}
	if dirs := Cgroups(r.Spec); len(dirs) > 0 {
		h.T.Errorf("cgroups are left: %v", dirs)
	}
}

func testFailedCreateLeavesNothing(t *testing.T, e Engine) {
	h := NewHost(t, e)
	var refused func(error) bool
	if e.Classes {
		refused = errdefs.IsInvalidArgument
	}
	for name, test := range map[string]struct {
		change func(r *task.CreateRequest)
		class  func(error) bool // nil: none
		text   string
	}{
		"nonexistent command": {
			func(r *task.CreateRequest) { r.Spec.Process.Args = []string{"nosuch"} }, nil,
			"OCI runtime create failed: " + e.NoCommand,
		},
		"missing mount": {func(r *task.CreateRequest) {
			r.Spec.Mounts = append(r.Spec.Mounts, specs.Mount{Destination: "/x", Type: "bind", Source: "/no/such", Options: []string{"bind"}})
		}, nil, "/no/such"},
		"missing rootfs":  {func(r *task.CreateRequest) { r.Spec.Root.Path = "/no/such" }, nil, "/no/such"},
		"no config.json":  {func(r *task.CreateRequest) { r.Spec = nil }, errdefs.IsInvalidArgument, "config.json"},
		"no process":      {func(r *task.CreateRequest) { r.Spec.Process = nil }, errdefs.IsInvalidArgument, "process"},
		"no root":         {func(r *task.CreateRequest) { r.Spec.Root = nil }, errdefs.IsInvalidArgument, "root"},
		"no linux":        {func(r *task.CreateRequest) { r.Spec.Linux = nil }, errdefs.IsInvalidArgument, "linux"},
		"bad id":          {func(r *task.CreateRequest) { r.ID = "../x" }, errdefs.IsInvalidArgument, "invalid container ID"},
		"bad namespace":   {func(r *task.CreateRequest) { r.Spec.Linux.Namespaces[0].Type = "fun" }, refused, "fun"},
		"failing hook":    {func(r *task.CreateRequest) { r.Spec.Hooks = hook("false") }, nil, "hook"},
		"missing bundle":  {func(r *task.CreateRequest) { r.Bundle = "/no/such" }, nil, "no such file or directory"},
		"relative root":   {func(r *task.CreateRequest) { r.Options = h.Options(&runcoptions.Options{Root: "x"}) }, errdefs.IsInvalidArgument, "absolute"},
		"foreign options": {func(r *task.CreateRequest) { r.Options = &anypb.Any{TypeUrl: "fun.Options"} }, errdefs.IsInvalidArgument, "fun.Options"},
		"torn options": {func(r *task.CreateRequest) {
			r.Options = h.Options(new(runcoptions.Options))
			r.Options.Value = []byte{0xff}
		}, errdefs.IsInvalidArgument, ""},
		"no systemd cgroup": {func(r *task.CreateRequest) {
			r.Options = h.Options(&runcoptions.Options{SystemdCgroup: true})
		}, refused, e.NoSystemd},
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := h.Request("c", testkit.Spec(h.Rootfs, "true"))
			spec := *r.Spec
			test.change(r)
			c, err := h.Make(t.Context(), r)
			if err == nil {
				c.Delete(t.Context())
				t.Fatal("succeeded")
			}
			if test.class != nil && !test.class(err) {
				t.Errorf("class of %v", err)
			}
			if test.class == nil && (errdefs.IsInvalidArgument(err) || errdefs.IsNotFound(err)) {
				t.Errorf("class of %v", err)
			}
			if !strings.Contains(err.Error(), test.text) {
				t.Errorf("%v does not say %q", err, test.text)
			}
			r.ID, r.Spec = "c", &spec
			h.NothingLeft(r)
		})
	}
}

// hook is a createRuntime hook that runs a shell script.
func hook(script string) *specs.Hooks {
	return &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", script}}}}
}

func testDuplicateID(t *testing.T, e Engine) {
	h := NewHost(t, e)
	c := h.Running("c", "sleep", "1000")
	r, _ := h.Request("c", testkit.Spec(h.Rootfs, "true"))
	if _, err := h.Make(t.Context(), r); !errdefs.IsAlreadyExists(err) {
		t.Errorf("create: %v", err)
	}
	p := h.Exec(c, "true")
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ExitsWith(t, p, 0)
}

// A create that hangs in a hook ends when its context does, with everything that the hook has started.
func testStuckCreate(t *testing.T, e Engine) {
	h := NewHost(t, e)
	r, _ := h.Request("c", testkit.Spec(h.Rootfs, "true"))
	mark := filepath.Join(t.TempDir(), "hooked")
	r.Spec.Hooks = hook("touch " + mark + "; sleep 1000 & sleep 1000; true")
	h.KilledCreate(r, mark)
	ctx, cancel := context.WithCancelCause(t.Context())
	killed := errors.New("killed")
	cancel(killed)
	if _, err := h.Make(ctx, r); !errors.Is(err, killed) {
		t.Errorf("create with an ended context: %v", err)
	}
	h.NothingLeft(r)
}

// KilledCreate calls a create off as soon as there is a file mark, and checks that it fails and leaves nothing.
func (h *Host) KilledCreate(r *task.CreateRequest, mark string) {
	h.T.Helper()
	ctx, cancel := context.WithCancelCause(h.T.Context())
	killed := errors.New("killed")
	go func() {
		testkit.Await(h.T, 10*time.Second, "the create", func() bool { _, err := os.Stat(mark); return err == nil })
		cancel(killed)
	}()
	if _, err := h.Make(ctx, r); !errors.Is(err, killed) {
		h.T.Errorf("create: %v", err)
	}
	h.NothingLeft(r)
}

// SIGKILL reaches an exec at any moment of its start, and nothing of it stays.
func testKillWhileExecStarts(t *testing.T, e Engine) {
	h := NewHost(t, e)
	c := h.Running("c", "sleep", "1000")
	var wg sync.WaitGroup
	for range 8 {
		p := h.Exec(c, "sleep", "1000")
		wg.Go(func() {
			started := make(chan error, 1)
			go func() { started <- p.Start(t.Context()) }()
			for {
				err := p.Kill(t.Context(), syscall.SIGKILL, false)
				if err == nil {
					break
				}
				if !errdefs.IsFailedPrecondition(err) { // not started yet
					t.Error(err)
					return
				}
			}
			if err := <-started; err == nil {
				ExitsWith(t, p, 137)
			}
		})
	}
	wg.Wait()
	Await(t, c, 1)
}

func testTwentyAtOnce(t *testing.T, e Engine) {
	h := NewHost(t, e)
	var wg sync.WaitGroup
	for i := range 20 {
		r, _ := h.Request(fmt.Sprint("c", i), testkit.Spec(h.Rootfs, "sh", "-c", fmt.Sprint("exit ", i)))
		wg.Go(func() {
			c, err := h.Make(t.Context(), r)
			if err != nil {
				t.Error(err)
				return
			}
			if err := c.Start(t.Context()); err != nil {
				t.Error(err)
			}
			ExitsWith(t, c, i)
			if err := c.Delete(t.Context()); err != nil {
				t.Error(err)
			}
			h.NothingLeft(r)
		})
	}
	wg.Wait()
}

func testParallelExecs(t *testing.T, e Engine) {
	h := NewHost(t, e)
	c := h.Running("c", "sleep", "1000")
	var wg sync.WaitGroup
	for i := range 40 {
		p := h.Exec(c, "sh", "-c", fmt.Sprint("exit ", i))
		wg.Go(func() {
			if err := p.Start(t.Context()); err != nil {
				t.Error(err)
				return
			}
			ExitsWith(t, p, i)
		})
	}
	wg.Wait()
}
