package server

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/shimwright/shimwright/internal/supervise"
	"github.com/shimwright/shimwright/task"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// fakeRuntime makes tasks without processes. What a test wants to go wrong it sets before.
type fakeRuntime struct {
	create func(context.Context, *task.CreateRequest) error // before a task is made
	start  func(context.Context, *fakeProcess) error        // in Start of any process
	kill   func(*fakeProcess)                               // before any Kill
	dump   func(*fakeTask, *task.CheckpointRequest) error   // Checkpoint
	spare  bool                                             // tasks have none of the optional parts

	pids atomic.Int32
	mu   sync.Mutex
	all  []*fakeProcess
}

func (f *fakeRuntime) Create(ctx context.Context, r *task.CreateRequest) (task.Task, error) {
	if f.create != nil {
		if err := f.create(ctx, r); err != nil {
			return nil, err
		}
	}
	p := f.process("")
	if r.Checkpoint == "" { // else Start makes the process
		p.pid.Store(f.pids.Add(1) + 1000)
	}
	if f.spare {
		return struct{ task.Process }{p}, nil
	}
	return &fakeTask{p, f}, nil
}

func (f *fakeRuntime) process(execID string) *fakeProcess {
	p := &fakeProcess{runtime: f, execID: execID, ended: make(chan struct{})}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = append(f.all, p)
	return p
}

// leftover lists the processes that were not freed.
func (f *fakeRuntime) leftover() (left []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.all {
		if !p.deleted.Load() {
			left = append(left, fmt.Sprintf("%q pid %d", p.execID, p.pid.Load()))
		}
	}
	return left
}

type fakeProcess struct {
	runtime *fakeRuntime
	execID  string
	pid     atomic.Int32
	once    sync.Once
	exit    task.Exit
	ended   chan struct{}
	deleted atomic.Bool
	oom     bool   // its exit has an OOM
	kills   func() // tells of an OOM kill; the first process's
}

func (p *fakeProcess) PID() int { return int(p.pid.Load()) }

func (p *fakeProcess) Start(ctx context.Context) error {
	if f := p.runtime.start; f != nil {
		if err := f(ctx, p); err != nil {
			return err
		}
	}
	if p.pid.Load() == 0 {
		p.pid.Store(p.runtime.pids.Add(1) + 1000)
	}
	return nil
}

func (p *fakeProcess) end(status int) {
	p.once.Do(func() {
		p.exit = task.Exit{Status: status, At: time.Now(), OOM: p.oom}
		close(p.ended)
	})
}

func (p *fakeProcess) Kill(_ context.Context, sig syscall.Signal, _ bool) error {
	if f := p.runtime.kill; f != nil {
		f(p)
	}
	select {
	case <-p.ended:
		return fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
	default:
	}
	if sig == syscall.SIGKILL || sig == syscall.SIGTERM {
		p.end(128 + int(sig))
	}
	return nil
}

func (p *fakeProcess) Wait() task.Exit { <-p.ended; return p.exit }

func (p *fakeProcess) Delete(context.Context) error { p.deleted.Store(true); return nil }

type fakeTask struct {
	*fakeProcess
	runtime *fakeRuntime
}

func (t *fakeTask) Exec(_ context.Context, r *task.ExecRequest) (task.Process, error) {
	return t.runtime.process(r.ID), nil
}

func (t *fakeTask) Checkpoint(_ context.Context, r *task.CheckpointRequest) error {
	return t.runtime.dump(t, r)
}
func (t *fakeTask) WatchOOM(tell func()) error                        { t.kills = tell; return nil }
func (t *fakeTask) Pause(context.Context) error                       { return nil }
func (t *fakeTask) Resume(context.Context) error                      { return nil }
func (t *fakeTask) Update(context.Context, *task.UpdateRequest) error { return nil }
func (t *fakeTask) Stats(context.Context) (proto.Message, error)      { return wrapperspb.Bool(true), nil }

// harness is a served fake runtime and a client of it.
type harness struct {
	*ttrpc.Client
	t       *testing.T
	runtime *fakeRuntime
	sup     *supervise.Supervisor
	address string
	bundle  string
	down    chan struct{} // receives for each Shutdown that is granted

	mu     sync.Mutex
	events []any
}

func serve(t *testing.T, rt *fakeRuntime, more ...ttrpc.UnaryServerInterceptor) *harness {
	t.Helper()
	h := &harness{t: t, runtime: rt, bundle: t.TempDir(), down: make(chan struct{}, 16)}
	h.sup = supervise.New(supervise.Config{
		Runtime: rt, Namespace: "test", Log: slog.New(slog.NewTextHandler(testLog{t}, nil)),
		Publish: func(_ string, e any) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.events = append(h.events, e)
		},
	})
	srv, err := New(Config{
		Supervisor: h.sup, Shutdown: func() { h.down <- struct{}{} },
		Interceptors: more, Log: slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	h.address = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", h.address)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(context.Background(), l) }()
	h.Client = h.dial()
	t.Cleanup(func() {
		srv.Close()
		if err := <-served; err != nil {
			t.Error("serve:", err)
		}
	})
	return h
}

func (h *harness) dial() *ttrpc.Client {
	h.t.Helper()
	conn, err := net.Dial("unix", h.address)
	if err != nil {
		h.t.Fatal(err)
	}
	c := ttrpc.NewClient(conn)
	h.t.Cleanup(func() { c.Close() })
	return c
}

// call calls a method of the v3 service and returns the error's class.
func (h *harness) call(method string, req, resp any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return errgrpc.ToNative(h.Call(ctx, "containerd.task.v3.Task", method, req, resp))
}

func do[R any](h *harness, method string, req any) *R {
	h.t.Helper()
	resp := new(R)
	if err := h.call(method, req, resp); err != nil {
		h.t.Fatalf("%s: %v", method, err)
	}
	return resp
}

// create makes task id, and with started runs it.
func (h *harness) create(id string, started bool) {
	h.t.Helper()
	do[taskapi.CreateTaskResponse](h, "Create", &taskapi.CreateTaskRequest{ID: id, Bundle: h.bundle})
	if started {
		do[taskapi.StartResponse](h, "Start", &taskapi.StartRequest{ID: id})
	}
}

// told lists the events so far, in short: "create a", "start a", "exit a/x 7" …
func (h *harness) told() (told []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	name := func(id, exec string) string {
		if exec != "" && exec != id {
			return id + "/" + exec
		}
		return id
	}
	for _, e := range h.events {
		switch e := e.(type) {
		case *events.TaskCreate:
			told = append(told, "create "+e.ContainerID)
		case *events.TaskStart:
			told = append(told, "start "+e.ContainerID)
		case *events.TaskExecAdded:
			told = append(told, "add "+name(e.ContainerID, e.ExecID))
		case *events.TaskExecStarted:
			told = append(told, "start "+name(e.ContainerID, e.ExecID))
		case *events.TaskOOM:
			told = append(told, "oom "+e.ContainerID)
		case *events.TaskExit:
			told = append(told, fmt.Sprintf("exit %s %d", name(e.ContainerID, e.ID), e.ExitStatus))
		case *events.TaskDelete:
			told = append(told, "delete "+name(e.ContainerID, e.ID))
		case *events.TaskPaused:
			told = append(told, "pause "+e.ContainerID)
		case *events.TaskResumed:
			told = append(told, "resume "+e.ContainerID)
		case *events.TaskCheckpointed:
			told = append(told, "checkpoint "+e.ContainerID)
		default:
			told = append(told, fmt.Sprintf("%T", e))
		}
	}
	return told
}

// testLog keeps what is logged with the test it belongs to.
type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	if l.t.Context().Err() == nil {
		l.t.Log(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
