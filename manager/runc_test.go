package manager_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/shimwright/shimwright/internal/testkit"
	"github.com/shimwright/shimwright/manager"
)

// host runs containers through a manager, and writes down their events.
type host struct {
	t       *testing.T
	runtime string
	rootfs  string
	config  manager.Config
	options *anypb.Any // of every task; nil: none
	*manager.Manager

	events chan map[string][]string // by container; nil until the manager is closed
	seen   map[string][]string      // of earlier managers
}

// newHost is a host for the project's runc shim. When the test ends, nothing may be left of it on the machine.
func newHost(t *testing.T, dialect manager.Dialect) *host {
	t.Helper()
	testkit.RequireRoot(t)
	testkit.NoLeaks(t)
	return newHostOf(t, dialect, testkit.Build(t, "./cmd/containerd-shim-runc-v2"), true)
}

func newHostOf(t *testing.T, dialect manager.Dialect, runtime string, ours bool) *host {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "m")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, pattern := range []string{"state/tasks/*/*", "root/tasks/*/*", "s/*"} {
			left, _ := filepath.Glob(filepath.Join(dir, pattern))
			// containerd's shim leaves its socket when it is killed.
			if len(left) > 0 && (ours || pattern != "s/*") {
				t.Errorf("left: %q", left)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	h := &host{
		t:       t,
		runtime: runtime,
		rootfs:  testkit.Rootfs(t),
		config: manager.Config{
			State:     filepath.Join(dir, "state"),
			Root:      filepath.Join(dir, "root"),
			SocketDir: filepath.Join(dir, "s"),
			Dialect:   dialect,
		},
		seen: make(map[string][]string),
	}
	h.open()
	t.Cleanup(func() { h.close() })
	return h
}

// open begins with a new manager.
func (h *host) open() {
	h.t.Helper()
	m, err := manager.New(h.config)
	if err != nil {
		h.t.Fatal(err)
	}
	h.Manager = m
	h.events = make(chan map[string][]string, 1)
	go func(out chan<- map[string][]string) {
		seen := make(map[string][]string)
		for e := range m.Events() {
			id, what := describe(e)
			seen[id] = append(seen[id], what)
		}
		out <- seen
	}(h.events)
}

// close drops the manager and returns all events so far.
func (h *host) close() map[string][]string {
	h.t.Helper()
	if h.events != nil {
		if err := h.Close(); err != nil {
			h.t.Error(err)
		}
		for id, seen := range <-h.events {
			// A manager that closes may have taken an event without answering for it: then the next one gets it again.
			if old := h.seen[id]; len(old) > 0 && len(seen) > 0 && old[len(old)-1] == seen[0] {
				seen = seen[1:]
			}
			h.seen[id] = append(h.seen[id], seen...)
		}
		h.events = nil
	}
	return h.seen
}

// describe makes an event a word: its name, the exec's id and, for ends, the status.
func describe(e manager.Event) (id, what string) {
	switch m := e.Message.(type) {
	case *events.TaskCreate:
		return m.ContainerID, "create"
	case *events.TaskStart:
		return m.ContainerID, "start"
	case *events.TaskExecAdded:
		return m.ContainerID, "added " + m.ExecID
	case *events.TaskExecStarted:
		return m.ContainerID, "started " + m.ExecID
	case *events.TaskPaused:
		return m.ContainerID, "paused"
	case *events.TaskResumed:
		return m.ContainerID, "resumed"
	case *events.TaskExit:
		if m.ID != m.ContainerID {
			return m.ContainerID, fmt.Sprintf("exit %s %d", m.ID, m.ExitStatus)
		}
		return m.ContainerID, fmt.Sprintf("exit %d", m.ExitStatus)
	case *events.TaskDelete:
		if m.ID != "" && m.ID != m.ContainerID {
			return m.ContainerID, fmt.Sprintf("delete %s %d", m.ID, m.ExitStatus)
		}
		return m.ContainerID, fmt.Sprintf("delete %d", m.ExitStatus)
	}
	return "", fmt.Sprintf("%T", e.Message)
}

// A container is one with its shim.
type container struct {
	h  *host
	id string
	*manager.Shim
}

func (h *host) spec(args ...string) *specs.Spec { return testkit.Spec(h.rootfs, args...) }

// create starts a shim and creates a container, with io if that is not nil.
func (h *host) create(ctx context.Context, id string, spec *specs.Spec, io *testkit.Stdio) (*container, error) {
	s, err := h.Start(ctx, manager.StartRequest{ID: id, Namespace: "test", Runtime: h.runtime, Spec: spec})
	if err != nil {
		return nil, err
	}
	r := &taskapi.CreateTaskRequest{ID: id, Bundle: s.Bundle(), Options: h.options}
	if io != nil {
		r.Stdin, r.Stdout, r.Stderr = io.Stdin, io.Stdout, io.Stderr
	}
	if _, err := s.Task().Create(ctx, r); err != nil {
		_, deleteErr := h.Delete(ctx, s)
		return nil, errors.Join(err, deleteErr)
	}
	return &container{h, id, s}, nil
}

// run creates and starts a container.
func (h *host) run(id string, spec *specs.Spec, io *testkit.Stdio) *container {
	h.t.Helper()
	c, err := h.create(h.t.Context(), id, spec, io)
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := c.Task().Start(h.t.Context(), &taskapi.StartRequest{ID: id}); err != nil {
		h.t.Fatal(err)
	}
	return c
}

// exec runs a process in the container.
func (c *container) exec(id string, p *specs.Process, io *testkit.Stdio) {
	t := c.h.t
	t.Helper()
	packed, err := manager.Pack(p)
	if err != nil {
		t.Fatal(err)
	}
	r := &taskapi.ExecProcessRequest{ID: c.id, ExecID: id, Terminal: p.Terminal, Spec: packed}
	if io != nil {
		r.Stdin, r.Stdout = io.Stdin, io.Stdout
		if !p.Terminal {
			r.Stderr = io.Stderr
		}
	}
	if _, err := c.Task().Exec(t.Context(), r); err != nil {
		t.Fatalf("exec %s: %v", id, err)
	}
	if _, err := c.Task().Start(t.Context(), &taskapi.StartRequest{ID: c.id, ExecID: id}); err != nil {
		t.Fatalf("start %s: %v", id, err)
	}
}

func (c *container) kill(execID string, sig syscall.Signal) {
	c.h.t.Helper()
	if _, err := c.Task().Kill(c.h.t.Context(), &taskapi.KillRequest{ID: c.id, ExecID: execID, Signal: uint32(sig)}); err != nil {
		c.h.t.Errorf("kill %s %s: %v", c.id, execID, err)
	}
}

// wait fails the test if the process does not end with want.
func (c *container) wait(execID string, want uint32) {
	c.h.t.Helper()
	ctx, cancel := context.WithTimeout(c.h.t.Context(), 20*time.Second)
	defer cancel()
	r, err := c.Task().Wait(ctx, &taskapi.WaitRequest{ID: c.id, ExecID: execID})
	if err != nil || r.ExitStatus != want {
		c.h.t.Errorf("wait for %s %s: %v, %v, want %d", c.id, execID, r, err, want)
	}
}

func (c *container) deleteExec(execID string, want uint32) {
	c.h.t.Helper()
	r, err := c.Task().Delete(c.h.t.Context(), &taskapi.DeleteRequest{ID: c.id, ExecID: execID})
	if err != nil || r.ExitStatus != want {
		c.h.t.Errorf("delete %s %s: %v, %v, want %d", c.id, execID, r, err, want)
	}
}

// delete removes the container and fails the test if it did not end with want.
func (c *container) delete(want int) {
	c.h.t.Helper()
	exit, err := c.h.Delete(c.h.t.Context(), c.Shim)
	if err != nil || exit.Status != want {
		c.h.t.Errorf("delete %s: %+v, %v, want %d", c.id, exit, err, want)
	}
}

func (c *container) status(execID string, want task.Status) {
	c.h.t.Helper()
	r, err := c.Task().State(c.h.t.Context(), &taskapi.StateRequest{ID: c.id, ExecID: execID})
	if err != nil || r.Status != want {
		c.h.t.Errorf("state of %s %s: %v, %v, want %v", c.id, execID, r.GetStatus(), err, want)
	}
}

func process(args ...string) *specs.Process {
	return &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}}
}

// happened fails the test if the container's events were not these. The manager is closed.
func (h *host) happened(id string, want ...string) {
	h.t.Helper()
	if diff := cmp.Diff(want, h.close()[id]); diff != "" {
		h.t.Errorf("events of %s: %s", id, diff)
	}
}

func TestRuncLifecycle(t *testing.T) {
	for _, dialect := range []manager.Dialect{manager.Containerd23, manager.Containerd17, manager.Containerd16} {
		t.Run(fmt.Sprint(dialect), func(t *testing.T) {
			h := newHost(t, dialect)
			io := testkit.FIFOs(t)
			spec := testkit.Spec("rootfs", "sh", "-c", "echo out; echo err >&2; exit 7")
			s, err := h.Start(t.Context(), manager.StartRequest{ID: "c1", Namespace: "test", Runtime: h.runtime, Spec: spec})
			if err != nil {
				t.Fatal(err)
			}
			c := &container{h, "c1", s}
			created, err := s.Task().Create(t.Context(), &taskapi.CreateTaskRequest{
				ID: c.id, Bundle: s.Bundle(), Stdin: io.Stdin, Stdout: io.Stdout, Stderr: io.Stderr,
				Rootfs: []*types.Mount{{Type: "bind", Source: h.rootfs, Options: []string{"rbind", "rw"}}},
			})
			if err != nil {
				t.Fatal(err)
			}
			c.status("", task.Status_CREATED)
			started, err := s.Task().Start(t.Context(), &taskapi.StartRequest{ID: c.id})
			if err != nil || started.Pid != created.Pid || started.Pid == 0 {
				t.Errorf("created as %d, started as %v, %v", created.Pid, started, err)
			}
			waited, err := s.Task().Wait(t.Context(), &taskapi.WaitRequest{ID: c.id})
			if err != nil {
				t.Fatal(err)
			}
			c.status("", task.Status_STOPPED)
			exit, err := h.Delete(t.Context(), s)
			want := manager.Exit{PID: int(created.Pid), Status: 7, At: waited.ExitedAt.AsTime()}
			if err != nil || waited.ExitStatus != 7 || exit != want {
				t.Errorf("got %+v, %v, want %+v", exit, err, want)
			}
			if out, err := io.Output(), io.Errors(); out != "out\n" || err != "err\n" {
				t.Errorf("stdout %q, stderr %q", out, err)
			}
			h.happened(c.id, "create", "start", "exit 7", "delete 7")
		})
	}
}

// bothEngines runs a test with the shim's own engine, and with an OCI runtime's binary.
func bothEngines(t *testing.T, test func(t *testing.T, h *host)) {
	t.Run("libcontainer", func(t *testing.T) { test(t, newHost(t, manager.Containerd23)) })
	t.Run("runc", func(t *testing.T) {
		h := newHost(t, manager.Containerd23)
		binary, err := exec.LookPath("runc")
		if err != nil {
			testkit.Missing(t, "needs runc (hack/deps.sh test): %v", err)
		}
		if h.options, err = anypb.New(&runcoptions.Options{BinaryName: binary}); err != nil {
			t.Fatal(err)
		}
		test(t, h)
	})
}

func TestRuncProcesses(t *testing.T) { bothEngines(t, testProcesses) }

func testProcesses(t *testing.T, h *host) {
	io := testkit.FIFOs(t)
	c := h.run("c1", h.spec("cat"), io)
	service := c.Task()

	plain := testkit.FIFOs(t)
	c.exec("plain", process("sh", "-c", "cat; exit 3"), plain)
	fmt.Fprint(plain.In, "through stdin\n")
	if _, err := service.CloseIO(t.Context(), &taskapi.CloseIORequest{ID: c.id, ExecID: "plain", Stdin: true}); err != nil {
		t.Error(err)
	}
	plain.In.Close()
	c.wait("plain", 3)
	if out := plain.Output(); out != "through stdin\n" {
		t.Errorf("stdout %q", out)
	}
	c.deleteExec("plain", 3)

	tty := testkit.FIFOs(t)
	p := process("sh", "-c", "tty; read line; stty size; exit 4")
	p.Terminal = true
	c.exec("tty", p, tty)
	if _, err := service.ResizePty(t.Context(), &taskapi.ResizePtyRequest{ID: c.id, ExecID: "tty", Width: 91, Height: 17}); err != nil {
		t.Error(err)
	}
	fmt.Fprint(tty.In, "go\n")
	c.wait("tty", 4)
	if out := tty.Output(); !strings.Contains(out, "/dev/pts/") || !strings.Contains(out, "17 91") {
		t.Errorf("terminal %q", out)
	}
	c.deleteExec("tty", 4)

	c.exec("long", process("sleep", "1000"), nil)
	pids, err := service.Pids(t.Context(), &taskapi.PidsRequest{ID: c.id})
	if err != nil || len(pids.Processes) != 2 {
		t.Errorf("pids: %v, %v", pids, err)
	}
	stats, err := service.Stats(t.Context(), &taskapi.StatsRequest{ID: c.id})
	if url := stats.GetStats().GetTypeUrl(); err != nil || !slices.Contains([]string{"io.containerd.cgroups.v1.Metrics", "io.containerd.cgroups.v2.Metrics"}, url) {
		t.Errorf("stats: %q, %v", url, err)
	}
	limit := int64(64 << 20)
	resources, err := manager.Pack(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := service.Update(t.Context(), &taskapi.UpdateTaskRequest{ID: c.id, Resources: resources}); err != nil {
		t.Error(err)
	}
	if _, err := service.Pause(t.Context(), &taskapi.PauseRequest{ID: c.id}); err != nil {
		t.Error(err)
	}
	c.status("", task.Status_PAUSED)
	c.status("long", task.Status_PAUSED)
	if _, err := service.Resume(t.Context(), &taskapi.ResumeRequest{ID: c.id}); err != nil {
		t.Error(err)
	}
	c.status("", task.Status_RUNNING)
	c.kill("long", syscall.SIGTERM)
	c.wait("long", 128+15)
	c.deleteExec("long", 128+15)
	if _, err := service.Kill(t.Context(), &taskapi.KillRequest{ID: c.id, ExecID: "long", Signal: 9}); !errdefs.IsNotFound(err) {
		t.Errorf("kill what is gone: %v", err)
	}
	if _, err := h.Delete(t.Context(), c.Shim); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("delete what is running: %v", err)
	}
	c.kill("", syscall.SIGKILL)
	c.wait("", 137)
	c.delete(137)
	h.happened(c.id, "create", "start",
		"added plain", "started plain", "exit plain 3", "delete plain 3",
		"added tty", "started tty", "exit tty 4", "delete tty 4",
		"added long", "started long", "paused", "resumed", "exit long 143", "delete long 143",
		"exit 137", "delete 137")
}

// lifecycle takes a container from its bundle to its removal, with no pause between the steps.
func (h *host) lifecycle(ctx context.Context, id string, status int) error {
	c, err := h.create(ctx, id, h.spec("sh", "-c", fmt.Sprint("exit ", status)), nil)
	if err != nil {
		return err
	}
	if _, err := c.Task().Start(ctx, &taskapi.StartRequest{ID: id}); err != nil {
		return fmt.Errorf("start %s: %w", id, err)
	}
	r, err := c.Task().Wait(ctx, &taskapi.WaitRequest{ID: id})
	if err != nil || int(r.ExitStatus) != status {
		return fmt.Errorf("wait for %s: %v, %w", id, r, err)
	}
	exit, err := h.Delete(ctx, c.Shim)
	if err != nil || exit.Status != status || !exit.At.Equal(r.ExitedAt.AsTime()) {
		return fmt.Errorf("delete %s: %+v, %w", id, exit, err)
	}
	return nil
}

// lifecycles runs n of them, some at a time, and looks at each one's events.
func (h *host) lifecycles(n, atOnce int) {
	h.t.Helper()
	var (
		all   sync.WaitGroup
		slots = make(chan struct{}, atOnce)
	)
	for i := range n {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			if err := h.lifecycle(h.t.Context(), fmt.Sprint("c", i), i%200); err != nil {
				h.t.Error(err)
			}
		})
	}
	all.Wait()
	for i := range n {
		h.happened(fmt.Sprint("c", i), "create", "start", fmt.Sprint("exit ", i%200), fmt.Sprint("delete ", i%200))
	}
}

func TestRunc200OneAfterAnother(t *testing.T) {
	newHost(t, manager.Containerd23).lifecycles(200, 1)
}

func TestRunc20AtOnce(t *testing.T) {
	newHost(t, manager.Containerd23).lifecycles(20, 20)
}

// Delete comes right after Wait, and Shutdown right after Delete: no event may be lost on the way.
func TestRunc500LifecyclesEightAtATime(t *testing.T) {
	newHost(t, manager.Containerd23).lifecycles(500, 8)
}

func TestRuncManagerDroppedAndLoaded(t *testing.T) {
	h := newHost(t, manager.Containerd23)
	io := testkit.FIFOs(t)
	h.run("stays", h.spec("sleep", "1000"), nil)
	ends := h.run("ends", h.spec("sh", "-c", "read line; exit 5"), io)
	execs := h.run("execs", h.spec("sleep", "1000"), nil)
	execIO := testkit.FIFOs(t)
	execs.exec("e1", process("sh", "-c", "read line; echo $line; exit 6"), execIO)
	killed := h.run("killed", h.spec("sleep", "1000"), nil)
	if _, err := h.create(t.Context(), "created", h.spec("sh", "-c", "exit 8"), nil); err != nil {
		t.Fatal(err)
	}
	h.close()

	// Meanwhile: one container ends, one exec ends, one shim dies.
	fmt.Fprint(io.In, "end\n")
	fmt.Fprint(execIO.In, "meanwhile\n")
	if out := io.Output() + execIO.Output(); out != "meanwhile\n" {
		t.Errorf("output %q", out)
	}
	if err := syscall.Kill(killed.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(ends.Bundle(), "bootstrap.json"), 3); err != nil {
		t.Fatal(err)
	}

	h.open()
	found, err := h.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	containers := make(map[string]*container)
	for _, l := range found {
		if l.ID == "killed" {
			if l.Exit == nil || l.Exit.Status != 137 {
				t.Errorf("%s: %+v, %v", l.ID, l.Exit, l.Err)
			}
			continue
		}
		if l.Shim == nil {
			t.Fatalf("%s: %+v, %v", l.ID, l.Exit, l.Err)
		}
		containers[l.ID] = &container{h, l.ID, l.Shim}
	}
	if len(containers) != 4 {
		t.Fatalf("found %+v", found)
	}

	c := containers["ends"]
	c.wait("", 5)
	c.status("", task.Status_STOPPED)
	c.delete(5)

	c = containers["execs"]
	c.wait("e1", 6)
	c.deleteExec("e1", 6)
	again := testkit.FIFOs(t)
	c.exec("e2", process("echo", "still here"), again)
	c.wait("e2", 0)
	if out := again.Output(); out != "still here\n" {
		t.Errorf("exec says %q", out)
	}
	c.deleteExec("e2", 0)
	c.kill("", syscall.SIGKILL)
	c.wait("", 137)
	c.delete(137)

	c = containers["stays"]
	c.status("", task.Status_RUNNING)
	c.kill("", syscall.SIGTERM)
	c.kill("", syscall.SIGKILL)
	c.wait("", 137)
	c.delete(137)

	c = containers["created"]
	c.status("", task.Status_CREATED)
	if _, err := c.Task().Start(t.Context(), &taskapi.StartRequest{ID: c.id}); err != nil {
		t.Error(err)
	}
	c.wait("", 8)
	c.delete(8)

	// The old manager had what happened before it went, the new one has the rest: nothing is missing or out of order.
	h.happened("ends", "create", "start", "exit 5", "delete 5")
	h.happened("execs", "create", "start", "added e1", "started e1", "exit e1 6", "delete e1 6",
		"added e2", "started e2", "exit e2 0", "delete e2 0", "exit 137", "delete 137")
	h.happened("stays", "create", "start", "exit 137", "delete 137")
	h.happened("created", "create", "start", "exit 8", "delete 8")
}

func TestRuncShimKilled(t *testing.T) { bothEngines(t, testShimKilled) }

func testShimKilled(t *testing.T, h *host) {
	kill := func(c *container) {
		t.Helper()
		if err := syscall.Kill(c.PID(), syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}

	c := h.run("running", h.spec("sh", "-c", "sleep 1000 & sleep 1000"), nil)
	c.exec("e1", process("sleep", "1000"), nil)
	kill(c)
	c.delete(137)

	c, err := h.create(t.Context(), "created", h.spec("true"), nil)
	if err != nil {
		t.Fatal(err)
	}
	kill(c)
	c.delete(137)

	c = h.run("paused", h.spec("sleep", "1000"), nil)
	if _, err := c.Task().Pause(t.Context(), &taskapi.PauseRequest{ID: c.id}); err != nil {
		t.Fatal(err)
	}
	kill(c)
	c.delete(137)

	// Whoever was told 7 may kill the shim in the same moment: delete says 7 as well.
	n := 20
	if h.options != nil {
		n = 5 // each step is a process
	}
	for i := range n {
		c := h.run(fmt.Sprint("exited", i), h.spec("sh", "-c", "exit 7"), nil)
		r, err := c.Task().Wait(t.Context(), &taskapi.WaitRequest{ID: c.id})
		kill(c)
		if err != nil {
			t.Fatal(err)
		}
		exit, err := h.Delete(t.Context(), c.Shim)
		if err != nil || exit.Status != 7 || !exit.At.Equal(r.ExitedAt.AsTime()) {
			t.Errorf("got %+v, %v, want 7 at %v", exit, err, r.ExitedAt.AsTime())
		}
	}
}

func TestRuncPod(t *testing.T) {
	h := newHost(t, manager.Containerd23)
	const n = 5
	var (
		all     sync.WaitGroup
		members [n]*container
	)
	for i := range n { // at once
		all.Go(func() {
			spec := h.spec("sh", "-c", fmt.Sprint("trap 'exit ", i, "' TERM; sleep 1000 & wait"))
			spec.Annotations = map[string]string{"io.kubernetes.cri.sandbox-id": "pod"}
			c, err := h.create(t.Context(), fmt.Sprint("c", i), spec, nil)
			if err == nil {
				_, err = c.Task().Start(t.Context(), &taskapi.StartRequest{ID: c.id})
			}
			if err != nil {
				t.Error(err)
			}
			members[i] = c
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
	pid := members[0].PID()
	for _, c := range members {
		if c.PID() != pid {
			t.Errorf("%s has shim %d, and not %d", c.id, c.PID(), pid)
		}
	}
	// A new manager reaches the one shim through each member's bundle.
	h.close()
	h.open()
	found, err := h.Load(t.Context())
	if err != nil || len(found) != n {
		t.Fatalf("found %+v, %v", found, err)
	}
	for i, l := range found {
		if l.Shim == nil || l.Shim.PID() != pid {
			t.Fatalf("%s: %+v, %v", l.ID, l, l.Err)
		}
		c := &container{h, l.ID, l.Shim}
		c.kill("", syscall.SIGKILL)
		c.wait("", 137)
		c.delete(137)
		if i < n-1 && ended(pid) {
			t.Errorf("the shim ended with %s", l.ID)
		}
	}
	for _, c := range members {
		h.happened(c.id, "create", "start", "exit 137", "delete 137")
	}
}

// A pod's shim that dies takes no member's exit with it.
func TestRuncPodShimKilled(t *testing.T) {
	h := newHost(t, manager.Containerd23)
	var members []*container
	for i, script := range []string{"exit 7", "sleep 1000", "sleep 1000"} {
		spec := h.spec("sh", "-c", script)
		spec.Annotations = map[string]string{"io.containerd.runc.v2.group": "pod"}
		members = append(members, h.run(fmt.Sprint("c", i), spec, nil))
	}
	members[0].wait("", 7)
	h.close()
	if err := syscall.Kill(members[0].PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.open()
	found, err := h.Load(t.Context())
	if err != nil || len(found) != 3 {
		t.Fatalf("found %+v, %v", found, err)
	}
	for i, want := range []int{7, 137, 137} {
		if l := found[i]; l.Exit == nil || l.Exit.Status != want {
			t.Errorf("%s: %+v, %v, want %d", l.ID, l.Exit, l.Err, want)
		}
	}
}

func TestCreateThatFailsLeavesNothing(t *testing.T) {
	h := newHost(t, manager.Containerd23)
	for name, change := range map[string]func(*specs.Spec){
		"command": func(s *specs.Spec) { s.Process.Args = []string{"/no/such/command"} },
		"rootfs":  func(s *specs.Spec) { s.Root.Path = "/no/such/rootfs" },
	} {
		spec := h.spec("true")
		change(spec)
		c, err := h.create(t.Context(), name, spec, nil)
		if err == nil { // then it has to be Start
			if _, err = c.Task().Start(t.Context(), &taskapi.StartRequest{ID: name}); err == nil {
				t.Errorf("%s: no error", name)
			}
			if _, err := h.Delete(t.Context(), c.Shim); err != nil {
				t.Error(err)
			}
		}
		t.Logf("%s: %v", name, err)
	}
}

// TestContainerdsShim looks for containerd's own shim, and the runc that it calls, in PATH.
func TestContainerdsShim(t *testing.T) {
	shim, err := exec.LookPath("containerd-shim-runc-v2")
	if err != nil {
		testkit.Missing(t, "needs containerd's shim in PATH")
	}
	if _, err := exec.LookPath("runc"); err != nil {
		testkit.Missing(t, "needs runc in PATH")
	}
	testkit.RequireRoot(t)
	testkit.NoLeaks(t)
	h := newHostOf(t, manager.Containerd23, shim, false)
	c := h.run("c1", h.spec("sleep", "1000"), nil)
	c.exec("e1", process("sh", "-c", "exit 3"), nil)
	c.wait("e1", 3)
	c.deleteExec("e1", 3)
	h.run("dies", h.spec("sleep", "1000"), nil)
	h.close()

	h.open()
	found, err := h.Load(t.Context())
	if err != nil || len(found) != 2 || found[0].Shim == nil || found[1].Shim == nil {
		t.Fatalf("found %+v, %v", found, err)
	}
	c = &container{h, "c1", found[0].Shim}
	c.kill("", syscall.SIGKILL)
	c.wait("", 137)
	c.delete(137)
	c = &container{h, "dies", found[1].Shim}
	if err := syscall.Kill(c.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	c.delete(137)
}
