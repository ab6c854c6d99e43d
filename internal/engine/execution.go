package engine

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"github.com/shimwright/shimwright/internal/reap"
	"github.com/shimwright/shimwright/task"
)

// Execution is a process beside a container's init. It implements task.Process.
type Execution struct {
	Container *Container
	Reaper    *reap.Reaper

	// Hold: processes that Run waits for, or will have watched, may be with the leader before.
	Hold bool
	// Run starts the process, on a thread of its own, and has it watched. A child that it returns with an error is killed.
	// ctx ends when the start is called off.
	Run func(ctx context.Context) (*reap.Child, error)
	// Begin is called when the process is known, as the last of its start. It may be nil.
	Begin func() error

	mu     sync.Mutex
	flight *Flight     // its start; nil before
	child  *reap.Child // nil before the start is over, and if it failed
}

// PID is the process id, or 0 as long as there is none.
func (x *Execution) PID() int {
	if child := x.started(); child != nil {
		return child.PID()
	}
	return 0
}

func (x *Execution) started() *reap.Child {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.child
}

// dying is how long an init that is on its way out, and can no longer be joined, may take to be seen dead.
const dying = 50 * time.Millisecond

// Start runs the process. ErrFailedPrecondition: the container is paused or has stopped.
func (x *Execution) Start(ctx context.Context) error {
	f := NewFlight()
	x.mu.Lock()
	if x.flight != nil {
		x.mu.Unlock()
		return fmt.Errorf("process was started before: %w", errdefs.ErrFailedPrecondition)
	}
	x.flight = f
	x.mu.Unlock()

	if x.Hold {
		release := x.Reaper.Hold()
		defer release()
	}
	if err := f.Run(ctx, x.Reaper, x.start); err != nil {
		select {
		case <-x.Container.Child.Done(): // whatever went wrong, this is why
			err = fmt.Errorf("%w: the container has stopped: %w", err, errdefs.ErrFailedPrecondition)
		case <-time.After(dying):
		}
		return fmt.Errorf("OCI runtime exec failed: %w", err)
	}
	return nil
}

// start is Start on a thread of its own.
func (x *Execution) start() error {
	child, err := x.Run(x.flight.Context())
	if err == nil {
		err = x.publish(child)
	}
	if err == nil && x.Begin != nil {
		err = x.Begin()
	}
	if err != nil && child != nil {
		_ = child.Signal(syscall.SIGKILL)
		<-child.Done()
	}
	return err
}

// publish makes the started process known, unless the start was called off.
func (x *Execution) publish(child *reap.Child) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.flight.CalledOff(); err != nil {
		return err
	}
	x.child = child
	return nil
}

// Kill signals the process; with all it is its container that is meant. During a start SIGKILL calls it off, and any
// other signal goes to what the start has running.
func (x *Execution) Kill(ctx context.Context, sig syscall.Signal, all bool) error {
	if all {
		return x.Container.Kill(ctx, sig, all)
	}
	x.mu.Lock() // held, so that the start cannot end between the look and the deed
	defer x.mu.Unlock()
	switch {
	case x.child != nil:
		return x.child.Signal(sig)
	case x.flight != nil && x.flight.Over():
		return fmt.Errorf("process was not started: %w", errdefs.ErrNotFound)
	case x.flight != nil && sig == syscall.SIGKILL:
		x.flight.CallOff(ErrKilled)
		go x.flight.Hunt() // ends with the start
		return nil
	case x.flight != nil && x.flight.Signal(sig):
		return nil
	default:
		return fmt.Errorf("process not created: %w", errdefs.ErrFailedPrecondition)
	}
}

// ErrKilled is why a start was called off: SIGKILL for what it was to start.
var ErrKilled = fmt.Errorf("killed while it was being started: %w", errdefs.ErrAborted)

// Wait blocks until the process has ended.
func (x *Execution) Wait() task.Exit {
	status, at := x.started().Wait()
	return task.Exit{Status: status, At: at, OOM: x.Container.OOMs.Exited(false)}
}

// Delete has nothing to free: the process has ended or never was.
func (x *Execution) Delete(context.Context) error { return nil }
