package container_test

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
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/shimwright/shimwright/internal/container"
	"github.com/shimwright/shimwright/internal/reap"
	"github.com/shimwright/shimwright/internal/testkit"
	"github.com/shimwright/shimwright/task"
)

var reaper = reap.New()

// TestMain is a shim's main as far as processes are concerned: subreaper, and the main goroutine reaps.
func TestMain(m *testing.M) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	code := 1
	go func() {
		defer cancel()
		code = m.Run()
	}()
	if err := reaper.Run(ctx); err != nil {
		panic(err)
	}
	os.Exit(code)
}

const namespace = "test"

// host is where a test's containers are.
type host struct {
	*container.Engine
	t    testing.TB
	root string
	fs   string
}

func newHost(t testing.TB) *host {
	t.Helper()
	testkit.RequireRoot(t)
	h := &host{t: t, root: t.TempDir(), fs: testkit.Rootfs(t)}
	h.Engine = container.New(container.Config{Root: h.root, Namespace: namespace, Reaper: reaper})
	warmUp.Do(func() {
		c := h.run("warm-up", "true")
		exitsWith(t, c, 0)
		if err := c.Delete(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	testkit.NoLeaks(t)
	return h
}

// warmUp runs a first container: from then on libcontainer keeps a few directories open.
var warmUp sync.Once

// request is a request to create a container of spec; its output goes to the returned pipe.
func (h *host) request(id string, spec *specs.Spec) (*task.CreateRequest, *os.File) {
	h.t.Helper()
	streams, out := h.pipes()
	return &task.CreateRequest{ID: id, Namespace: namespace, Bundle: h.t.TempDir(), Spec: spec, IO: streams}, out
}

// pipes are streams with nothing to read and a pipe to write to.
func (h *host) pipes() (task.IO, *os.File) {
	h.t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		h.t.Fatal(err)
	}
	for _, f := range []*os.File{null, r, w} {
		h.t.Cleanup(func() { f.Close() })
	}
	return task.IO{Stdin: null, Stdout: w, Stderr: w}, r
}

// create makes a container that runs args in a shell's place.
func (h *host) create(id string, args ...string) (task.Task, *task.CreateRequest) {
	h.t.Helper()
	r, _ := h.request(id, testkit.Spec(h.fs, args...))
	return h.must(r), r
}

func (h *host) must(r *task.CreateRequest) task.Task {
	h.t.Helper()
	c, err := h.Create(h.t.Context(), r)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		if err := c.Delete(context.Background()); err != nil {
			h.t.Error(err)
		}
	})
	return c
}

// run creates and starts a container.
func (h *host) run(id string, args ...string) task.Task {
	h.t.Helper()
	c, _ := h.create(id, args...)
	if err := c.Start(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
	return c
}

func (h *host) exec(c task.Task, args ...string) task.Process {
	h.t.Helper()
	streams, _ := h.pipes()
	p, err := c.(task.Execer).Exec(h.t.Context(), &task.ExecRequest{ID: "x", Spec: process(args...), IO: streams})
	if err != nil {
		h.t.Fatal(err)
	}
	return p
}

func process(args ...string) *specs.Process {
	return testkit.Spec("", args...).Process
}

func (h *host) state(id string) string { return filepath.Join(h.root, namespace, id) }

// cgroups are the directories of the container's cgroup that exist.
func cgroups(spec *specs.Spec) []string {
	path := spec.Linux.CgroupsPath
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + path)
	if _, err := os.Stat("/sys/fs/cgroup" + path); err == nil {
		dirs = append(dirs, "/sys/fs/cgroup"+path)
	}
	return dirs
}

func exitsWith(t testing.TB, p task.Process, status int) {
	t.Helper()
	done := make(chan task.Exit, 1)
	go func() { done <- p.Wait() }()
	select {
	case e := <-done:
		if e.Status != status || e.At.IsZero() || time.Since(e.At) > time.Minute {
			t.Errorf("exit %+v, want status %d", e, status)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("process %d runs on", p.PID())
	}
}

func TestRunToExitCode(t *testing.T) {
	h := newHost(t)
	r, out := h.request("c", testkit.Spec(h.fs, "sh", "-c", "echo hello; hostname; exit 7"))
	r.Spec.Hostname = "inside"
	c := h.must(r)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.IO.Stdout.Close()
	exitsWith(t, c, 7)
	text, err := io.ReadAll(out)
	if err != nil || string(text) != "hello\ninside\n" {
		t.Errorf("output %q, %v", text, err)
	}
	for range 3 {
		if err := c.Delete(t.Context()); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	if _, err := os.Stat(h.state("c")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("state is left: %v", err)
	}
	if dirs := cgroups(r.Spec); len(dirs) > 0 {
		t.Errorf("cgroups are left: %v", dirs)
	}
}

func TestPathsAreRelativeToTheBundle(t *testing.T) {
	h := newHost(t)
	r, _ := h.request("c", testkit.Spec(filepath.Base(h.fs), "test", "-e", "/data/here"))
	r.Bundle = filepath.Dir(h.fs)
	r.Spec.Mounts = append(r.Spec.Mounts, specs.Mount{Destination: "/data", Type: "bind", Source: "data", Options: []string{"bind"}})
	data := filepath.Join(r.Bundle, "data")
	if err := errors.Join(os.Mkdir(data, 0o700), os.WriteFile(filepath.Join(data, "here"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	c := h.must(r)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	exitsWith(t, c, 0)
}

func TestSignalledExit(t *testing.T) {
	h := newHost(t)
	c := h.run("c", "sleep", "1000")
	if err := c.Kill(t.Context(), syscall.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	exitsWith(t, c, 137)
	if err := c.Kill(t.Context(), syscall.SIGKILL, false); !errdefs.IsNotFound(err) {
		t.Errorf("second kill: %v", err)
	}
	if err := c.Kill(t.Context(), syscall.SIGTERM, true); !errdefs.IsNotFound(err) {
		t.Errorf("second kill of all: %v", err)
	}
}

func TestKillOfCreated(t *testing.T) {
	h := newHost(t)
	c, _ := h.create("c", "true")
	if err := c.Kill(t.Context(), syscall.SIGTERM, false); err != nil {
		t.Fatal(err)
	}
	exitsWith(t, c, 2) // Go's way to die of a signal that pid 1 does not die of
	if err := c.Start(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("start: %v", err)
	}
}

func TestStartTwice(t *testing.T) {
	h := newHost(t)
	c := h.run("c", "sleep", "1000")
	if err := c.Start(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("second start: %v", err)
	}
}

// A start that is stuck, because its container is frozen, ends with its context and with its container.
func TestStuckStart(t *testing.T) {
	h := newHost(t)
	frozen := func(id string) task.Task {
		c, _ := h.create(id, "true")
		if err := c.(task.Pauser).Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := frozen("timeout")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Start(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("start of a frozen container: %v", err)
	}
	exitsWith(t, c, 137)

	c = frozen("killed")
	started := make(chan error)
	go func() { started <- c.Start(t.Context()) }()
	if err := c.Kill(t.Context(), syscall.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	if err := <-started; err == nil {
		t.Error("the start of a killed container succeeded")
	}
	exitsWith(t, c, 137)
}

func TestDeleteOfCreated(t *testing.T) {
	h := newHost(t)
	c, r := h.create("c", "true")
	if err := c.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	exitsWith(t, c, 137)
	if dirs := cgroups(r.Spec); len(dirs) > 0 {
		t.Errorf("cgroups are left: %v", dirs)
	}
}

func TestExec(t *testing.T) {
	h := newHost(t)
	c := h.run("c", "sleep", "1000")
	p := h.exec(c, "sh", "-c", "exit 9")
	if pid := p.PID(); pid != 0 {
		t.Errorf("pid %d before the start", pid)
	}
	if err := p.Kill(t.Context(), syscall.SIGKILL, false); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("kill before the start: %v", err)
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	exitsWith(t, p, 9)
	if err := p.Start(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("second start: %v", err)
	}
	if err := p.Delete(t.Context()); err != nil {
		t.Errorf("delete: %v", err)
	}

	p = h.exec(c, "sleep", "1000")
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
	exitsWith(t, p, 143)
	if err := p.Kill(t.Context(), syscall.SIGTERM, false); !errdefs.IsNotFound(err) {
		t.Errorf("kill after the exit: %v", err)
	}
}

func TestExecErrors(t *testing.T) {
	h := newHost(t)
	c := h.run("c", "sleep", "1000")
	p := h.exec(c, "nosuch")
	err := p.Start(t.Context())
	const text = `OCI runtime exec failed: exec failed: unable to start container process: exec: "nosuch": executable file not found in $PATH`
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
		"no rlimit":   {Cwd: "/", Args: []string{"true"}, Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_FUN"}}},
	} {
		if _, err := c.(task.Execer).Exec(t.Context(), &task.ExecRequest{ID: "x", Spec: spec}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := c.(task.Pauser).Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := h.exec(c, "true").Start(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("exec in a paused container: %v", err)
	}
	if err := c.Kill(t.Context(), syscall.SIGKILL, true); err != nil {
		t.Fatal(err)
	}
	exitsWith(t, c, 137)
	if err := h.exec(c, "true").Start(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("exec in a stopped container: %v", err)
	}
}

func TestExecWithCPUAffinity(t *testing.T) {
	h := newHost(t)
	c := h.run("c", "sleep", "1000")
	streams, _ := h.pipes()
	spec := process("grep", "-q", "Cpus_allowed_list:\t0$", "/proc/self/status")
	spec.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0", Final: "0"}
	for range 10 {
		p, err := c.(task.Execer).Exec(t.Context(), &task.ExecRequest{ID: "x", Spec: spec, IO: streams})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		exitsWith(t, p, 0)
	}
}

// terminal is the IO of a process with a terminal, whose master comes out of the channel.
func terminal(t testing.TB) (task.IO, <-chan *os.File) {
	masters := make(chan *os.File, 1)
	return task.IO{Terminal: true, SetConsole: func(f *os.File) error {
		t.Cleanup(func() { f.Close() })
		masters <- f
		return nil
	}}, masters
}

func TestTerminals(t *testing.T) {
	h := newHost(t)
	const script = `[ -t 0 ] && stty size && read line && echo "got $line" && exit 5`
	r, _ := h.request("c", testkit.Spec(h.fs, "sh", "-c", script))
	r.Spec.Process.Terminal = true
	r.Spec.Process.ConsoleSize = &specs.Box{Width: 91, Height: 33}
	var masters <-chan *os.File
	r.IO, masters = terminal(t)
	c := h.must(r)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	talk(t, <-masters)
	exitsWith(t, c, 5)

	host := h.run("host", "sleep", "1000")
	spec := process("sh", "-c", script)
	spec.Terminal, spec.ConsoleSize = true, r.Spec.Process.ConsoleSize
	streams, masters := terminal(t)
	p, err := host.(task.Execer).Exec(t.Context(), &task.ExecRequest{ID: "x", Spec: spec, IO: streams})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	talk(t, <-masters)
	exitsWith(t, p, 5)
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
	if s := string(text); !strings.Contains(s, "33 91\n") || !strings.Contains(s, "got word\n") {
		t.Errorf("terminal said %q", s)
	}
}

func TestConsoleNobodyWants(t *testing.T) {
	h := newHost(t)
	r, _ := h.request("c", testkit.Spec(h.fs, "true"))
	r.Spec.Process.Terminal = true
	refused := errors.New("no, thanks")
	r.IO = task.IO{Terminal: true, SetConsole: func(f *os.File) error { f.Close(); return refused }}
	if _, err := h.Create(t.Context(), r); !errors.Is(err, refused) {
		t.Errorf("create: %v", err)
	}
	h.nothingLeft(r)
}

func TestPauseAndResume(t *testing.T) {
	h := newHost(t)
	for name, c := range map[string]task.Task{
		"running": h.run("running", "sleep", "1000"),
		"created": func() task.Task { c, _ := h.create("created", "sleep", "1000"); return c }(),
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
		exitsWith(t, c, 137)
		if err := c.(task.Pauser).Pause(t.Context()); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%s: pause of a stopped container: %v", name, err)
		}
	}
}

// hostPID is a spec without a pid namespace.
func (h *host) hostPID(args ...string) *specs.Spec {
	s := testkit.Spec(h.fs, args...)
	s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
	return s
}

func TestKillAllWithoutPIDNamespace(t *testing.T) {
	h := newHost(t)
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		r, _ := h.request("c"+strconv.Itoa(int(sig)), h.hostPID("sh", "-c", "sleep 1000 & sleep 1000 & wait"))
		c := h.must(r)
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		await(t, c, 3)
		if err := c.Kill(t.Context(), sig, true); err != nil {
			t.Fatal(err)
		}
		exitsWith(t, c, 128+int(sig))
		await(t, c, 0)
	}
}

func TestContainerWithoutPIDNamespaceEndsWithItsInit(t *testing.T) {
	h := newHost(t)
	r, _ := h.request("c", h.hostPID("sh", "-c", "sleep 1000 & exit 3"))
	c := h.must(r)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	exitsWith(t, c, 3)
	await(t, c, 0)
}

// A container may freeze cgroups of its own below its cgroup: what is in there ends too.
func TestNestedFrozenProcesses(t *testing.T) {
	h := newHost(t)
	r, _ := h.request("c", h.hostPID("sleep", "1000"))
	c := h.must(r)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := h.exec(c, "sleep", "1000")
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
	exitsWith(t, p, 137)
	exitsWith(t, c, 137)
	if err := c.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.nothingLeft(r)
}

// await waits until n processes are in c.
func await(t testing.TB, c task.Task, n int) {
	t.Helper()
	testkit.Await(t, 10*time.Second, fmt.Sprintf("%d processes", n), func() bool {
		pids, err := c.(task.Lister).PIDs(t.Context())
		return err == nil && len(pids) == n
	})
}

func TestUpdateThenExec(t *testing.T) {
	h := newHost(t)
	c, r := h.create("c", "sleep", "1000")
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
	p := h.exec(c, "sh", "-c", "exit 4")
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	exitsWith(t, p, 4)
}

func TestStats(t *testing.T) {
	h := newHost(t)
	c := h.run("c", "sleep", "1000")
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
	exitsWith(t, c, 137)
	if err := c.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.(task.Stater).Stats(t.Context()); !errdefs.IsNotFound(err) {
		t.Errorf("stats after delete: %v", err)
	}
}

func TestOOMIsToldOnce(t *testing.T) {
	h := newHost(t)
	r, _ := h.request("c", testkit.Spec(h.fs, "sleep", "1000"))
	r.Spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: new(int64(64 << 20)), Swap: new(int64(64 << 20))}
	c := h.must(r)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := h.exec(c, "sh", "-c", "dd if=/dev/zero of=/dev/null bs=256M count=1")
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

// nothingLeft checks that nothing of a container is on the machine.
func (h *host) nothingLeft(r *task.CreateRequest) {
	h.t.Helper()
	if _, err := os.Stat(h.state(r.ID)); !errors.Is(err, os.ErrNotExist) {
		h.t.Errorf("state is left: %v", err)
	}
	if dirs := cgroups(r.Spec); len(dirs) > 0 {
		h.t.Errorf("cgroups are left: %v", dirs)
	}
}

func TestFailedCreateLeavesNothing(t *testing.T) {
	h := newHost(t)
	for name, test := range map[string]struct {
		change func(r *task.CreateRequest)
		class  func(error) bool // nil: none
		text   string
	}{
		"nonexistent command": {
			func(r *task.CreateRequest) { r.Spec.Process.Args = []string{"nosuch"} }, nil,
			`OCI runtime create failed: runc create failed: unable to start container process: error during container init: exec: "nosuch": executable file not found in $PATH`,
		},
		"missing mount": {func(r *task.CreateRequest) {
			r.Spec.Mounts = append(r.Spec.Mounts, specs.Mount{Destination: "/x", Type: "bind", Source: "/no/such", Options: []string{"bind"}})
		}, nil, "open /no/such: no such file or directory"},
		"missing rootfs":  {func(r *task.CreateRequest) { r.Spec.Root.Path = "/no/such" }, nil, "no such file or directory"},
		"no config.json":  {func(r *task.CreateRequest) { r.Spec = nil }, errdefs.IsInvalidArgument, "config.json"},
		"no process":      {func(r *task.CreateRequest) { r.Spec.Process = nil }, errdefs.IsInvalidArgument, "process"},
		"no root":         {func(r *task.CreateRequest) { r.Spec.Root = nil }, errdefs.IsInvalidArgument, "root"},
		"no linux":        {func(r *task.CreateRequest) { r.Spec.Linux = nil }, errdefs.IsInvalidArgument, "linux"},
		"bad id":          {func(r *task.CreateRequest) { r.ID = "../x" }, errdefs.IsInvalidArgument, "invalid container ID"},
		"bad namespace":   {func(r *task.CreateRequest) { r.Spec.Linux.Namespaces[0].Type = "fun" }, errdefs.IsInvalidArgument, "fun"},
		"failing hook":    {func(r *task.CreateRequest) { r.Spec.Hooks = hook("false") }, nil, "createRuntime hook #0: exit status 1"},
		"missing bundle":  {func(r *task.CreateRequest) { r.Bundle = "/no/such" }, nil, "no such file or directory"},
		"checkpoint":      {func(r *task.CreateRequest) { r.Checkpoint = "/x" }, errdefs.IsNotImplemented, ""},
		"another runtime": {func(r *task.CreateRequest) { r.Options = anyOptions(t, &runcoptions.Options{BinaryName: "crun"}) }, errdefs.IsNotImplemented, `"crun"`},
		"relative root":   {func(r *task.CreateRequest) { r.Options = anyOptions(t, &runcoptions.Options{Root: "x"}) }, errdefs.IsInvalidArgument, "absolute"},
		"foreign options": {func(r *task.CreateRequest) { r.Options = &anypb.Any{TypeUrl: "fun.Options"} }, errdefs.IsInvalidArgument, "fun.Options"},
		"torn options":    {func(r *task.CreateRequest) { r.Options = anyOptions(t, nil); r.Options.Value = []byte{0xff} }, errdefs.IsInvalidArgument, ""},
		"no systemd cgroup": {func(r *task.CreateRequest) {
			r.Options = anyOptions(t, &runcoptions.Options{SystemdCgroup: true})
		}, errdefs.IsInvalidArgument, "slice:prefix:name"},
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := h.request("c", testkit.Spec(h.fs, "true"))
			spec := *r.Spec
			test.change(r)
			c, err := h.Create(t.Context(), r)
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
			h.nothingLeft(r)
		})
	}
}

func anyOptions(t testing.TB, o *runcoptions.Options) *anypb.Any {
	t.Helper()
	if o == nil {
		o = new(runcoptions.Options)
	}
	a, err := anypb.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// hook is a createRuntime hook that runs a shell script.
func hook(script string) *specs.Hooks {
	return &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", script}}}}
}

func TestDuplicateID(t *testing.T) {
	h := newHost(t)
	c := h.run("c", "sleep", "1000")
	r, _ := h.request("c", testkit.Spec(h.fs, "true"))
	if _, err := h.Create(t.Context(), r); !errdefs.IsAlreadyExists(err) {
		t.Errorf("create: %v", err)
	}
	p := h.exec(c, "true")
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	exitsWith(t, p, 0)
}

// A create that hangs in a hook ends when its context does, with everything that the hook has started.
func TestStuckCreate(t *testing.T) {
	h := newHost(t)
	r, _ := h.request("c", testkit.Spec(h.fs, "true"))
	mark := filepath.Join(t.TempDir(), "hooked")
	r.Spec.Hooks = hook("touch " + mark + "; sleep 1000 & sleep 1000; true")
	ctx, cancel := context.WithCancelCause(t.Context())
	killed := errors.New("killed")
	go func() {
		testkit.Await(t, 10*time.Second, "the hook", func() bool { _, err := os.Stat(mark); return err == nil })
		cancel(killed)
	}()
	if _, err := h.Create(ctx, r); !errors.Is(err, killed) {
		t.Errorf("create: %v", err)
	}
	h.nothingLeft(r)
	if _, err := h.Create(ctx, r); !errors.Is(err, killed) {
		t.Errorf("create with an ended context: %v", err)
	}
	h.nothingLeft(r)
}

// SIGKILL reaches an exec at any moment of its start, and nothing of it stays.
func TestKillWhileExecStarts(t *testing.T) {
	h := newHost(t)
	c := h.run("c", "sleep", "1000")
	var wg sync.WaitGroup
	for range 8 {
		p := h.exec(c, "sleep", "1000")
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
				exitsWith(t, p, 137)
			}
		})
	}
	wg.Wait()
	await(t, c, 1)
}

func TestTwentyAtOnce(t *testing.T) {
	h := newHost(t)
	var wg sync.WaitGroup
	for i := range 20 {
		r, _ := h.request(fmt.Sprint("c", i), testkit.Spec(h.fs, "sh", "-c", fmt.Sprint("exit ", i)))
		wg.Go(func() {
			c, err := h.Create(t.Context(), r)
			if err != nil {
				t.Error(err)
				return
			}
			if err := c.Start(t.Context()); err != nil {
				t.Error(err)
			}
			exitsWith(t, c, i)
			if err := c.Delete(t.Context()); err != nil {
				t.Error(err)
			}
			h.nothingLeft(r)
		})
	}
	wg.Wait()
}

func TestParallelExecs(t *testing.T) {
	h := newHost(t)
	c := h.run("c", "sleep", "1000")
	var wg sync.WaitGroup
	for i := range 40 {
		p := h.exec(c, "sh", "-c", fmt.Sprint("exit ", i))
		wg.Go(func() {
			if err := p.Start(t.Context()); err != nil {
				t.Error(err)
				return
			}
			exitsWith(t, p, i)
		})
	}
	wg.Wait()
}

func TestInfo(t *testing.T) {
	e := container.New(container.Config{})
	info, err := e.Info(t.Context(), anyOptions(t, &runcoptions.Options{Root: "/x"}))
	if err != nil {
		t.Fatal(err)
	}
	if info.Name != "io.containerd.runc.v2" || info.Options == nil || !strings.Contains(string(info.Features.Value), `"ociVersionMax"`) {
		t.Errorf("info %v", info)
	}
	if _, err := e.Info(t.Context(), &anypb.Any{TypeUrl: "fun"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("foreign options: %v", err)
	}
}
