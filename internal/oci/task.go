package oci

import (
	"context"
	"fmt"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	runc "github.com/containerd/go-runc"

	"github.com/shimwright/shimwright/internal/engine"
	"github.com/shimwright/shimwright/internal/reap"
	"github.com/shimwright/shimwright/task"
)

// Task is a container and its init. What is not its own it has from engine.Container.
type Task struct {
	engine.Container
	id      string
	binary  *binary
	streams []string // what its processes hold of the client's, see paths

	mu       sync.Mutex
	starting *engine.Flight // nil: no start is under way
	started  bool           // a start has succeeded
}

// Start has the binary let the init run the user's program, and run the poststart hooks. SIGKILL ends it at any time.
func (t *Task) Start(ctx context.Context) error {
	err := t.stopped("start")
	if err == nil {
		err = t.start(ctx)
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil && t.Child.Signal(syscall.SIGKILL) == nil {
		t.Group.Thaw()
	}
	return fmt.Errorf("OCI runtime start failed: %w", t.because(err))
}

func (t *Task) start(ctx context.Context) error {
	f := engine.NewFlight()
	t.mu.Lock()
	if t.started || t.starting != nil {
		t.mu.Unlock()
		return fmt.Errorf("cannot start an already running container: %w", errdefs.ErrFailedPrecondition)
	}
	t.starting = f
	t.mu.Unlock()
	err := t.binary.run(ctx, f, func(ctx context.Context, c *call) error { return c.Start(ctx, t.id) })
	t.mu.Lock()
	defer t.mu.Unlock()
	t.starting, t.started = nil, err == nil
	return err
}

// Kill signals the init, or with all everything in the container. SIGKILL also ends a start that hangs; but not one whose
// program has ended while the binary was at it, when what is left in the container is killed.
func (t *Task) Kill(ctx context.Context, sig syscall.Signal, all bool) error {
	ended := t.stopped("kill") != nil
	err := t.Container.Kill(ctx, sig, all)
	if sig == syscall.SIGKILL && !(all && ended) {
		t.mu.Lock()
		defer t.mu.Unlock()
		if f := t.starting; f != nil {
			f.CallOff(engine.ErrKilled)
			go f.Hunt() // ends with the start
			err = nil
		}
	}
	return err
}

// Exec prepares a further process. ErrInvalidArgument: its spec cannot be used.
func (t *Task) Exec(_ context.Context, r *task.ExecRequest) (task.Process, error) {
	if err := engine.CheckProcess(r.Spec); err != nil {
		return nil, fmt.Errorf("OCI runtime exec failed: exec failed: %w", err)
	}
	if err := t.Own(&r.IO); err != nil {
		return nil, err
	}
	x := &engine.Execution{Container: &t.Container, Reaper: t.binary.reaper, Hold: true}
	x.Run = func(context.Context) (child *reap.Child, err error) {
		err = t.binary.call(context.Background(), func(ctx context.Context, c *call) (err error) {
			child, err = t.exec(ctx, c, r)
			return err
		})
		return child, err
	}
	return x, nil
}

func (t *Task) exec(ctx context.Context, c *call, r *task.ExecRequest) (*reap.Child, error) {
	if t.Group.Frozen() {
		return nil, fmt.Errorf("cannot exec in a paused container: %w", errdefs.ErrFailedPrecondition)
	}
	if err := t.stopped("exec in"); err != nil {
		return nil, err
	}
	io, err := c.connect(&r.IO)
	if err != nil {
		return nil, err
	}
	defer io.close()
	spec := *r.Spec
	spec.Terminal = r.IO.Terminal
	if err := c.Exec(ctx, t.id, spec, &runc.ExecOpts{
		IO: io, PidFile: c.file("pid"), ConsoleSocket: io.Console, Detach: true,
	}); err != nil {
		return nil, err
	}
	child, err := c.watch(t.binary.reaper, c.file("pid"))
	if err != nil {
		return nil, err
	}
	return child, io.finish()
}

// Pause freezes the container, running or created.
func (t *Task) Pause(ctx context.Context) error {
	return t.change("pause", func() error {
		if t.Group.Frozen() {
			return fmt.Errorf("the container is paused: %w", errdefs.ErrFailedPrecondition)
		}
		return t.run(ctx, func(ctx context.Context, c *call) error { return c.Pause(ctx, t.id) })
	})
}

// Resume thaws the container.
func (t *Task) Resume(ctx context.Context) error {
	return t.change("resume", func() error {
		if !t.Group.Frozen() {
			return fmt.Errorf("the container is not paused: %w", errdefs.ErrFailedPrecondition)
		}
		return t.run(ctx, func(ctx context.Context, c *call) error { return c.Resume(ctx, t.id) })
	})
}

// Update sets other limits: what r leaves out stays as it is.
func (t *Task) Update(ctx context.Context, r *task.UpdateRequest) error {
	if r.Resources == nil {
		return nil
	}
	return t.change("update", func() error {
		return t.run(ctx, func(ctx context.Context, c *call) error { return c.Update(ctx, t.id, r.Resources) })
	})
}

// change is an operation on a container that has not stopped, before or meanwhile.
func (t *Task) change(what string, fn func() error) error {
	err := t.stopped(what)
	if err == nil {
		err = fn()
	}
	if err != nil {
		return fmt.Errorf("OCI runtime %s failed: %w", what, t.because(err))
	}
	return nil
}

// Delete frees the container: what runs in it, its cgroup, its state. Repeated: no error.
func (t *Task) Delete(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, engine.Patience)
	defer cancel()
	err := t.End(ctx)
	if err == nil {
		err = t.binary.remove(ctx, t.id, t.Group)
	}
	if err != nil {
		return fmt.Errorf("OCI runtime delete failed: %w", err)
	}
	t.OOMs.Close()
	return nil
}

func (t *Task) run(ctx context.Context, fn func(context.Context, *call) error) error {
	return t.binary.run(ctx, engine.NewFlight(), fn)
}

// stopped is an error if the container has stopped. The binary would say so as well, but without a class.
func (t *Task) stopped(what string) error {
	select {
	case <-t.Child.Done():
		return fmt.Errorf("cannot %s a container that has stopped: %w", what, errdefs.ErrFailedPrecondition)
	default:
		return nil
	}
}

// because adds to the error of an operation that the container has stopped meanwhile.
func (t *Task) because(err error) error {
	if stopped := t.stopped("work on"); stopped != nil && !errdefs.IsFailedPrecondition(err) {
		return fmt.Errorf("%w: %w", err, stopped)
	}
	return err
}
