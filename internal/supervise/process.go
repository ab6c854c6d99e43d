package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/shimwright/shimwright/internal/stdio"
	"github.com/shimwright/shimwright/task"
)

// statusUnknown is the exit status of a process that could not be started, or whose end nobody saw.
const statusUnknown = 255

// deathTimeout bounds the wait for a process that was sent SIGKILL.
const deathTimeout = 10 * time.Second

// process is a task's first process or an exec: its state, and the order of what happens to it.
//
// op is held across a whole operation, and by the exit too, so that an exit follows the start it belongs to. mu is held
// for a moment around the snapshot and never across a call out: State, Kill and Wait do not wait for an operation.
type process struct {
	owner   *Task
	execID  string // "" for the task's first process
	impl    task.Process
	stdio   stdio.Config
	streams *stdio.Streams

	op   lock
	told chan struct{} // closed when the event that it is there is queued
	dead chan struct{} // closed when the process was seen dead, and its execs too: its exit is then in raw
	raw  task.Exit

	mu       sync.Mutex
	state    task.State
	starting bool
	pid      int
	exit     task.Exit
	settled  chan struct{} // closed when it is Stopped or Deleted, after the events of that are queued
}

func newProcess(owner *Task, execID string, impl task.Process, names stdio.Config, streams *stdio.Streams) *process {
	return &process{
		owner: owner, execID: execID, impl: impl, stdio: names, streams: streams, pid: impl.PID(),
		op: make(lock, 1), told: make(chan struct{}), dead: make(chan struct{}), settled: make(chan struct{}), state: task.Created,
	}
}

// announce makes the process visible with show, which may refuse that, queues the event of it before anything else can
// happen to it, and watches it if it runs already.
func (p *process) announce(e event, show func() error) error {
	p.op <- struct{}{}
	defer p.op.release()
	if err := show(); err != nil {
		return err
	}
	p.owner.publish(e)
	close(p.told)
	if p.pid != 0 {
		go p.watch()
	}
	return nil
}

// lock is a mutex whose taking ends with a context.
type lock chan struct{}

func (l lock) take(ctx context.Context) error {
	select {
	case l <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("another operation is under way: %w", context.Cause(ctx))
	}
}

func (l lock) release() { <-l }

// watch sees the process end: it notes the exit where it outlives the shim, then tells.
func (p *process) watch() {
	exit := p.wait()
	if exit.At.IsZero() {
		exit.At = time.Now()
	}
	p.raw = exit
	p.owner.record(p, exit)
	p.streams.Exited()
	if p.execID == "" {
		p.owner.endExecs(p)
	}
	close(p.dead)
	_ = p.op.take(context.Background())
	defer p.op.release()
	p.settle(task.OpExit, exit)
}

// wait is the runtime's Wait; a panic in it is an end that nobody saw.
func (p *process) wait() (exit task.Exit) {
	defer func() {
		if r := recover(); r != nil {
			p.owner.sup.cfg.Log.Error("panic in Wait", "id", p.owner.ID, "exec", p.execID, "panic", r, "stack", string(debug.Stack()))
			exit = task.Exit{Status: statusUnknown, At: time.Now()}
		}
	}()
	return p.impl.Wait()
}

// settle moves the process to where op – an exit or a failed start – leads, once. Its events are queued before anybody
// who waits is told. The caller holds op.
func (p *process) settle(op task.Op, exit task.Exit) {
	p.mu.Lock()
	from := p.state
	to, err := from.Next(op)
	if err != nil { // settled before
		p.mu.Unlock()
		return
	}
	p.state, p.exit = to, exit
	pid := p.pid
	p.mu.Unlock()
	if exit.OOM {
		p.owner.tellOOM()
	}
	if p.execID == "" {
		p.owner.silence()
	}
	if from != task.Created { // no exit without a start
		p.owner.publish(exited(p.owner.ID, p.execID, pid, exit))
	}
	p.owner.settled(p)
	close(p.settled)
}

// start runs the program. The event precedes the process's exit, since both need op.
func (p *process) start(ctx context.Context) (pid int, err error) {
	if err := p.op.take(ctx); err != nil {
		return 0, err
	}
	defer p.op.release()
	ctx = context.WithoutCancel(ctx)
	if _, err := p.check(task.OpStart); err != nil {
		return 0, err
	}
	if err := p.owner.begin(p); err != nil {
		return 0, err
	}
	p.setStarting(true)
	ok := false
	defer func() { // also when the runtime panics
		p.setStarting(false)
		if !ok {
			p.fail(ctx)
		}
	}()
	watched := p.PID() != 0
	if err := p.impl.Start(ctx); err != nil {
		return 0, err
	}
	pid = p.impl.PID()
	ok = true
	p.mu.Lock()
	p.state, _ = p.state.Next(task.OpStart)
	p.pid = pid
	p.mu.Unlock()
	if !watched && p.execID == "" { // restored
		p.owner.notePID(pid)
	}
	p.streams.Started()
	p.owner.publish(started(p.owner.ID, p.execID, pid))
	if !watched {
		go p.watch()
	}
	return pid, nil
}

// fail ends a process whose start went wrong. The caller holds op.
func (p *process) fail(ctx context.Context) {
	exit := task.Exit{Status: statusUnknown, At: time.Now()}
	if p.PID() == 0 {
		p.owner.record(p, exit)
	} else if e, err := p.end(ctx); err == nil { // it was there before the start and goes now
		exit = e
	}
	p.streams.Exited()
	p.settle(task.OpFail, exit)
}

// end kills a watched process and waits until it is dead.
func (p *process) end(ctx context.Context) (task.Exit, error) {
	err := p.impl.Kill(ctx, syscall.SIGKILL, p.execID == "")
	if hasEnded(err) {
		err = nil
	}
	select {
	case <-p.dead:
		return p.raw, nil
	case <-time.After(2 * deathTimeout): // its own end, and that of its execs
		return task.Exit{}, errors.Join(fmt.Errorf("process %d does not end: %w", p.PID(), errdefs.ErrUnavailable), err)
	case <-ctx.Done():
		return task.Exit{}, errors.Join(context.Cause(ctx), err)
	}
}

// strike sends SIGKILL, to all of the container or to the process alone. A runtime that panics costs a line in the log.
func (p *process) strike(ctx context.Context, all bool) {
	log := p.owner.sup.cfg.Log.With("id", p.owner.ID, "exec", p.execID)
	defer func() {
		if r := recover(); r != nil {
			log.Error("panic in Kill", "panic", r, "stack", string(debug.Stack()))
		}
	}()
	if err := p.impl.Kill(ctx, syscall.SIGKILL, all); err != nil && !hasEnded(err) {
		log.Warn("kill what outlived the task's first process", "error", err)
	}
}

// change runs an operation that leaves the process alive, such as pause.
func (p *process) change(ctx context.Context, op task.Op, do func(context.Context) error) error {
	if err := p.op.take(ctx); err != nil {
		return err
	}
	defer p.op.release()
	to, err := p.check(op)
	if err != nil {
		return err
	}
	if err := do(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	p.mu.Lock()
	p.state = to
	p.mu.Unlock()
	p.owner.publish(changed(p.owner.ID, op))
	return nil
}

// kill works at any time, also while another operation is stuck.
func (p *process) kill(ctx context.Context, sig syscall.Signal, all bool) error {
	p.mu.Lock()
	_, err := p.state.Next(task.OpKill)
	if err == nil && p.state == task.Created && p.pid == 0 && !p.starting {
		err = fmt.Errorf("process is not started: %w", errdefs.ErrFailedPrecondition)
	}
	p.mu.Unlock()
	if err != nil {
		return err
	}
	err = p.impl.Kill(ctx, sig, all)
	if errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	return err
}

// hasEnded tells a Kill that came too late, in the contract's words or in those of package os.
func hasEnded(err error) bool {
	return errors.Is(err, errdefs.ErrNotFound) || errors.Is(err, os.ErrProcessDone)
}

// remove frees the process and queues the event. Whoever asks again gets the same answer.
func (p *process) remove(ctx context.Context) (Status, error) {
	if err := p.op.take(ctx); err != nil {
		return Status{}, err
	}
	defer p.op.release()
	ctx = context.WithoutCancel(ctx)
	if s := p.status(); s.State == task.Deleted {
		return s, nil
	}
	if _, err := p.check(task.OpDelete); err != nil {
		return Status{}, err
	}
	if s := p.status(); s.State == task.Created && s.PID != 0 {
		exit, err := p.end(ctx)
		if err != nil {
			return Status{}, err
		}
		p.settle(task.OpExit, exit)
	}
	if p.execID == "" {
		if err := p.owner.removeExecs(ctx); err != nil {
			return Status{}, err
		}
	}
	if err := p.impl.Delete(ctx); err != nil {
		return Status{}, err
	}
	if p.execID == "" {
		if err := p.owner.unmount(); err != nil {
			return Status{}, err
		}
	}
	p.streams.Close()
	p.mu.Lock()
	from := p.state
	p.state = task.Deleted
	p.mu.Unlock()
	if from == task.Created { // an exec that never ran
		close(p.settled)
	}
	s := p.status()
	p.owner.publish(deleted(p.owner.ID, s))
	p.owner.forget(p)
	return s, nil
}

func (p *process) check(op task.Op) (task.State, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state.Next(op)
}

func (p *process) setStarting(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.starting = on
}

// PID is the process's id, 0 before there is one. It stays after the exit.
func (p *process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pid
}

func (p *process) status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Status{
		ID: p.owner.ID, ExecID: p.execID, Bundle: p.owner.Bundle, Stdio: p.stdio,
		State: p.state, PID: p.pid, Exit: p.exit,
	}
}
