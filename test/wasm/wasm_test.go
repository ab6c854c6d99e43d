package wasm_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/shimwright/shimwright/internal/testkit"
	"github.com/shimwright/shimwright/manager"
)

// A module is a container like any other: arguments, environment, directory, streams, files and exit code.
func TestModule(t *testing.T) {
	h := newHost(t, module(t))
	io := testkit.FIFOs(t)
	spec := h.spec("args", "env=X", "cwd", "err=hi", "ls=/", "write=/tmp/x:y", "cat=/tmp/x", "exit=7")
	spec.Process.Env = append(spec.Process.Env, "X=why")
	spec.Process.Cwd = "/tmp"
	c := h.run("c1", spec, io)
	c.wait("", 7)
	out := io.Output()
	for _, want := range []string{`["/app.wasm" "args"`, "\nwhy\n", "\n/tmp\n", "\napp.wasm ----------\n", "\nbin d---------\n", "\ny"} {
		if !strings.Contains(out, want) {
			t.Errorf("stdout has no %q: %q", want, out)
		}
	}
	if errs := io.Errors(); errs != "hi\n" {
		t.Errorf("stderr %q", errs)
	}
	c.delete(7)
}

func TestExits(t *testing.T) {
	h := newHost(t, module(t))
	for arg, want := range map[string]struct {
		status uint32
		stderr string
	}{
		"exit=0":          {0, ""},
		"exit=1":          {1, ""},
		"exit=255":        {255, ""},
		"exit=256":        {256, ""},
		"exit=4294967295": {4294967295, ""},
		"panic=oh":        {2, "panic: oh"},
		"trap":            {2, "nil pointer"},
	} {
		t.Run(arg, func(t *testing.T) {
			io := testkit.FIFOs(t)
			c := h.run("c1", h.spec(arg), io)
			c.wait("", want.status)
			if errs := io.Errors(); !strings.Contains(errs, want.stderr) || want.stderr == "" && errs != "" {
				t.Errorf("stderr %q", errs)
			}
			c.delete(int(want.status))
		})
	}
}

// Whatever the guest does, a signal that asks a program to end ends it; so does SIGKILL.
func TestSignals(t *testing.T) {
	h := newHost(t, module(t))
	for _, doing := range []string{"spin", "sleep=1h", "cat"} {
		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGKILL} {
			t.Run(doing+" "+sig.String(), func(t *testing.T) {
				io := testkit.FIFOs(t)
				c := h.run("c1", h.spec("out=ready", doing), io)
				testkit.Await(t, 20*time.Second, "the guest's first word", func() bool { return strings.Contains(io.Now(), "ready") })
				began := time.Now()
				c.kill(sig)
				c.wait("", 128+uint32(sig))
				if took := time.Since(began); took > 5*time.Second {
					t.Errorf("took %v", took)
				}
				c.delete(128 + int(sig))
			})
		}
	}
}

// A module runs in a native container as an exec, and a native program in a module's.
func TestExecs(t *testing.T) {
	h := newHost(t, module(t))
	for name, args := range map[string][]string{"module": {"/app.wasm", "sleep=1h"}, "native": {"/bin/sleep", "3600"}} {
		t.Run(name, func(t *testing.T) {
			c := h.run("c1", testkit.Spec(h.rootfs, args...), nil)
			for id, p := range map[string]struct {
				args []string
				want string
			}{
				"wasm":   {[]string{"/app.wasm", "cwd", "exit=300"}, "/tmp\n"},
				"native": {[]string{"sh", "-c", "pwd; exit 3"}, "/tmp\n"},
			} {
				io := testkit.FIFOs(t)
				spec, err := manager.Pack(&specs.Process{Args: p.args, Cwd: "/tmp", Env: []string{"PATH=/bin"}})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := c.Task().Exec(t.Context(), &taskapi.ExecProcessRequest{ID: c.id, ExecID: id, Spec: spec, Stdout: io.Stdout}); err != nil {
					t.Fatal(err)
				}
				if _, err := c.Task().Start(t.Context(), &taskapi.StartRequest{ID: c.id, ExecID: id}); err != nil {
					t.Fatal(err)
				}
				c.wait(id, map[string]uint32{"wasm": 300, "native": 3}[id])
				if out := io.Output(); out != p.want {
					t.Errorf("%s says %q", id, out)
				}
			}
			c.kill(syscall.SIGKILL)
			c.wait("", 137)
			c.delete(137)
		})
	}
}

// What cannot be run is refused at Create, with the module and the reason.
func TestRefusals(t *testing.T) {
	h := newHost(t, module(t))
	whole, err := os.ReadFile(module(t))
	if err != nil {
		t.Fatal(err)
	}
	const head = "\x00asm\x01\x00\x00\x00"
	for name, tt := range map[string]struct {
		content string
		arg     string // besides the module
		change  func(*specs.Spec)
		want    string
	}{
		"component":       {"\x00asm\x0d\x00\x01\x00rest", "", nil, "component"},
		"version":         {"\x00asm\x02\x00\x00\x00", "", nil, "another version"},
		"truncated":       {string(whole[:len(whole)/2]), "", nil, "cannot be compiled"},
		"truncated early": {head[:6], "", nil, "another version, or truncated"},
		"garbage":         {head + "\xff\xff\xff", "", nil, "cannot be compiled"},
		"memory64":        {head + "\x05\x03\x01\x04\x01", "", nil, "memory64"},
		"gc":              {head + "\x01\x03\x01\x5f\x00", "", nil, "GC"},
		"no start":        {head, "", nil, "no function _start"},
		// (module (import "env" "f" (func)) (func (export "_start")))
		"import":   {head + "\x01\x04\x01\x60\x00\x00\x02\x09\x01\x03env\x01f\x00\x00\x03\x02\x01\x00\x07\x0a\x01\x06_start\x00\x01\x0a\x04\x01\x02\x00\x0b", "", nil, "env.f"},
		"function": {string(whole), "#levitate", nil, "levitate"},
		// (module (memory 1000))
		"big": {head + "\x05\x04\x01\x00\xe8\x07", "", func(s *specs.Spec) {
			limit := int64(32 << 20)
			s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
		}, "memory"},
		"preopens":    {string(whole), "", func(s *specs.Spec) { s.Annotations = map[string]string{"io.containerd.wasm.preopens": "data"} }, "preopens"},
		"no preopen":  {string(whole), "", func(s *specs.Spec) { s.Annotations = map[string]string{"io.containerd.wasm.preopens": "/nowhere"} }, "/nowhere"},
		"proc":        {string(whole), "", func(s *specs.Spec) { s.Annotations = map[string]string{"io.containerd.wasm.preopens": "/proc"} }, "/proc"},
		"listen":      {string(whole), "", func(s *specs.Spec) { s.Annotations = map[string]string{"io.containerd.wasm.listen": "udp:1"} }, "listen"},
		"wasm wanted": {"#!/bin/sh\n", "", func(s *specs.Spec) { s.Annotations = map[string]string{"run.oci.handler": "wasm"} }, "native program"},
		"text":        {"(module)", "", func(s *specs.Spec) { s.Annotations = map[string]string{"run.oci.handler": "wasm"} }, "wat2wasm"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(h.rootfs, "other.wasm")
			if err := os.WriteFile(path, []byte(tt.content), 0o755); err != nil {
				t.Fatal(err)
			}
			spec := testkit.Spec(h.rootfs, "/other.wasm"+tt.arg)
			if tt.change != nil {
				tt.change(spec)
			}
			c, err := h.create(t.Context(), "c1", spec, nil)
			if err == nil {
				c.delete(137)
				t.Fatal("created")
			}
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("refused with: %v", err)
			}
		})
	}
}

// Preopens bound what a guest sees, and how.
func TestPreopens(t *testing.T) {
	h := newHost(t, module(t))
	for _, dir := range []string{"data", "cfg"} {
		if err := os.Mkdir(filepath.Join(h.rootfs, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(h.rootfs, dir, "file"), []byte(dir+" is here"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(h.rootfs, "data/planted")); err != nil {
		t.Fatal(err)
	}
	io := testkit.FIFOs(t)
	spec := h.spec("cat=/data/file", "write=/data/file:new", "cat=/cfg/file", "write=/cfg/file:new", "cat=/cfg/file",
		"cat=/etc/passwd", "cat=/data/planted", "cat=/data/../etc/passwd", "symlink=../etc/passwd:/cfg/made", "cat=/cfg/made")
	spec.Annotations = map[string]string{"io.containerd.wasm.preopens": "/data:ro, /cfg"}
	c := h.run("c1", spec, io)
	c.wait("", 0)
	out := io.Output()
	for _, want := range []string{"data is here", "write=/data/file:new: ", "cfg is here", "new"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q", want)
		}
	}
	if strings.Contains(out, "root:") || strings.Contains(out, "write=/cfg/file:new:") {
		t.Error("the guest has left its directories, or cannot write to them")
	}
	t.Log(out)
	c.delete(0)
}

// The limit of its cgroup bounds what a guest can have: it sees an allocation that fails, before the kernel kills anything.
func TestMemory(t *testing.T) {
	h := newHost(t, module(t))
	for name, tt := range map[string]struct {
		limit int64
		alloc string
		want  uint32
	}{
		"enough":            {256 << 20, "alloc=64", 0},
		"a little too much": {160 << 20, "alloc=130", 2}, // Go: fatal error: out of memory
		"too much":          {160 << 20, "alloc=1024", 2},
	} {
		t.Run(name, func(t *testing.T) {
			io := testkit.FIFOs(t)
			spec := h.spec(tt.alloc)
			spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &tt.limit}
			c := h.run("c1", spec, io)
			c.wait("", tt.want)
			out, errs := io.Output(), io.Errors()
			if said := strings.Contains(errs, "out of memory"); said != (tt.want != 0) || (tt.want == 0) != strings.Contains(out, "allocated") {
				t.Errorf("stdout %q, stderr %.500q", out, errs)
			}
			c.delete(int(tt.want))
		})
	}
}

// A socket that the container's network namespace has is the guest's, and answers.
func TestListen(t *testing.T) {
	h := newHost(t, module(t))
	spec := h.spec("out=ready", "serve=1") // after the one preopen, descriptor 3
	spec.Annotations = map[string]string{"io.containerd.wasm.listen": "tcp:127.0.0.1:8080"}
	io := testkit.FIFOs(t)
	c := h.run("c1", spec, io)
	testkit.Await(t, 20*time.Second, "the guest's first word", func() bool { return strings.Contains(io.Now(), "ready") })
	answer := testkit.FIFOs(t)
	p, err := manager.Pack(&specs.Process{
		Args: []string{"sh", "-c", "ip link set lo up; wget -qO- http://127.0.0.1:8080/path"}, Cwd: "/", Env: []string{"PATH=/bin"},
		Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_NET_ADMIN"}, Effective: []string{"CAP_NET_ADMIN"}, Permitted: []string{"CAP_NET_ADMIN"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Task().Exec(t.Context(), &taskapi.ExecProcessRequest{ID: c.id, ExecID: "get", Spec: p, Stdout: answer.Stdout, Stderr: answer.Stderr}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Task().Start(t.Context(), &taskapi.StartRequest{ID: c.id, ExecID: "get"}); err != nil {
		t.Fatal(err)
	}
	c.wait("get", 0)
	if out := answer.Output(); out != "hello from /path\n" {
		t.Errorf("answer %q, %q", out, answer.Errors())
	}
	c.kill(syscall.SIGTERM)
	c.wait("", 143)
	c.delete(143)
}

// User, hostname, rlimits and mounts are the container's.
func TestWorld(t *testing.T) {
	h := newHost(t, module(t))
	volume := t.TempDir()
	if err := os.Chmod(volume, 0o777); err != nil {
		t.Fatal(err)
	}
	io := testkit.FIFOs(t)
	spec := h.spec("write=/mnt/made:text", "write=/etc/no:text", "write=/ro/no:text", "cat=/proc/self/environ", "cat=/proc/self/mem", "ls=/proc")
	spec.Process.User = specs.User{UID: 1000, GID: 1000}
	spec.Mounts = append(spec.Mounts,
		specs.Mount{Destination: "/mnt", Type: "bind", Source: volume, Options: []string{"bind"}},
		specs.Mount{Destination: "/ro", Type: "bind", Source: volume, Options: []string{"bind", "ro"}})
	c := h.run("c1", spec, io)
	c.wait("", 0)
	out := io.Output()
	if n := strings.Count(out, "ermission denied"); n < 4 || !strings.Contains(out, "ead-only") || strings.Contains(out, "PATH=") {
		t.Errorf("the guest: %s", out)
	}
	if info, err := os.Stat(filepath.Join(volume, "made")); err != nil || info.Sys().(*syscall.Stat_t).Uid != 1000 {
		t.Errorf("the file: %v, %v", info, err)
	}
	if _, err := os.Stat(filepath.Join(volume, "no")); err == nil {
		t.Error("written through a read-only mount")
	}
	c.delete(0)
}

// A module in a volume, with a name that PATH leads to, and without the executable bit.
func TestModuleInVolume(t *testing.T) {
	h := newHost(t, module(t))
	volume := t.TempDir()
	data, err := os.ReadFile(module(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(volume, "tool"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	spec := testkit.Spec(h.rootfs, "tool", "exit=9")
	spec.Process.Env = []string{"PATH=/bin:/opt"}
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/opt", Type: "bind", Source: volume, Options: []string{"rbind", "ro"}})
	c := h.run("c1", spec, nil)
	c.wait("", 9)
	c.delete(9)
}
