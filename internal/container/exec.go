package container

import (
	"context"
	"fmt"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer"

	"github.com/shimwright/shimwright/internal/engine"
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
	if err := t.Own(&r.IO); err != nil {
		program.Close()
		return nil, err
	}
	x := &execution{program: program}
	x.Container, x.Reaper = &t.Container, t.engine.reaper
	// Then it is started on a thread that ends at once, so that a helper may be with the leader before libcontainer has
	// waited for it.
	x.Hold = r.Spec.ExecCPUAffinity != nil && r.Spec.ExecCPUAffinity.Initial != ""
	x.Run = func(ctx context.Context) (child *reap.Child, err error) {
		err = guard(func() error {
			child, err = t.exec(ctx, r, program)
			return err
		})
		if err != nil {
			err = fmt.Errorf("exec failed: %w", err)
		}
		return child, err
	}
	x.Begin = program.Start
	return x, nil
}

// execution is a process beside the init, and what it runs.
type execution struct {
	engine.Execution
	program Program
}

// Wait blocks until the process has ended.
func (x *execution) Wait() task.Exit {
	e := x.Execution.Wait()
	e.Status = x.program.Status(e.Status)
	return e
}

// Delete frees the program: its process has ended or never was.
func (x *execution) Delete(context.Context) error {
	x.program.Close()
	return nil
}

// exec starts the process of r, on a thread of its own, and has its program loaded. ctx ends when it is called off.
func (t *Task) exec(ctx context.Context, r *task.ExecRequest, program Program) (*reap.Child, error) {
	c, err := load(t.states, t.id)
	if err != nil {
		return nil, err
	}
	switch status, err := c.Status(); {
	case err != nil:
		return nil, err
	case status == libcontainer.Stopped:
		return nil, fmt.Errorf("cannot exec in a stopped container: %w", errdefs.ErrFailedPrecondition)
	case status == libcontainer.Paused:
		return nil, fmt.Errorf("cannot exec in a paused container: %w", errdefs.ErrFailedPrecondition)
	}
	p, err := newProcess(r.Spec)
	if err != nil {
		return nil, err
	}
	interpret(p, program)
	io, err := connect(p, &r.IO)
	if err != nil {
		return nil, err
	}
	defer io.close()
	if err := guard(func() error { return c.Run(p) }); err != nil {
		return nil, err
	}
	pid, err := p.Pid()
	if err != nil {
		return nil, err
	}
	child, err := t.engine.reaper.Watch(pid)
	if err != nil {
		_ = p.Signal(syscall.SIGKILL)
		_, _ = p.Wait()
		return nil, err
	}
	err = io.finish()
	if err == nil {
		err = program.Load(ctx)
	}
	return child, err
}
