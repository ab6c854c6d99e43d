package spec_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/shimwright/shimwright/internal/testkit"
	"github.com/shimwright/shimwright/manager"
)

// engine is what makes the containers.
type engine struct {
	name   string
	binary string // an OCI runtime's path; empty: libcontainer, within the shim
}

func (e engine) inProcess() bool { return e.binary == "" }

// options are the task's for this engine. more changes them.
func (e engine) options(more func(*runcoptions.Options)) *runcoptions.Options {
	o := &runcoptions.Options{BinaryName: e.binary}
	if more != nil {
		more(o)
	}
	return o
}

// namespace is the daemon's, of all containers here.
const namespace = "spec"

// host runs containers of one engine, all in one shim.
type host struct {
	*manager.Manager
	t      *testing.T
	engine engine
	shim   string // the binary
	dir    string
	rootfs string
	log    *memory
	first  *container // keeps the shim
	count  int
}

// newHost makes a host of which nothing is left when the test ends.
func newHost(t *testing.T, e engine) *host {
	t.Helper()
	testkit.RequireRoot(t)
	testkit.NoLeaks(t)
	dir, err := os.MkdirTemp("/tmp", "spec")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	public(t, dir) // the root of a user namespace has to get in
	h := &host{
		t: t, engine: e, dir: dir,
		shim:   testkit.Build(t, "./cmd/containerd-shim-runc-v2"),
		rootfs: testkit.Rootfs(t),
		log:    new(memory),
	}
	public(t, h.rootfs)
	h.Manager, err = manager.New(manager.Config{
		State:     filepath.Join(dir, "state"),
		Root:      filepath.Join(dir, "root"),
		SocketDir: filepath.Join(dir, "s"),
		Log:       slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	var drained sync.WaitGroup
	drained.Go(func() {
		for range h.Events() {
		}
	})
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		drained.Wait()
	})
	h.first = h.run(t, h.spec("sleep", "100000"), nil, nil)
	t.Cleanup(func() { h.first.remove(t) })
	return h
}

// spec is a container's that shares the shim.
func (h *host) spec(args ...string) *specs.Spec {
	s := testkit.Spec(h.rootfs, args...)
	s.Annotations = map[string]string{"io.containerd.runc.v2.group": "spec"}
	return s
}

// container is one that was created.
type container struct {
	*manager.Shim
	h    *host
	spec *specs.Spec
	pid  int
}

func (h *host) start(t *testing.T, spec *specs.Spec, o proto.Message) (*manager.Shim, error) {
	h.count++
	r := manager.StartRequest{ID: fmt.Sprint("c", h.count), Namespace: namespace, Runtime: h.shim, Spec: spec, Options: o}
	return h.Start(t.Context(), r)
}

// create makes a container. An error leaves nothing.
func (h *host) create(t *testing.T, spec *specs.Spec, io *testkit.Stdio, more func(*runcoptions.Options)) (*container, error) {
	t.Helper()
	o := h.engine.options(more)
	packed, err := typeurl.MarshalAnyToProto(o)
	if err != nil {
		t.Fatal(err)
	}
	s, err := h.start(t, spec, o)
	if err != nil {
		t.Fatal(err)
	}
	r := &taskapi.CreateTaskRequest{ID: s.ID(), Bundle: s.Bundle(), Options: packed}
	if spec.Process != nil {
		r.Terminal = spec.Process.Terminal
	}
	if io != nil {
		r.Stdin, r.Stdout = io.Stdin, io.Stdout
		if !r.Terminal {
			r.Stderr = io.Stderr
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	created, err := s.Task().Create(ctx, r)
	if err != nil {
		if _, derr := h.Delete(context.Background(), s); derr != nil {
			t.Errorf("delete after a failed create: %v", derr)
		}
		h.gone(t, s.ID(), spec)
		return nil, err
	}
	return &container{Shim: s, h: h, spec: spec, pid: int(created.Pid)}, nil
}

// run makes a container and starts it.
func (h *host) run(t *testing.T, spec *specs.Spec, io *testkit.Stdio, more func(*runcoptions.Options)) *container {
	t.Helper()
	c, err := h.create(t, spec, io, more)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.start(t, ""); err != nil {
		c.remove(t)
		t.Fatal(err)
	}
	return c
}

func (c *container) start(t *testing.T, execID string) error {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := c.Task().Start(ctx, &taskapi.StartRequest{ID: c.ID(), ExecID: execID})
	return err
}

// wait waits for the end and returns the status.
func (c *container) wait(t *testing.T, execID string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, err := c.Task().Wait(ctx, &taskapi.WaitRequest{ID: c.ID(), ExecID: execID})
	if err != nil {
		t.Errorf("wait for %s %s: %v", c.ID(), execID, err)
		return -1
	}
	return int(r.ExitStatus)
}

// remove ends the container, whatever its state, and looks that nothing of it is left.
func (c *container) remove(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	_, _ = c.Task().Kill(ctx, &taskapi.KillRequest{ID: c.ID(), Signal: uint32(syscall.SIGKILL), All: true})
	_, _ = c.Task().Wait(ctx, &taskapi.WaitRequest{ID: c.ID()})
	if _, err := c.h.Delete(ctx, c.Shim); err != nil {
		t.Errorf("delete %s: %v", c.ID(), err)
	}
	c.h.gone(t, c.ID(), c.spec)
}

// gone fails the test if something of a container is left: its state, its cgroup or a mount in its bundle.
func (h *host) gone(t *testing.T, id string, spec *specs.Spec) {
	t.Helper()
	left, _ := filepath.Glob(filepath.Join("/run/containerd/runc", namespace, id))
	if spec.Linux != nil && spec.Linux.CgroupsPath != "" {
		left = append(left, cgroups(spec)...)
	}
	bundles, _ := filepath.Glob(filepath.Join(h.dir, "*/tasks", namespace, id))
	if left = append(left, bundles...); len(left) > 0 {
		t.Errorf("left of %s: %q", id, left)
	}
}

// cgroups are the directories of the container's cgroup that exist.
func cgroups(spec *specs.Spec) []string {
	path := spec.Linux.CgroupsPath
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + path)
	if _, err := os.Stat("/sys/fs/cgroup" + path); err == nil {
		dirs = append(dirs, "/sys/fs/cgroup"+path)
	}
	return dirs
}

// unified tells whether cgroup v2 is all there is.
func unified() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

// exec runs a process in the container to its end and returns what it wrote to stdout and stderr, in one.
func (c *container) exec(t *testing.T, p *specs.Process) (output string, status int, err error) {
	t.Helper()
	packed, err := manager.Pack(p)
	if err != nil {
		t.Fatal(err)
	}
	c.h.count++
	id := fmt.Sprint("x", c.h.count)
	io := testkit.FIFOs(t)
	r := &taskapi.ExecProcessRequest{ID: c.ID(), ExecID: id, Terminal: p.Terminal, Spec: packed, Stdout: io.Stdout}
	if !p.Terminal {
		r.Stderr = io.Stderr
	}
	if _, err := c.Task().Exec(t.Context(), r); err != nil {
		return "", 0, err
	}
	if err = c.start(t, id); err == nil {
		status = c.wait(t, id)
		output = strings.ReplaceAll(io.Output(), "\r\n", "\n") // a terminal begins in either form
		if !p.Terminal {
			output += io.Errors()
		}
	}
	_, derr := c.Task().Delete(t.Context(), &taskapi.DeleteRequest{ID: c.ID(), ExecID: id})
	return output, status, errors.Join(err, derr)
}

// sh is exec of a script, as the container's own process is run.
func (c *container) sh(t *testing.T, script string) string {
	t.Helper()
	p := *c.spec.Process
	p.Args, p.Terminal = []string{"sh", "-c", script}, false
	out, status, err := c.exec(t, &p)
	if err != nil || status != 0 {
		t.Errorf("exec %s: status %d, %v: %s", script, status, err, out)
	}
	return out
}

// memory is a log that can be searched.
type memory struct {
	mu   sync.Mutex
	text strings.Builder
}

func (m *memory) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.text.Write(p)
}

func (m *memory) since(mark int) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.text.String()[mark:]
}

func (m *memory) mark() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.text.Len()
}

// lookPath finds a tool that the tests need.
func lookPath(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		testkit.Missing(t, "needs %s in PATH: %v", name, err)
	}
	if path, err = filepath.Abs(path); err != nil {
		t.Fatal(err)
	}
	return path
}
