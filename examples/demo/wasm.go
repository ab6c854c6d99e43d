package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/typeurl/v2"
	"github.com/shimwright/shimwright/manager"
	wasmv1 "github.com/shimwright/shimwright/protos/wasm/v1"
)

// hello is hello.wat, translated.
//
//go:embed hello.wasm
var hello []byte

// moduleTopics are the events of the module's container.
var moduleTopics = []string{"/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"}

// module runs a WebAssembly module as a container of its own, whose root file system holds nothing else.
func (d *demo) module(ctx context.Context, m *manager.Manager) (err error) {
	rootfs := filepath.Join(d.dir, "module")
	for _, dir := range []string{"proc", "dev", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(rootfs, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(rootfs, "hello.wasm"), hello, 0o644); err != nil {
		return err
	}
	id := filepath.Base(d.dir) + "-wasm"
	s := spec(id)
	s.Process.Args = []string{"/hello.wasm"}
	opts := &wasmv1.Options{Root: filepath.Join(d.dir, "runc"), CacheDir: filepath.Join(d.dir, "compiled")}
	var shim *manager.Shim
	if err := d.time("wasm: start the shim", func() (err error) {
		shim, err = m.Start(ctx, manager.StartRequest{ID: id, Namespace: namespace, Runtime: d.wasmShim, Spec: s, Options: opts})
		return err
	}); err != nil {
		return err
	}
	defer func() {
		if err == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		err = errors.Join(err, remove(ctx, m, shim))
	}()
	io, err := newStreams(filepath.Join(d.dir, "wasm"))
	if err != nil {
		return err
	}
	defer io.close()
	packed, err := typeurl.MarshalAnyToProto(opts)
	if err != nil {
		return err
	}
	task := shim.Task()
	if err := d.time("wasm: create, compile", func() error {
		_, err := task.Create(ctx, &taskapi.CreateTaskRequest{
			ID: id, Bundle: shim.Bundle(), Stdin: io.stdin, Stdout: io.stdout, Stderr: io.stderr,
			Rootfs:  []*types.Mount{{Type: "bind", Source: rootfs, Options: []string{"rbind", "rw"}}},
			Options: packed,
		})
		return err
	}); err != nil {
		return err
	}
	if err := io.say("hello from outside"); err != nil {
		return err
	}
	var exit *taskapi.WaitResponse
	if err := d.time("wasm: start to end", func() (err error) {
		if _, err = task.Start(ctx, &taskapi.StartRequest{ID: id}); err == nil {
			exit, err = task.Wait(ctx, &taskapi.WaitRequest{ID: id})
		}
		return err
	}); err != nil {
		return err
	}
	output, err := io.output(ctx)
	if err != nil {
		return err
	}
	d.showProcess("a WebAssembly module", output, exit)
	if err := d.time("wasm: delete", func() error {
		_, err := m.Delete(ctx, shim)
		return err
	}); err != nil {
		return err
	}
	if exit.ExitStatus != 8 {
		return fmt.Errorf("the module ended with %d instead of 8", exit.ExitStatus)
	}
	return expect(output, "hello from WebAssembly", "stdin  hello from outside")
}
