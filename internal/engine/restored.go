package engine

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/shimwright/shimwright/task"
)

// A Restorable is a container's task with all that it may offer.
type Restorable interface {
	task.Task
	task.Execer
	task.Pauser
	task.Updater
	task.Stater
	task.Lister
	task.OOMWatcher
	task.Checkpointer
}

// Restored is a container that Start restores from an image. Until then there is no process, and nothing of it but the
// files in the bundle.
type Restored struct {
	// Restore makes the processes, in flight f, and has the task published as the last of it. On error, be it that of
	// publish, nothing of the container may be left.
	Restore func(ctx context.Context, f *Flight, publish func(Restorable) error) error
	Log     *slog.Logger // has the container's id

	mu     sync.Mutex
	flight *Flight    // the restore; nil before
	task   Restorable // nil before the restore is over, and if it failed
	oom    func()     // called for OOM kills; nil: nobody asked
}

// Start restores the processes, which go on where they were.
func (x *Restored) Start(ctx context.Context) error {
	f := NewFlight()
	x.mu.Lock()
	if x.flight != nil {
		x.mu.Unlock()
		return fmt.Errorf("container was restored before: %w", errdefs.ErrFailedPrecondition)
	}
	x.flight = f
	x.mu.Unlock()
	if err := x.Restore(ctx, f, x.publish); err != nil {
		return fmt.Errorf("OCI runtime restore failed: %w", err)
	}
	return nil
}

// publish makes the restored task known, unless the restore was called off.
func (x *Restored) publish(t Restorable) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.flight.CalledOff(); err != nil {
		return err
	}
	if x.oom != nil {
		if err := t.WatchOOM(x.oom); err != nil {
			x.Log.Warn("OOM kills are told at an exit only", "err", err)
		}
	}
	x.task = t
	return nil
}

// WatchOOM makes tell be called for what the OOM killer does in the container, once that was restored.
func (x *Restored) WatchOOM(tell func()) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.oom = tell
	return nil
}

// running is the task once it was restored. ErrFailedPrecondition: it was not.
func (x *Restored) running() (Restorable, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.task == nil {
		return nil, fmt.Errorf("the container is not restored: %w", errdefs.ErrFailedPrecondition)
	}
	return x.task, nil
}

// PID is the init's process id; 0 before it was restored.
func (x *Restored) PID() int {
	if t, err := x.running(); err == nil {
		return t.PID()
	}
	return 0
}

// Kill signals the restored container. While it is being restored SIGKILL calls that off; nothing else is there to signal.
func (x *Restored) Kill(ctx context.Context, sig syscall.Signal, all bool) error {
	x.mu.Lock()
	t, f := x.task, x.flight
	switch {
	case t != nil:
		x.mu.Unlock()
		return t.Kill(ctx, sig, all)
	case f != nil && f.Over():
		x.mu.Unlock()
		return fmt.Errorf("container was not restored: %w", errdefs.ErrNotFound)
	case f != nil && sig == syscall.SIGKILL:
		f.CallOff(ErrKilled) // under the lock: the restore ends before this, or with it
		x.mu.Unlock()
		go f.Hunt() // ends with the restore
		return nil
	default:
		x.mu.Unlock()
		return fmt.Errorf("the container is not restored: %w", errdefs.ErrFailedPrecondition)
	}
}

// Wait blocks until the restored init has ended.
func (x *Restored) Wait() task.Exit {
	t, err := x.running()
	if err != nil {
		return task.Exit{Status: 255}
	}
	return t.Wait()
}

// Delete frees the container. One that was not restored has nothing to free.
func (x *Restored) Delete(ctx context.Context) error {
	if t, err := x.running(); err == nil {
		return t.Delete(ctx)
	}
	return nil
}

// Exec prepares a further process.
func (x *Restored) Exec(ctx context.Context, r *task.ExecRequest) (task.Process, error) {
	t, err := x.running()
	if err != nil {
		return nil, err
	}
	return t.Exec(ctx, r)
}

// Pause freezes the container.
func (x *Restored) Pause(ctx context.Context) error {
	t, err := x.running()
	if err != nil {
		return err
	}
	return t.Pause(ctx)
}

// Resume thaws the container.
func (x *Restored) Resume(ctx context.Context) error {
	t, err := x.running()
	if err != nil {
		return err
	}
	return t.Resume(ctx)
}

// Update changes the container's limits.
func (x *Restored) Update(ctx context.Context, r *task.UpdateRequest) error {
	t, err := x.running()
	if err != nil {
		return err
	}
	return t.Update(ctx, r)
}

// Stats are the container's figures.
func (x *Restored) Stats(ctx context.Context) (proto.Message, error) {
	t, err := x.running()
	if err != nil {
		return nil, err
	}
	return t.Stats(ctx)
}

// PIDs are all processes of the container; none before it was restored.
func (x *Restored) PIDs(ctx context.Context) ([]int, error) {
	if t, err := x.running(); err == nil {
		return t.PIDs(ctx)
	}
	return nil, nil
}

// Checkpoint writes the container to an image.
func (x *Restored) Checkpoint(ctx context.Context, r *task.CheckpointRequest) error {
	t, err := x.running()
	if err != nil {
		return err
	}
	return t.Checkpoint(ctx, r)
}
