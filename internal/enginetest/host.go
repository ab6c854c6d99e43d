// Package enginetest holds the tests that every engine passes, and what they and an engine's own tests stand on.
package enginetest

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/shimwright/shimwright/internal/bundle"
	"github.com/shimwright/shimwright/internal/reap"
	"github.com/shimwright/shimwright/internal/testkit"
	"github.com/shimwright/shimwright/task"
)

var reaper = reap.New()

// Main is a shim's main as far as processes are concerned: subreaper, and the main goroutine reaps. Test processes of
// engines have it as their TestMain.
func Main(m *testing.M) {
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

// Namespace is the daemon's that the tests play.
const Namespace = "test"

// A Runtime is what the shim wants of an engine.
type Runtime interface {
	task.Runtime
	task.Deleter
	task.Informer
}

// An Engine is what is tested.
type Engine struct {
	// New makes it, with containers' states below root. A nil reaper: it is a delete's.
	New func(root string, r *reap.Reaper) Runtime

	Binary string // the option binary_name of all containers

	// What it says of a command that is not there, on create and on exec, after the words that all engines have.
	NoCommand, NoCommandExec string
	NoSystemd                string // what it says when it shall ask systemd for a cgroup that has a path
	// Classes: it knows why it refuses a spec. Others only pass on words.
	Classes bool
}

// Host is where a test's containers are.
type Host struct {
	Runtime
	T      testing.TB
	Root   string // of the states
	Rootfs string
	Engine Engine
}

// NewHost makes a place for containers, of which nothing is left when the test ends.
func NewHost(t testing.TB, e Engine) *Host {
	t.Helper()
	testkit.RequireRoot(t)
	h := &Host{T: t, Root: t.TempDir(), Rootfs: testkit.Rootfs(t), Engine: e}
	h.Runtime = e.New(h.Root, reaper)
	warmUp.Do(func() {
		c := h.Running("warm-up", "true")
		ExitsWith(t, c, 0)
		if err := c.Delete(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	testkit.NoLeaks(t)
	return h
}

// With is h for a test within its test.
func (h *Host) With(t testing.TB) *Host {
	return &Host{Runtime: h.Runtime, T: t, Root: h.Root, Rootfs: h.Rootfs, Engine: h.Engine}
}

// warmUp runs a first container: from then on libcontainer keeps a few directories open.
var warmUp sync.Once

// After makes the engine of a delete, which knows nothing but the bundle.
func (h *Host) After() Runtime { return h.Engine.New(h.Root, nil) }

// Options are the engine's, with those of o.
func (h *Host) Options(o *runcoptions.Options) *anypb.Any {
	h.T.Helper()
	o = proto.CloneOf(o)
	if o.BinaryName == "" {
		o.BinaryName = h.Engine.Binary
	}
	a, err := anypb.New(o)
	if err != nil {
		h.T.Fatal(err)
	}
	return a
}

// Make writes config.json and creates the container.
func (h *Host) Make(ctx context.Context, r *task.CreateRequest) (task.Task, error) {
	if r.Spec != nil {
		config, err := json.Marshal(r.Spec)
		if err != nil {
			h.T.Error(err)
		}
		if err := os.WriteFile(filepath.Join(r.Bundle, bundle.ConfigFile), config, 0o600); err != nil && r.Bundle != "/no/such" {
			h.T.Error(err)
		}
	}
	return h.Create(ctx, r)
}

// Request is a request to create a container of spec; its output goes to the returned pipe.
func (h *Host) Request(id string, spec *specs.Spec) (*task.CreateRequest, *os.File) {
	h.T.Helper()
	streams, out := h.Pipes()
	return &task.CreateRequest{
		ID: id, Namespace: Namespace, Bundle: h.T.TempDir(), Spec: spec, IO: streams,
		Options: h.Options(new(runcoptions.Options)),
	}, out
}

// Pipes are streams with nothing to read and a pipe to write to.
func (h *Host) Pipes() (task.IO, *os.File) {
	h.T.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		h.T.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		h.T.Fatal(err)
	}
	for _, f := range []*os.File{null, r, w} {
		h.T.Cleanup(func() { f.Close() })
	}
	return task.IO{Stdin: null, Stdout: w, Stderr: w}, r
}

// Created makes a container that runs args in a shell's place.
func (h *Host) Created(id string, args ...string) (task.Task, *task.CreateRequest) {
	h.T.Helper()
	r, _ := h.Request(id, testkit.Spec(h.Rootfs, args...))
	return h.Must(r), r
}

// Must creates the container of r, and deletes it when the test ends.
func (h *Host) Must(r *task.CreateRequest) task.Task {
	h.T.Helper()
	c, err := h.Make(h.T.Context(), r)
	if err != nil {
		h.T.Fatal(err)
	}
	h.T.Cleanup(func() {
		if err := c.Delete(context.Background()); err != nil {
			h.T.Error(err)
		}
	})
	return c
}

// Running creates and starts a container.
func (h *Host) Running(id string, args ...string) task.Task {
	h.T.Helper()
	c, _ := h.Created(id, args...)
	if err := c.Start(h.T.Context()); err != nil {
		h.T.Fatal(err)
	}
	return c
}

// Exec prepares a process that runs args in c.
func (h *Host) Exec(c task.Task, args ...string) task.Process {
	h.T.Helper()
	streams, _ := h.Pipes()
	p, err := c.(task.Execer).Exec(h.T.Context(), &task.ExecRequest{ID: "x", Spec: Process(args...), IO: streams})
	if err != nil {
		h.T.Fatal(err)
	}
	return p
}

// Process is a process that runs args.
func Process(args ...string) *specs.Process {
	return testkit.Spec("", args...).Process
}

// State is the directory of a container's state.
func (h *Host) State(id string) string { return filepath.Join(h.Root, Namespace, id) }

// Cgroups are the directories of the container's cgroup that exist.
func Cgroups(spec *specs.Spec) []string {
	path := spec.Linux.CgroupsPath
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + path)
	if _, err := os.Stat("/sys/fs/cgroup" + path); err == nil {
		dirs = append(dirs, "/sys/fs/cgroup"+path)
	}
	return dirs
}

// ExitsWith waits for the end of p and fails the test if that is another.
func ExitsWith(t testing.TB, p task.Process, status int) {
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
