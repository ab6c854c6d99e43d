package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/shimwright/shimwright/manager"
	"golang.org/x/sys/unix"
)

const (
	namespace = "demo"
	execID    = "hello"
)

// topics are the events of the demo's container, in the only order there is.
var topics = []string{
	"/tasks/create", "/tasks/start",
	"/tasks/exec-added", "/tasks/exec-started", "/tasks/exit", "/tasks/delete", // of the exec
	"/tasks/exit", "/tasks/delete",
}

// demo is one run.
type demo struct {
	*screen
	dir, shim, wasmShim string
	began               time.Time
	steps               []step
}

type step struct {
	name string
	took time.Duration
}

func (d *demo) rootfs() string { return filepath.Join(d.dir, "rootfs") }

// time runs one step and notes how long it took.
func (d *demo) time(name string, do func() error) error {
	begin := time.Now()
	err := do()
	d.steps = append(d.steps, step{name, time.Since(begin)})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (d *demo) run(ctx context.Context) (err error) {
	m, err := manager.New(manager.Config{
		State:     filepath.Join(d.dir, "state"),
		Root:      filepath.Join(d.dir, "root"),
		SocketDir: filepath.Join(d.dir, "s"),
		Log:       slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return err
	}
	var seen []manager.Event
	collected := make(chan struct{})
	go func() { // ends with the manager
		defer close(collected)
		for e := range m.Events() {
			seen = append(seen, e)
		}
	}()

	// m is closed after the containers' end, and only then all events are here.
	if err = d.container(ctx, m); err == nil {
		err = d.module(ctx, m)
	}
	err = errors.Join(err, m.Close())
	<-collected
	if err != nil {
		return err
	}
	d.showEvents(seen)
	d.showSteps(d.steps)

	var got []string
	for _, e := range seen {
		got = append(got, e.Topic)
	}
	if want := slices.Concat(topics, moduleTopics); !slices.Equal(got, want) {
		return fmt.Errorf("the events were\n  %s\nand should be\n  %s", strings.Join(got, " "), strings.Join(want, " "))
	}
	return nil
}

// container runs the container from its bundle to its removal.
func (d *demo) container(ctx context.Context, m *manager.Manager) (err error) {
	d.began = time.Now()
	id := filepath.Base(d.dir) // no other container's, and so is the cgroup
	opts := &options.Options{Root: filepath.Join(d.dir, "runc")}
	packed, err := typeurl.MarshalAnyToProto(opts)
	if err != nil {
		return err
	}
	var shim *manager.Shim
	if err := d.time("start the shim", func() (err error) {
		shim, err = m.Start(ctx, manager.StartRequest{ID: id, Namespace: namespace, Runtime: d.shim, Spec: spec(id), Options: opts})
		return err
	}); err != nil {
		return err
	}
	task := shim.Task()
	defer func() {
		if err == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		err = errors.Join(err, remove(ctx, m, shim))
	}()

	io, err := newStreams(filepath.Join(d.dir, "init"))
	if err != nil {
		return err
	}
	defer io.close()
	if err := d.time("create", func() error {
		_, err := task.Create(ctx, &taskapi.CreateTaskRequest{
			ID: id, Bundle: shim.Bundle(), Stdin: io.stdin, Stdout: io.stdout, Stderr: io.stderr,
			Rootfs:  []*types.Mount{{Type: "bind", Source: d.rootfs(), Options: []string{"rbind", "rw"}}},
			Options: packed,
		})
		return err
	}); err != nil {
		return err
	}
	if err := d.time("start", func() error {
		_, err := task.Start(ctx, &taskapi.StartRequest{ID: id})
		return err
	}); err != nil {
		return err
	}
	exec, err := d.exec(ctx, shim)
	if err != nil {
		return err
	}

	if err := io.say("hello from outside"); err != nil {
		return err
	}
	var exit *taskapi.WaitResponse
	if err := d.time("wait for its end", func() (err error) {
		exit, err = task.Wait(ctx, &taskapi.WaitRequest{ID: id})
		return err
	}); err != nil {
		return err
	}
	output, err := io.output(ctx)
	if err != nil {
		return err
	}
	d.showProcess("the container", output, exit)
	d.showProcess("an exec in it", exec.output, exec.exit)

	var end manager.Exit
	if err := d.time("delete", func() (err error) {
		end, err = m.Delete(ctx, shim)
		return err
	}); err != nil {
		return err
	}
	if exit.ExitStatus != 7 || end.Status != 7 || !end.At.Equal(exit.ExitedAt.AsTime()) {
		return fmt.Errorf("the container ended with %d at %v, and after that with %d at %v; it should be 7, twice, at one time",
			exit.ExitStatus, exit.ExitedAt.AsTime(), end.Status, end.At)
	}
	return expect(output, "host   shimwright", "stdin  hello from outside")
}

type execResult struct {
	output string
	exit   *taskapi.WaitResponse
}

// exec runs a further process in the container, to its end.
func (d *demo) exec(ctx context.Context, shim *manager.Shim) (r execResult, err error) {
	io, err := newStreams(filepath.Join(d.dir, execID))
	if err != nil {
		return r, err
	}
	defer io.close()
	spec, err := manager.Pack(process("/bin/sh", "-c", `echo "I am process $$"; exit 3`))
	if err != nil {
		return r, err
	}
	task := shim.Task()
	if err := d.time("exec, until its end", func() error {
		_, err := task.Exec(ctx, &taskapi.ExecProcessRequest{ID: shim.ID(), ExecID: execID, Stdout: io.stdout, Stderr: io.stderr, Spec: spec})
		if err != nil {
			return err
		}
		if _, err := task.Start(ctx, &taskapi.StartRequest{ID: shim.ID(), ExecID: execID}); err != nil {
			return err
		}
		r.exit, err = task.Wait(ctx, &taskapi.WaitRequest{ID: shim.ID(), ExecID: execID})
		return err
	}); err != nil {
		return r, err
	}
	if r.output, err = io.output(ctx); err != nil {
		return r, err
	}
	if _, err := task.Delete(ctx, &taskapi.DeleteRequest{ID: shim.ID(), ExecID: execID}); err != nil {
		return r, fmt.Errorf("delete the exec: %w", err)
	}
	if r.exit.ExitStatus != 3 {
		return r, fmt.Errorf("the exec ended with %d instead of 3", r.exit.ExitStatus)
	}
	return r, expect(r.output, "I am process ")
}

// remove kills what is left of the container and removes it.
func remove(ctx context.Context, m *manager.Manager, shim *manager.Shim) error {
	_, err := shim.Task().Kill(ctx, &taskapi.KillRequest{ID: shim.ID(), Signal: uint32(unix.SIGKILL), All: true})
	if err == nil {
		_, err = shim.Task().Wait(ctx, &taskapi.WaitRequest{ID: shim.ID()})
	}
	if errdefs.IsNotFound(err) || errdefs.IsUnavailable(err) || errdefs.IsFailedPrecondition(err) {
		err = nil // never made, ended by itself, or not started: Delete will do
	}
	_, deleteErr := m.Delete(ctx, shim)
	return errors.Join(err, deleteErr)
}

func expect(output string, parts ...string) error {
	for _, part := range parts {
		if !strings.Contains(output, part) {
			return fmt.Errorf("%q is missing in the output", part)
		}
	}
	return nil
}

func (d *demo) showProcess(name, output string, exit *taskapi.WaitResponse) {
	d.section(name)
	d.quote(output)
	d.fact("exit code", "%d", exit.ExitStatus)
}

func (d *demo) showEvents(seen []manager.Event) {
	d.section("events")
	for _, e := range seen {
		detail := ""
		switch m := e.Message.(type) {
		case *events.TaskCreate:
			detail = fmt.Sprintf("pid %d", m.Pid)
		case *events.TaskStart:
			detail = fmt.Sprintf("pid %d", m.Pid)
		case *events.TaskExecAdded:
			detail = "exec " + m.ExecID
		case *events.TaskExecStarted:
			detail = fmt.Sprintf("exec %s, pid %d", m.ExecID, m.Pid)
		case *events.TaskExit:
			detail = fmt.Sprintf("pid %d, code %d", m.Pid, m.ExitStatus)
		case *events.TaskDelete:
			detail = fmt.Sprintf("pid %d, code %d", m.Pid, m.ExitStatus)
		}
		d.event(e.Time.Sub(d.began), e.Topic, detail)
	}
}
