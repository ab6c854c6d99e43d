package oci_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/shimwright/shimwright/internal/enginetest"
	"github.com/shimwright/shimwright/internal/oci"
	"github.com/shimwright/shimwright/internal/reap"
	"github.com/shimwright/shimwright/internal/testkit"
)

func TestMain(m *testing.M) { enginetest.Main(m) }

// binary is the engine with an OCI runtime that PATH has.
func binary(t testing.TB, name string) enginetest.Engine {
	t.Helper()
	testkit.RequireRoot(t)
	path, err := exec.LookPath(name)
	if err != nil {
		testkit.Missing(t, "needs %s (hack/deps.sh test): %v", name, err)
	}
	return enginetest.Engine{
		New: func(root string, r *reap.Reaper) enginetest.Runtime {
			return oci.New(oci.Config{Root: root, Namespace: enginetest.Namespace, Reaper: r})
		},
		Binary: path,
	}
}

func runc(t testing.TB) enginetest.Engine {
	t.Helper()
	e := binary(t, "runc")
	e.NoCommand = `runc create failed: unable to start container process: error during container init: exec: "nosuch": executable file not found in $PATH`
	e.NoCommandExec = `exec failed: unable to start container process: exec: "nosuch": executable file not found in $PATH`
	e.NoSystemd = "slice:prefix:name"
	return e
}

func TestRunc(t *testing.T) { enginetest.Run(t, runc(t)) }

func TestRuncCheckpoint(t *testing.T) { enginetest.RunCheckpoint(t, runc(t)) }

func crun(t testing.TB) enginetest.Engine {
	t.Helper()
	e := binary(t, "crun")
	e.NoCommand = "executable file `nosuch` not found in $PATH"
	e.NoCommandExec = "executable file `nosuch` not found in $PATH: No such file or directory"
	e.NoSystemd = "sd-bus"
	return e
}

func TestCrun(t *testing.T) {
	if !enginetest.Unified() {
		return // crun refuses hosts with both cgroup versions: test/cgroup2 runs this
	}
	enginetest.Run(t, crun(t))
}

// wrapped is the engine with a script in runc's place, that ends by running it.
func wrapped(t testing.TB, script string) enginetest.Engine {
	t.Helper()
	e := runc(t)
	enginetest.NewHost(t, e) // the first host of all runs a container, which is not the script's
	e.Binary = filepath.Join(t.TempDir(), "wrapper")
	if err := os.WriteFile(e.Binary, []byte("#!/bin/sh\n"+script+"\nexec runc \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return e
}

// A start that hangs ends when the container is killed, with everything that it has started.
func TestKillOfAStartThatHangs(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "started")
	h := enginetest.NewHost(t, wrapped(t, `case "$*" in *" start "*) touch `+mark+`; sleep 1000 & sleep 1000;; esac`))
	c, _ := h.Created("c", "sleep", "1000")
	started := make(chan error)
	go func() { started <- c.Start(t.Context()) }()
	testkit.Await(t, 10*time.Second, "the start", func() bool { _, err := os.Stat(mark); return err == nil })
	if err := c.Kill(t.Context(), syscall.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	if err := <-started; !errdefs.IsAborted(err) {
		t.Errorf("start: %v", err)
	}
	enginetest.ExitsWith(t, c, 137)
}

// A program that ends while the binary has not yet returned from starting it was started, whatever is done about its end
// meanwhile: what is left in its container is killed.
func TestProgramThatEndsDuringItsStart(t *testing.T) {
	h := enginetest.NewHost(t, wrapped(t, `case "$*" in *" start "*) runc "$@"; status=$?; sleep 0.3; exit $status;; esac`))
	c, _ := h.Created("c", "true")
	ended := make(chan error)
	go func() { // ends with the container
		c.Wait()
		ended <- c.Kill(t.Context(), syscall.SIGKILL, true)
	}()
	if err := c.Start(t.Context()); err != nil {
		t.Errorf("start: %v", err)
	}
	if err := <-ended; err != nil && !errdefs.IsNotFound(err) {
		t.Errorf("kill: %v", err)
	}
}
