package wasm_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/shimwright/shimwright/internal/testkit"
	"github.com/shimwright/shimwright/manager"
	wasmv1 "github.com/shimwright/shimwright/protos/wasm/v1"
)

// host runs modules through a manager.
type host struct {
	t       *testing.T
	runtime string
	rootfs  string
	options *anypb.Any
	*manager.Manager
}

// newHost is a host for the wasm shim whose containers have module as /app.wasm. When the test ends, nothing may be left
// of it on the machine.
func newHost(t *testing.T, module string) *host {
	t.Helper()
	testkit.RequireRoot(t)
	testkit.NoLeaks(t)
	dir, err := os.MkdirTemp("/tmp", "w")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h := &host{t: t, runtime: testkit.Build(t, "./cmd/containerd-shim-wasm-v1"), rootfs: testkit.Rootfs(t)}
	h.add("app.wasm", module)
	if h.options, err = anypb.New(&wasmv1.Options{CacheDir: testkit.WasmCache(t)}); err != nil {
		t.Fatal(err)
	}
	h.Manager, err = manager.New(manager.Config{State: dir + "/state", Root: dir + "/root", SocketDir: dir + "/s"})
	if err != nil {
		t.Fatal(err)
	}
	go func() { // ends with the manager
		for range h.Events() {
		}
	}()
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// add puts a copy of a file into the root file system.
func (h *host) add(name, from string) {
	h.t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(filepath.Join(h.rootfs, name), data, 0o644)
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

func module(t *testing.T) string {
	t.Helper()
	return testkit.WasmGo(t, "./testdata/wasm/probe")
}

type container struct {
	h  *host
	id string
	*manager.Shim
}

func (h *host) spec(args ...string) *specs.Spec {
	return testkit.Spec(h.rootfs, append([]string{"/app.wasm"}, args...)...)
}

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
	c := &container{h, id, s}
	h.t.Cleanup(func() { // before the search for leaks: of a failed test nothing is to stay
		if h.t.Failed() {
			_, _ = s.Task().Kill(context.WithoutCancel(h.t.Context()), &taskapi.KillRequest{ID: id, Signal: uint32(syscall.SIGKILL)})
			_, _ = h.Delete(context.WithoutCancel(h.t.Context()), s)
		}
	})
	return c, nil
}

// run creates and starts a container.
func (h *host) run(id string, spec *specs.Spec, io *testkit.Stdio) *container {
	h.t.Helper()
	c, err := h.create(h.t.Context(), id, spec, io)
	if err != nil {
		h.t.Fatal(err)
	}
	c.start()
	return c
}

func (c *container) start() {
	c.h.t.Helper()
	if _, err := c.Task().Start(c.h.t.Context(), &taskapi.StartRequest{ID: c.id}); err != nil {
		c.h.t.Fatal(err)
	}
}

// closeStdin ends the input, once what was written is read.
func (c *container) closeStdin(io *testkit.Stdio) {
	c.h.t.Helper()
	if _, err := c.Task().CloseIO(c.h.t.Context(), &taskapi.CloseIORequest{ID: c.id, Stdin: true}); err != nil {
		c.h.t.Fatal(err)
	}
	io.In.Close()
}

// wait fails the test if the process does not end with want.
func (c *container) wait(execID string, want uint32) {
	c.h.t.Helper()
	ctx, cancel := context.WithTimeout(c.h.t.Context(), 30*time.Second)
	defer cancel()
	r, err := c.Task().Wait(ctx, &taskapi.WaitRequest{ID: c.id, ExecID: execID})
	if err != nil || r.ExitStatus != want {
		c.h.t.Errorf("wait for %s %s: %v, %v, want %d", c.id, execID, r, err, want)
	}
}

func (c *container) kill(sig syscall.Signal) {
	c.h.t.Helper()
	if _, err := c.Task().Kill(c.h.t.Context(), &taskapi.KillRequest{ID: c.id, Signal: uint32(sig)}); err != nil {
		c.h.t.Errorf("kill %s: %v", c.id, err)
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
