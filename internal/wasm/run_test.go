package wasm

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	Reexec()
	os.Exit(m.Run())
}

// play runs a module as a plain process of the host.
func play(t *testing.T, c *Cache, req Request, stdin string) (stdout, stderr string, status int) {
	t.Helper()
	return playWith(t, c, req, func(cmd *exec.Cmd) { cmd.Stdin = strings.NewReader(stdin) }, func(*os.Process) {})
}

// playWith is play with a say in how the process is started, and in what happens just before the guest runs.
func playWith(t *testing.T, c *Cache, req Request, change func(*exec.Cmd), before func(*os.Process)) (stdout, stderr string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := c.New(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	args, env, files := r.Command()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var out, errs bytes.Buffer
	cmd.Env, cmd.ExtraFiles, cmd.Stdout, cmd.Stderr = env, files, &out, &errs
	change(cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := r.Load(ctx); err != nil {
		t.Fatal(err)
	}
	before(cmd.Process)
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	return out.String(), errs.String(), r.Status(cmd.ProcessState.ExitCode())
}
