package container_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"

	"golang.org/x/sys/unix"

	"github.com/shimwright/shimwright/internal/bundle"
	"github.com/shimwright/shimwright/internal/enginetest"
	"github.com/shimwright/shimwright/internal/testkit"
	"github.com/shimwright/shimwright/task"
)

func TestDeleteAfterTheShim(t *testing.T) {
	h := newHost(t)
	overwrite := func(text string) func(string) error {
		return func(path string) error { return os.WriteFile(path, []byte(text), 0o600) }
	}
	for name, test := range map[string]struct {
		state, config func(path string) error // what has happened to state.json and config.json
		ended         bool                    // the init has ended before
		paused        bool
		unknown       bool // how the task ended cannot be known
	}{
		"running":       {},
		"paused":        {paused: true},
		"ended":         {ended: true, unknown: true},
		"no state":      {state: os.Remove, unknown: true},
		"torn state":    {state: overwrite(`{"id":`), unknown: true},
		"null state":    {state: overwrite(`null`), unknown: true},
		"empty state":   {state: overwrite(``), unknown: true},
		"foreign state": {state: overwrite(`{}`), unknown: true},
		"no config":     {config: os.Remove},
		"torn config":   {config: overwrite(`{"oci`)},
	} {
		for _, own := range []bool{true, false} { // pid namespaces
			t.Run(name, func(t *testing.T) {
				h := &host{h.With(t)}
				r, _ := h.Request("c", testkit.Spec(h.Rootfs, "sh", "-c", "sleep 1000 & wait"))
				if !own {
					r.Spec.Linux.Namespaces = h.HostPID().Linux.Namespaces
				}
				c := h.Must(r)
				if err := c.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
				enginetest.Await(t, c, 2)
				if test.ended {
					if err := c.Kill(t.Context(), syscall.SIGKILL, true); err != nil {
						t.Fatal(err)
					}
					enginetest.ExitsWith(t, c, 137)
				}
				if test.paused {
					if err := c.(task.Pauser).Pause(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				if test.state != nil {
					if err := test.state(filepath.Join(h.State("c"), "state.json")); err != nil {
						t.Fatal(err)
					}
				}
				if test.config != nil {
					if err := test.config(filepath.Join(r.Bundle, bundle.ConfigFile)); err != nil {
						t.Fatal(err)
					}
				}
				e, err := h.After().Delete(t.Context(), "c", r.Bundle)
				if err != nil {
					t.Fatal(err)
				}
				if e.At.IsZero() != test.unknown || !test.unknown && e.Status != 137 {
					t.Errorf("exit %+v", e)
				}
				h.NothingLeft(r)
				enginetest.ExitsWith(t, c, 137)
				if e, err := h.After().Delete(t.Context(), "c", r.Bundle); err != nil || !e.At.IsZero() {
					t.Errorf("second delete: %+v, %v", e, err)
				}
			})
		}
	}
}

// The option root is found in the bundle; torn, it is not.
func TestDeleteUsesTheBundlesOptions(t *testing.T) {
	h := newHost(t)
	r, _ := h.Request("c", testkit.Spec(h.Rootfs, "sleep", "1000"))
	root := t.TempDir()
	r.Options = h.Options(&runcoptions.Options{Root: root})
	c := h.Must(r)
	for _, name := range []string{bundle.OptionsFile, bundle.RuntimeFile} {
		if fi, err := os.Stat(filepath.Join(r.Bundle, name)); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, fi, err)
		}
	}
	if _, err := os.Stat(filepath.Join(root, enginetest.Namespace, "c", "state.json")); err != nil {
		t.Error(err)
	}
	good, err := os.ReadFile(filepath.Join(r.Bundle, bundle.OptionsFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range [][]byte{[]byte(`{"root":`), good} {
		if err := bundle.WriteFile(r.Bundle, bundle.OptionsFile, text); err != nil {
			t.Fatal(err)
		}
		if _, err := h.After().Delete(t.Context(), "c", r.Bundle); err != nil {
			t.Error(err)
		}
	}
	enginetest.ExitsWith(t, c, 137)
	if _, err := os.Stat(filepath.Join(root, enginetest.Namespace, "c")); err == nil {
		t.Error("state is left")
	}
}

// With nothing readable but the pid that the bundle notes, that is enough to end the container and free its cgroup.
func TestDeleteByThePIDAlone(t *testing.T) {
	h := newHost(t)
	for _, own := range []bool{true, false} { // pid namespaces
		r, _ := h.Request("c", testkit.Spec(h.Rootfs, "sh", "-c", "sleep 1000 & wait"))
		if !own {
			r.Spec.Linux.Namespaces = h.HostPID().Linux.Namespaces
		}
		root := t.TempDir()
		r.Options = h.Options(&runcoptions.Options{Root: root})
		c := h.Must(r)
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		enginetest.Await(t, c, 2)
		if err := bundle.WritePID(r.Bundle, c.PID()); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{bundle.OptionsFile, bundle.ConfigFile} {
			if err := bundle.WriteFile(r.Bundle, name, []byte(`{"`)); err != nil {
				t.Fatal(err)
			}
		}
		if e, err := h.After().Delete(t.Context(), "c", r.Bundle); err != nil || e.Status != 137 || e.At.IsZero() {
			t.Errorf("delete: %+v, %v", e, err)
		}
		enginetest.ExitsWith(t, c, 137)
		enginetest.Await(t, c, 0)
		if err := os.RemoveAll(filepath.Join(root, enginetest.Namespace)); err != nil {
			t.Fatal(err)
		}
	}
}

// A pid that another process has by now is left alone.
func TestDeleteLeavesOthersAlone(t *testing.T) {
	h := newHost(t)
	dir := t.TempDir()
	other := exec.Command("/bin/sleep", "1000")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	if err := bundle.WritePID(dir, other.Process.Pid); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour) // the note is older than the process
	if err := os.Chtimes(filepath.Join(dir, bundle.InitPIDFile), old, old); err != nil {
		t.Fatal(err)
	}
	if e, err := h.After().Delete(t.Context(), "c", dir); err != nil || !e.At.IsZero() {
		t.Errorf("delete: %+v, %v", e, err)
	}
	if err := other.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the other process: %v", err)
	}
}

func TestDeleteOfNothing(t *testing.T) {
	h := newHost(t)
	dir := t.TempDir()
	e := h.After()
	if exit, err := e.Delete(t.Context(), "c", dir); err != nil || !exit.At.IsZero() {
		t.Fatalf("%+v, %v", exit, err)
	}
	if _, err := e.Delete(t.Context(), "c", filepath.Join(dir, "no", "such")); err != nil {
		t.Errorf("without a bundle: %v", err)
	}
}

// A criu that dies with its shim leaves mounts. What is in them is not the container's.
func TestDeleteAfterACriu(t *testing.T) {
	h := newHost(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r, _ := h.Request("c", testkit.Spec(h.Rootfs, "sleep", "1000"))
	h.Must(r)
	for _, point := range []string{filepath.Join(h.State("c"), "criu-root"), filepath.Join(r.Bundle, "criu-work", ".criu.cgyard.x")} {
		if err := os.MkdirAll(point, 0o700); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := unix.Mount(dir, point, "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 2 {
		if _, err := h.After().Delete(t.Context(), "c", r.Bundle); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(r.Bundle); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}

// Whoever freezes the container when its shim is gone does not keep it.
func TestDeleteOfWhatIsFrozenMeanwhile(t *testing.T) {
	h := newHost(t)
	r, _ := h.Request("c", testkit.Spec(h.Rootfs, "sleep", "1000"))
	c := h.Must(r)
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan struct{})
	go func() { // ends soon
		defer close(stopped)
		for until := time.Now().Add(300 * time.Millisecond); time.Now().Before(until); {
			_ = c.(task.Pauser).Pause(context.Background())
		}
	}()
	if _, err := h.After().Delete(t.Context(), "c", r.Bundle); err != nil {
		t.Error(err)
	}
	<-stopped
}
