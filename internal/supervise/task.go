package supervise

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/shimwright/shimwright/internal/bundle"
	"github.com/shimwright/shimwright/internal/rootfs"
	"github.com/shimwright/shimwright/internal/stdio"
	"github.com/shimwright/shimwright/task"
)

// Task is one container: its first process and its execs.
type Task struct {
	ID, Bundle string

	sup    *Supervisor
	cancel context.CancelCauseFunc // gives up a Create that is under way
	made   chan struct{}           // closed when Create has ended
	rootfs string                  // what was mounted; empty: nothing

	impl task.Task
	init *process // nil during Create; guarded by sup.mu until then

	mu    sync.Mutex
	execs map[string]*process
	live  map[*process]bool // execs whose start began and which have not settled
	ended bool              // the first process is dead: no exec is added or begins any more
	gone  bool              // the task is being freed: likewise

	ooms   sync.Mutex // held while an OOM event is queued, so that none comes after the first process's exit
	silent bool       // that exit is told
}

// ExecRequest asks for a further process in a task.
type ExecRequest struct {
	ID    string
	Stdio stdio.Config
	Spec  *specs.Process
}

// create mounts, opens and makes what r asks for, and takes it all back if one of these goes wrong.
func (t *Task) create(ctx context.Context, r *CreateRequest) (_ *process, err error) {
	spec, err := bundle.ReadSpec(r.Bundle)
	if err != nil {
		return nil, err
	}
	if err := bundle.Renew(r.Bundle); err != nil {
		return nil, err
	}
	streams, err := t.sup.streams.Open(ctx, r.ID, "", r.Stdio)
	if err != nil {
		return nil, err
	}
	ok := false
	defer func() { // also when the runtime panics
		if !ok {
			streams.Abort()
			err = errors.Join(err, t.unmount())
		}
	}()
	if t.rootfs, err = rootfs.Mount(ctx, r.Bundle, r.Mounts); err != nil {
		return nil, err
	}
	t.impl, err = t.sup.cfg.Runtime.Create(ctx, &task.CreateRequest{
		ID: r.ID, Namespace: t.sup.cfg.Namespace, Bundle: r.Bundle, Rootfs: t.rootfs, Spec: spec, IO: streams.IO(),
		Options: r.Options, Checkpoint: r.Checkpoint, ParentCheckpoint: r.ParentCheckpoint,
	})
	if err != nil {
		return nil, err
	}
	p := newProcess(t, "", t.impl, r.Stdio, streams)
	if p.pid != 0 {
		t.notePID(p.pid)
	}
	if err := p.announce(created(r, p.pid), func() error { return t.sup.admit(ctx, t, p) }); err != nil {
		return nil, errors.Join(err, undo(t.impl))
	}
	ok = true
	t.watchOOM()
	return p, nil
}

// watchOOM has the runtime tell of the OOM killer from now on, if it can.
func (t *Task) watchOOM() {
	w, ok := t.impl.(task.OOMWatcher)
	if !ok {
		return
	}
	if err := w.WatchOOM(t.tellOOM); err != nil {
		t.sup.cfg.Log.Warn("OOM kills are told at an exit only", "id", t.ID, "error", err)
	}
}

// tellOOM queues an OOM event, unless the task's exit was told before.
func (t *Task) tellOOM() {
	t.ooms.Lock()
	defer t.ooms.Unlock()
	if !t.silent {
		t.publish(oom(t.ID))
	}
}

// silence ends the telling of OOMs.
func (t *Task) silence() {
	t.ooms.Lock()
	defer t.ooms.Unlock()
	t.silent = true
}

// undo ends and frees a task that nobody has seen.
func undo(impl task.Task) error {
	ctx := context.Background()
	var err error
	if impl.PID() != 0 {
		if err = impl.Kill(ctx, syscall.SIGKILL, true); err == nil || hasEnded(err) {
			impl.Wait()
			err = nil
		}
	}
	return errors.Join(err, impl.Delete(ctx))
}

func (t *Task) process(execID string) (*process, error) {
	if execID == "" {
		return t.init, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.execs[execID]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("exec %s of task %s: %w", execID, t.ID, errdefs.ErrNotFound)
}

func (t *Task) exec(ctx context.Context, r *ExecRequest) error {
	execer, ok := t.impl.(task.Execer)
	if !ok {
		return notImplemented("exec")
	}
	<-t.init.told // a moment at most
	if _, err := t.init.check(task.OpExec); err != nil {
		return err
	}
	if err := t.reserveExec(r.ID); err != nil {
		return err
	}
	var p *process
	defer func() { // also when the runtime panics
		if p == nil {
			t.dropExec(r.ID)
		}
	}()
	streams, err := t.sup.streams.Open(ctx, t.ID, r.ID, r.Stdio)
	if err != nil {
		return err
	}
	defer func() {
		if p == nil {
			streams.Abort()
		}
	}()
	impl, err := execer.Exec(context.WithoutCancel(ctx), &task.ExecRequest{ID: r.ID, Spec: r.Spec, IO: streams.IO()})
	if err != nil {
		return err
	}
	added := newProcess(t, r.ID, impl, r.Stdio, streams)
	if err := added.announce(execAdded(t.ID, r.ID), func() error { return t.admit(added) }); err != nil {
		return errors.Join(err, impl.Delete(context.WithoutCancel(ctx)))
	}
	p = added
	return nil
}

// admit makes an exec visible, unless its task has ended or is being freed.
func (t *Task) admit(p *process) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.gone || t.ended {
		return fmt.Errorf("task %s has ended: %w", t.ID, errdefs.ErrFailedPrecondition)
	}
	t.execs[p.execID] = p
	return nil
}

// reserveExec takes an exec's id. A nil entry is an exec that is being made.
func (t *Task) reserveExec(id string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, there := t.execs[id]; there {
		return fmt.Errorf("exec %s of task %s: %w", id, t.ID, errdefs.ErrAlreadyExists)
	}
	t.execs[id] = nil
	return nil
}

func (t *Task) dropExec(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.execs, id)
}

// begin notes that an exec is about to run. The first process's exit waits for it from then on.
func (t *Task) begin(p *process) error {
	if p.execID == "" {
		return nil
	}
	if _, err := t.init.check(task.OpExec); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return fmt.Errorf("the task's first process has ended: %w", errdefs.ErrFailedPrecondition)
	}
	t.live[p] = true
	return nil
}

// settled notes that a process has ended, or will not run.
func (t *Task) settled(p *process) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.live, p)
}

// endExecs kills what outlived the first process and waits, bounded, until the exits of its execs are told.
func (t *Task) endExecs(init *process) {
	t.mu.Lock()
	t.ended = true
	live := slices.Collect(maps.Keys(t.live))
	execs := slices.Collect(maps.Values(t.execs))
	t.mu.Unlock()
	for _, p := range execs {
		if p != nil {
			<-p.told // a moment at most: no exec is announced after the exit
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), deathTimeout)
	defer cancel()
	init.strike(ctx, true)
	for _, p := range live {
		p.strike(ctx, false) // also one whose start is under way
	}
	for _, p := range live {
		select {
		case <-p.settled:
		case <-ctx.Done():
			t.sup.cfg.Log.Warn("an exec outlives its task", "id", t.ID, "exec", p.execID, "pid", p.PID())
		}
	}
}

// removeExecs frees the execs that nobody deleted. From now on none is added.
func (t *Task) removeExecs(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, deathTimeout)
	defer cancel()
	t.mu.Lock()
	t.gone = true
	execs := slices.Collect(maps.Values(t.execs))
	t.mu.Unlock()
	for _, p := range execs {
		if p == nil { // being made: admit refuses it
			continue
		}
		if _, err := p.remove(ctx); err != nil {
			return fmt.Errorf("exec %s of task %s is not freed: %w: %w", p.execID, t.ID, err, errdefs.ErrUnavailable)
		}
	}
	return nil
}

// forget drops a deleted process; its answer is kept for those who ask again.
func (t *Task) forget(p *process) {
	s := t.sup
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone.bury(p.status())
	if p.execID == "" {
		delete(s.tasks, t.ID)
	} else {
		t.dropExec(p.execID)
	}
}

// record writes the first process's exit into the bundle, before anybody is told of it.
func (t *Task) record(p *process, exit task.Exit) {
	if p.execID != "" {
		return
	}
	if err := bundle.WriteExit(t.Bundle, p.PID(), exit); err != nil {
		t.sup.cfg.Log.Warn("exit not noted in the bundle", "id", t.ID, "status", exit.Status, "error", err)
	}
}

// notePID writes the first process's id into the bundle, for a delete after the shim.
func (t *Task) notePID(pid int) {
	if err := bundle.WritePID(t.Bundle, pid); err != nil {
		t.sup.cfg.Log.Warn("process id not noted in the bundle", "id", t.ID, "error", err)
	}
}

func (t *Task) publish(e event) {
	if e.message != nil {
		t.sup.cfg.Publish(e.topic, e.message)
	}
}

func (t *Task) unmount() error {
	if t.rootfs == "" {
		return nil
	}
	return rootfs.Unmount(t.Bundle)
}

func notImplemented(what string) error {
	return fmt.Errorf("the runtime cannot %s: %w", what, errdefs.ErrNotImplemented)
}

// graveyard keeps the last answers of deleted processes.
type graveyard struct{ buried []Status }

// Enough for every retry that is on its way, and a few kilobytes at most.
const graves = 64

func (g *graveyard) bury(s Status) {
	if len(g.buried) == graves {
		g.buried = slices.Delete(g.buried, 0, 1)
	}
	g.buried = append(g.buried, s)
}

func (g *graveyard) find(id, execID string) (Status, bool) {
	for _, s := range slices.Backward(g.buried) {
		if s.ID == id && s.ExecID == execID {
			return s, true
		}
	}
	return Status{}, false
}

// forget drops what is known of id, which begins anew.
func (g *graveyard) forget(id string) {
	g.buried = slices.DeleteFunc(g.buried, func(s Status) bool { return s.ID == id })
}
