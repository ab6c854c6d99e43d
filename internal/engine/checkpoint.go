package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
)

// Dump has run write the container to disk with criu, which ends it if exit is set. When that fails the container goes
// on as it was.
//
// Whoever asked for it may go away: a criu that was killed would leave processes in the state that it had put them into.
// Only when they are dead for a while does run's context end.
func (c *Container) Dump(ctx context.Context, exit bool, run func(context.Context) error) error {
	paused := c.Group.Frozen()
	struck := exit && c.Strike(true) // criu's SIGKILL is not the OOM killer's
	if err := c.dump(ctx, run); err != nil {
		if struck {
			c.Strike(false)
		}
		if !paused {
			c.Group.Thaw() // criu does it, unless it was killed
		}
		return err
	}
	if !exit {
		return nil
	}
	select { // thawed, if it was paused
	case <-c.Child.Done():
		return nil
	case <-time.After(Patience):
		return fmt.Errorf("process %d does not end after the checkpoint: %w", c.Child.PID(), errdefs.ErrUnavailable)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *Container) dump(ctx context.Context, run func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	go func() { // ends with this call
		select {
		case <-c.Child.Done():
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(Patience):
			cancel(fmt.Errorf("criu goes on without the container, which has ended: %w", errdefs.ErrAborted))
		case <-ctx.Done():
		}
	}()
	return run(ctx)
}
