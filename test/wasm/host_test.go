package wasm_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/shimwright/shimwright/internal/testkit"
	"github.com/shimwright/shimwright/manager"
)

// host runs modules through a manager.
type host struct {
	t       *testing.T
	runtime string
	rootfs  string
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
	if err := os.Link(module, filepath.Join(h.rootfs, "app.wasm")); err != nil {
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

// probe is testdata/wasm/probe, built once.
var probe = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "probe")
	if err != nil {
		return "", err
	}
	root, err := testkit.Root()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "probe.wasm")
	build := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-o", path, "./testdata/wasm/probe")
	build.Dir = root
	build.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
	if out, err := build.CombinedOutput(); err != nil {
		return "", errors.New(string(out))
	}
	return path, nil
})

func module(t *testing.T) string {
	t.Helper()
	path, err := probe()
	if err != nil {
		t.Fatal(err)
	}
	return path
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
	r := &taskapi.CreateTaskRequest{ID: id, Bundle: s.Bundle()}
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
