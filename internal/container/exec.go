package container

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/shimwright/shimwright/internal/reap"
	"github.com/shimwright/shimwright/task"
)

// Exec prepares a further process. ErrInvalidArgument: its spec cannot be used.
func (t *Task) Exec(_ context.Context, r *task.ExecRequest) (task.Process, error) {
	x, err := t.ExecProgram(r, kernel{})
	if err != nil {
		return nil, err
	}
	return x, nil
}

// ExecProgram is Exec of a process that runs program, which it owns from now on.
func (t *Task) ExecProgram(r *task.ExecRequest, program Program) (task.Process, error) {
	if _, err := newProcess(r.Spec); err != nil {
		program.Close()
		return nil, fmt.Errorf("OCI runtime exec failed: exec failed: %w", err)
	}
	if err := t.own(&r.IO); err != nil {
		program.Close()
		return nil, err
	}
	return &execution{task: t, spec: r.Spec, io: r.IO, program: program}, nil
}

// execution is a process beside the init.
type execution struct {
	task    *Task
	spec    *specs.Process
	io      task.IO
	program Program

	mu     sync.Mutex
	flight *flight     // its start; nil before
	child  *reap.Child // nil before the start is over, and if it failed
}

// PID is the process id, or 0 as long as there is none.
func (x *execution) PID() int {
	if child := x.started(); child != nil {
		return child.PID()
	}
	return 0
}

func (x *execution) started() *reap.Child {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.child
}

// dying is how long an init that is on its way out, and can no longer be joined, may take to be seen dead.
const dying = 50 * time.Millisecond

// Start runs the process. ErrFailedPrecondition: the container is paused or has stopped.
func (x *execution) Start(ctx context.Context) error {
	f := newFlight()
	x.mu.Lock()
	if x.flight != nil {
		x.mu.Unlock()
		return fmt.Errorf("process was started before: %w", errdefs.ErrFailedPrecondition)
	}
	x.flight = f
	x.mu.Unlock()

	engine := x.task.engine
	if a := x.spec.ExecCPUAffinity; a != nil && a.Initial != "" {
		// Started on a thread that ends at once, so that a helper may be with the leader before libcontainer has waited for it.
		release := engine.reaper.Hold()
		defer release()
	}
	if err := engine.fly(ctx, f, x.start); err != nil {
		select {
		case <-x.task.child.Done(): // whatever went wrong, this is why
			err = fmt.Errorf("%w: the container has stopped: %w", err, errdefs.ErrFailedPrecondition)
		case <-time.After(dying):
		}
		return fmt.Errorf("OCI runtime exec failed: exec failed: %w", err)
	}
	return nil
}

// start is Start on a thread of its own.
func (x *execution) start() (err error) {
	t := x.task
	c, err := load(t.states, t.id)
	if err != nil {
		return err
	}
	switch status, err := c.Status(); {
	case err != nil:
		return err
	case status == libcontainer.Stopped:
		return fmt.Errorf("cannot exec in a stopped container: %w", errdefs.ErrFailedPrecondition)
	case status == libcontainer.Paused:
		return fmt.Errorf("cannot exec in a paused container: %w", errdefs.ErrFailedPrecondition)
	}
	p, err := newProcess(x.spec)
	if err != nil {
		return err
	}
	interpret(p, x.program)
	io, err := connect(p, &x.io)
	if err != nil {
		return err
	}
	defer io.close()
	if err := guard(func() error { return c.Run(p) }); err != nil {
		return err
	}
	pid, err := p.Pid()
	if err != nil {
		return err
	}
	child, err := t.engine.reaper.Watch(pid)
	if err != nil {
		_ = p.Signal(syscall.SIGKILL)
		_, _ = p.Wait()
		return err
	}
	err = io.finish()
	if err == nil {
		err = x.program.Load(x.flight.context())
	}
	if err == nil {
		err = x.publish(child)
	}
	if err == nil {
		err = x.program.Start()
	}
	if err != nil {
		_ = child.Signal(syscall.SIGKILL)
		<-child.Done()
	}
	return err
}

// publish makes the started process known, unless the start was called off.
func (x *execution) publish(child *reap.Child) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.flight.calledOff(); err != nil {
		return err
	}
	x.child = child
	return nil
}

// Kill signals the process; with all it is its container that is meant. During a start SIGKILL calls it off, and any
// other signal goes to what the start has running.
func (x *execution) Kill(ctx context.Context, sig syscall.Signal, all bool) error {
	if all {
		return x.task.Kill(ctx, sig, all)
	}
	x.mu.Lock() // held, so that the start cannot end between the look and the deed
	defer x.mu.Unlock()
	switch {
	case x.child != nil:
		return x.child.Signal(sig)
	case x.flight != nil && x.flight.isOver():
		return fmt.Errorf("process was not started: %w", errdefs.ErrNotFound)
	case x.flight != nil && sig == syscall.SIGKILL:
		x.flight.callOff(errKilled)
		go x.flight.hunt() // ends with the start
		return nil
	case x.flight != nil && x.flight.signal(sig):
		return nil
	default:
		return fmt.Errorf("process not created: %w", errdefs.ErrFailedPrecondition)
	}
}

var errKilled = fmt.Errorf("killed while it was being started: %w", errdefs.ErrAborted)

// Wait blocks until the process has ended.
func (x *execution) Wait() task.Exit {
	status, at := x.started().Wait()
	status = x.program.Status(status)
	return task.Exit{Status: status, At: at, OOM: x.task.ooms.Exited(false)}
}

// Delete frees the program: its process has ended or never was.
func (x *execution) Delete(context.Context) error {
	x.program.Close()
	return nil
}
