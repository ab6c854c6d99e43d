// Command demo runs a real container with the runc shim, and a WebAssembly module with the wasm shim, without a daemon, and shows what happens: what the container
// prints, an exec, exit codes, events in order and how long each step took. It leaves nothing behind.
//
//	go run ./examples/demo            # as root, after make build
//
// The exit status is 0 only if everything was as it should be.
package main

import (
	"context"
	"debug/elf"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	shim := flag.String("shim", "./bin/containerd-shim-runc-v2", "the shim's binary")
	wasmShim := flag.String("wasm-shim", "./bin/containerd-shim-wasm-v1", "the binary of the shim for WebAssembly")
	busybox := flag.String("busybox", "", "a static busybox; without it, the one in PATH")
	flag.Parse()

	// Ctrl-C ends the demo tidily.
	ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := run(ctx, *shim, *wasmShim, *busybox); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("interrupted, or out of time: %w", err)
		}
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, shim, wasmShim, busybox string) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("containers need root: run as root, for instance with sudo")
	}
	if shim, err = findShim(shim); err != nil {
		return err
	}
	if wasmShim, err = findShim(wasmShim); err != nil {
		return err
	}
	if busybox, err = findBusybox(busybox); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "shimwright-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	s := newScreen(os.Stdout)
	defer s.flush()
	d := &demo{screen: s, dir: dir, shim: shim, wasmShim: wasmShim}
	applets, err := makeRootfs(ctx, d.rootfs(), busybox)
	if err != nil {
		return fmt.Errorf("make a root file system: %w", err)
	}
	s.title("Two containers, native and WebAssembly, no daemon")
	s.fact("shim", "%s", shim)
	s.fact("", "%s", wasmShim)
	s.fact("rootfs", "busybox with %d applets", applets)
	return d.run(ctx)
}

func findShim(path string) (string, error) {
	if _, err := exec.LookPath(path); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("there is no shim %s: run make build first, or name one with -shim", path)
	} else if err != nil {
		return "", fmt.Errorf("the shim: %w", err)
	}
	return filepath.Abs(path)
}

func findBusybox(path string) (string, error) {
	if path == "" {
		var err error
		if path, err = exec.LookPath("busybox"); err != nil {
			return "", errors.New("there is no busybox in PATH: apt-get install busybox-static, or name one with -busybox")
		}
	}
	f, err := elf.Open(path)
	if err != nil {
		return "", fmt.Errorf("%s is no program: %w", path, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return "", fmt.Errorf("%s is not static: apt-get install busybox-static, or name another with -busybox", path)
		}
	}
	return path, nil
}
