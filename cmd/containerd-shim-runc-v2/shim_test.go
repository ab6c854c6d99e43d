// Package main_test drives the built shim over its socket, as a daemon does that makes mistakes.
package main_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/shimwright/shimwright/internal/testkit"
	"github.com/shimwright/shimwright/manager"
	"google.golang.org/protobuf/types/known/anypb"
)

// pod is one shim, and what is needed to put containers into it.
type pod struct {
	t       *testing.T
	manager *manager.Manager
	binary  string
	rootfs  string
	shim    *manager.Shim // of the container that the tests leave alone
}

// newPod starts a shim with one running container, "good".
func newPod(t *testing.T) *pod {
	t.Helper()
	testkit.RequireRoot(t)
	testkit.NoLeaks(t)
	dir, err := os.MkdirTemp("", "pod")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	m, err := manager.New(manager.Config{State: dir + "/state", Root: dir + "/root", SocketDir: dir + "/s"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	go func() { // ends with the manager
		for range m.Events() { //nolint:revive // somebody has to take them
		}
	}()
	p := &pod{t: t, manager: m, binary: testkit.Build(t, "./cmd/containerd-shim-runc-v2"), rootfs: testkit.Rootfs(t)}
	p.shim = p.member("good", p.spec("sleep", "1000"))
	if _, err := p.shim.Task().Create(t.Context(), &taskapi.CreateTaskRequest{ID: "good", Bundle: p.shim.Bundle()}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.shim.Task().Start(t.Context(), &taskapi.StartRequest{ID: "good"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.Background()
		if _, err := p.shim.Task().Kill(ctx, &taskapi.KillRequest{ID: "good", Signal: 9}); err != nil {
			t.Error("the good container:", err)
		}
		if w, err := p.shim.Task().Wait(ctx, &taskapi.WaitRequest{ID: "good"}); err != nil || w.ExitStatus != 137 {
			t.Errorf("the good container: %v, %v", w, err)
		}
		if _, err := m.Delete(ctx, p.shim); err != nil {
			t.Error(err)
		}
	})
	return p
}

func (p *pod) spec(args ...string) *specs.Spec {
	s := testkit.Spec(p.rootfs, args...)
	s.Annotations = map[string]string{"io.kubernetes.cri.sandbox-id": "good"}
	return s
}

// member makes a bundle of the pod.
func (p *pod) member(id string, spec *specs.Spec) *manager.Shim {
	p.t.Helper()
	s, err := p.manager.Start(p.t.Context(), manager.StartRequest{ID: id, Namespace: "test", Runtime: p.binary, Spec: spec})
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

func pack(t *testing.T, url string, v any) *anypb.Any {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return &anypb.Any{TypeUrl: url, Value: b}
}

// Each bad Create is refused with its class and leaves nothing: the same id and bundle, mended, run right after it.
func TestBadCreate(t *testing.T) {
	p := newPod(t)
	for _, c := range []struct {
		name string
		bad  func(r *taskapi.CreateTaskRequest, bundle string) // spoils the request or the bundle
		want error
		says string // part of the message
	}{
		{"torn config.json", func(_ *taskapi.CreateTaskRequest, dir string) {
			p.write(dir, "config.json", `{"ociVersion":"1.0.2","process":{"args":["tr`)
		}, errdefs.ErrInvalidArgument, "config.json"},
		{"config.json that is none", func(_ *taskapi.CreateTaskRequest, dir string) { p.write(dir, "config.json", `[1,2]`) }, errdefs.ErrInvalidArgument, "config.json"},
		{"empty config.json", func(_ *taskapi.CreateTaskRequest, dir string) { p.write(dir, "config.json", "") }, errdefs.ErrInvalidArgument, "config.json"},
		{"spec without a process", func(_ *taskapi.CreateTaskRequest, dir string) {
			s := p.spec("true")
			s.Process = nil
			p.writeSpec(dir, s)
		}, errdefs.ErrInvalidArgument, "process"},
		{"spec without linux", func(_ *taskapi.CreateTaskRequest, dir string) {
			s := p.spec("true")
			s.Linux = nil
			p.writeSpec(dir, s)
		}, errdefs.ErrInvalidArgument, "linux"},
		{"spec without a root", func(_ *taskapi.CreateTaskRequest, dir string) {
			s := p.spec("true")
			s.Root = nil
			p.writeSpec(dir, s)
		}, errdefs.ErrInvalidArgument, "root"},
		{"uid beyond 2^31-1", func(_ *taskapi.CreateTaskRequest, dir string) {
			s := p.spec("true")
			s.Process.User.UID = 1 << 31
			p.writeSpec(dir, s)
		}, errdefs.ErrInvalidArgument, "beyond"},
		{"missing rootfs", func(_ *taskapi.CreateTaskRequest, dir string) {
			s := p.spec("true")
			s.Root.Path = "/no/such/rootfs"
			p.writeSpec(dir, s)
		}, nil, "/no/such/rootfs"},
		{"nonexistent command", func(_ *taskapi.CreateTaskRequest, dir string) { p.writeSpec(dir, p.spec("nosuch")) }, nil, `exec: "nosuch": executable file not found in $PATH`},
		{"command that is a directory", func(_ *taskapi.CreateTaskRequest, dir string) { p.writeSpec(dir, p.spec("/proc")) }, nil, "/proc"},
		{"bad mount in the spec", func(_ *taskapi.CreateTaskRequest, dir string) {
			s := p.spec("true")
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "bind", Source: "/no/such/source", Options: []string{"rbind"}})
			p.writeSpec(dir, s)
		}, nil, "/no/such/source"},
		{"bad rootfs mount", func(r *taskapi.CreateTaskRequest, _ string) {
			r.Rootfs = []*types.Mount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=/no/such/dir"}}}
		}, errdefs.ErrInvalidArgument, "rootfs"},
		{"second rootfs mount is bad", func(r *taskapi.CreateTaskRequest, _ string) {
			r.Rootfs = []*types.Mount{
				{Type: "bind", Source: p.rootfs, Options: []string{"rbind", "ro"}},
				{Type: "bind", Source: "/no/such/dir", Options: []string{"rbind"}},
			}
		}, errdefs.ErrInvalidArgument, "rootfs"},
		{"unknown file system", func(r *taskapi.CreateTaskRequest, _ string) {
			r.Rootfs = []*types.Mount{{Type: "nosuchfs", Source: "x"}}
		}, errdefs.ErrInvalidArgument, "rootfs"},
		{"nil mount", func(r *taskapi.CreateTaskRequest, _ string) { r.Rootfs = []*types.Mount{nil} }, errdefs.ErrInvalidArgument, "rootfs"},
		{"stdout that is not there", func(r *taskapi.CreateTaskRequest, _ string) { r.Stdout = "/no/such/fifo" }, errdefs.ErrInvalidArgument, "/no/such/fifo"},
		{"stdout that cannot be written", func(r *taskapi.CreateTaskRequest, _ string) { r.Stdout = "/proc/sys/kernel/osrelease" }, errdefs.ErrInvalidArgument, "stdout"},
		{"stdout that is a directory", func(r *taskapi.CreateTaskRequest, dir string) { r.Stdout = dir }, errdefs.ErrInvalidArgument, "stdout"},
		{"options of another type", func(r *taskapi.CreateTaskRequest, _ string) {
			r.Options = &anypb.Any{TypeUrl: "containerd.events.TaskExit", Value: []byte{1, 2, 3}}
		}, errdefs.ErrInvalidArgument, "options"},
		{"options of an unknown type", func(r *taskapi.CreateTaskRequest, _ string) {
			r.Options = &anypb.Any{TypeUrl: "no.such.Type", Value: []byte("{}")}
		}, errdefs.ErrInvalidArgument, "options"},
		{"torn options", func(r *taskapi.CreateTaskRequest, _ string) {
			r.Options, _ = anypb.New(&options.Options{})
			r.Options.TypeUrl, r.Options.Value = "containerd.runc.v1.Options", []byte{0xff, 0xff}
		}, errdefs.ErrInvalidArgument, "options"},
		{"another bundle", func(r *taskapi.CreateTaskRequest, _ string) { r.Bundle = "/no/such/bundle" }, errdefs.ErrInvalidArgument, "bundle"},
		{"no bundle", func(r *taskapi.CreateTaskRequest, _ string) { r.Bundle = "" }, errdefs.ErrInvalidArgument, "bundle"},
		{"id that leaves the bundle", func(r *taskapi.CreateTaskRequest, _ string) { r.ID = "../x" }, errdefs.ErrInvalidArgument, "id"},
		{"nothing at all", func(r *taskapi.CreateTaskRequest, _ string) { *r = taskapi.CreateTaskRequest{} }, errdefs.ErrInvalidArgument, "id"},
		{"id that is taken", func(r *taskapi.CreateTaskRequest, _ string) { r.ID = "good" }, errdefs.ErrAlreadyExists, "good"},
	} {
		t.Run(c.name, func(t *testing.T) {
			id := "bad"
			s := p.member(id, p.spec("sh", "-c", "exit 7"))
			req := &taskapi.CreateTaskRequest{ID: id, Bundle: s.Bundle()}
			c.bad(req, s.Bundle())
			_, err := s.Task().Create(t.Context(), req)
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("create: %v; want class %v and %q in the message", err, c.want, c.says)
			}
			if mounts, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(mounts), s.Bundle()) {
				t.Error("something is still mounted in the bundle")
			}

			p.writeSpec(s.Bundle(), p.spec("sh", "-c", "exit 7"))
			if _, err := s.Task().Create(t.Context(), &taskapi.CreateTaskRequest{ID: id, Bundle: s.Bundle()}); err != nil {
				t.Fatal("the same, mended:", err)
			}
			if _, err := s.Task().Start(t.Context(), &taskapi.StartRequest{ID: id}); err != nil {
				t.Error("the same, mended:", err)
			}
			if w, err := s.Task().Wait(t.Context(), &taskapi.WaitRequest{ID: id}); err != nil || w.ExitStatus != 7 {
				t.Errorf("the same, mended: %v, %v", w, err)
			}
			if _, err := p.manager.Delete(t.Context(), s); err != nil {
				t.Error(err)
			}
		})
	}
}

// Each bad Exec is refused at Exec or at its Start, and its id can be used again.
func TestBadExec(t *testing.T) {
	const url = "types.containerd.io/opencontainers/runtime-spec/1/Process"
	p := newPod(t)
	process := func(args ...string) *specs.Process { return p.spec(args...).Process }
	for _, c := range []struct {
		name string
		req  *taskapi.ExecProcessRequest
		want error
		says string
	}{
		{"no spec", &taskapi.ExecProcessRequest{}, errdefs.ErrInvalidArgument, "Process is missing"},
		{"another type", &taskapi.ExecProcessRequest{Spec: pack(t, "a.b.C", process("true"))}, errdefs.ErrInvalidArgument, "a.b.C"},
		{"torn spec", &taskapi.ExecProcessRequest{Spec: &anypb.Any{TypeUrl: url, Value: []byte("{")}}, errdefs.ErrInvalidArgument, "Process"},
		{"no args", &taskapi.ExecProcessRequest{Spec: pack(t, url, process())}, errdefs.ErrInvalidArgument, "args"},
		{"relative cwd", &taskapi.ExecProcessRequest{Spec: pack(t, url, &specs.Process{Args: []string{"true"}, Cwd: "a"})}, errdefs.ErrInvalidArgument, "Cwd"},
		{"nonexistent command", &taskapi.ExecProcessRequest{Spec: pack(t, url, process("nosuch"))}, nil, `exec: "nosuch": executable file not found in $PATH`},
		{"stdout that is not there", &taskapi.ExecProcessRequest{Spec: pack(t, url, process("true")), Stdout: "/no/such/fifo"}, errdefs.ErrInvalidArgument, "/no/such/fifo"},
		{"id that leaves the bundle", &taskapi.ExecProcessRequest{ExecID: "../../x", Spec: pack(t, url, process("true"))}, errdefs.ErrInvalidArgument, "id"},
	} {
		t.Run(c.name, func(t *testing.T) {
			svc, ctx := p.shim.Task(), t.Context()
			c.req.ID = "good"
			if c.req.ExecID == "" {
				c.req.ExecID = "bad"
			}
			_, err := svc.Exec(ctx, c.req)
			if err == nil {
				_, err = svc.Start(ctx, &taskapi.StartRequest{ID: "good", ExecID: c.req.ExecID})
				if _, err := svc.Delete(ctx, &taskapi.DeleteRequest{ID: "good", ExecID: c.req.ExecID}); err != nil {
					t.Error(err)
				}
			}
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("exec: %v; want class %v and %q in the message", err, c.want, c.says)
			}
			if _, err := svc.Exec(ctx, &taskapi.ExecProcessRequest{ID: "good", ExecID: "bad", Spec: pack(t, url, process("sh", "-c", "exit 3"))}); err != nil {
				t.Fatal("the same, mended:", err)
			}
			if _, err := svc.Start(ctx, &taskapi.StartRequest{ID: "good", ExecID: "bad"}); err != nil {
				t.Error("the same, mended:", err)
			}
			if w, err := svc.Wait(ctx, &taskapi.WaitRequest{ID: "good", ExecID: "bad"}); err != nil || w.ExitStatus != 3 {
				t.Errorf("the same, mended: %v, %v", w, err)
			}
			if _, err := svc.Delete(ctx, &taskapi.DeleteRequest{ID: "good", ExecID: "bad"}); err != nil {
				t.Error(err)
			}
		})
	}
}

func (p *pod) write(dir, name, content string) {
	p.t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

func (p *pod) writeSpec(dir string, s *specs.Spec) {
	p.t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(dir, "config.json", string(b))
}
