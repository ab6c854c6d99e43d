package wasm

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	Reexec()
	os.Exit(m.Run())
}

// guest builds a program of testdata/wasm.
func guest(t *testing.T, name string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), name+".wasm")
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", out, "../../testdata/wasm/"+name)
	build.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
	if said, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v: %s", name, err, said)
	}
	return out
}

// play runs a module as a plain process of the host.
func play(t *testing.T, c *Cache, req Request, stdin string) (stdout, stderr string, status int) {
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
	cmd.Env, cmd.ExtraFiles, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, files, strings.NewReader(stdin), &out, &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := r.Load(ctx); err != nil {
		t.Fatal(err)
	}
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	return out.String(), errs.String(), r.Status(cmd.ProcessState.ExitCode())
}

func TestPlay(t *testing.T) {
	module := guest(t, "probe")
	c := &Cache{Dir: filepath.Join(t.TempDir(), "cache"), Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	for range 3 {
		f, err := os.Open(module)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		out, errs, status := play(t, c, Request{Program: &Program{Path: module, Function: Start, File: f}, Args: []string{"probe", "args", "env=X", "cwd", "err=hi", "ls=/", "cat", "exit=256"}, Env: []string{"X=y"}, Cwd: "/tmp", Preopens: []Preopen{{Path: "/"}}}, "in")
		t.Logf("%v: %q %q %d", time.Since(began), out, errs, status)
	}
}
