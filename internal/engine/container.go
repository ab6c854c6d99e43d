// Package engine holds what the engines have in common. Whoever makes a container's processes, they are children of this
// one and run in a cgroup: how they end, are killed and counted is the same. A start can be called off, with all that
// it has running, and what a shim that is gone has left is found and ended.
package engine

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/shimwright/shimwright/internal/cgroup"
	"github.com/shimwright/shimwright/internal/reap"
	"github.com/shimwright/shimwright/task"
)

// Patience is how long killed processes are waited for: the kernel may have to write a core or finish a disk's work.
const Patience = 10 * time.Second

// Container is a container's init and the cgroup that all its processes are in. It is the part of a task.Task that does
// not depend on who has made it. What is exported is set by its maker and does not change.
type Container struct {
	Child   *reap.Child  // the init
	Group   cgroup.Group // where it runs
	Private bool         // it has a pid namespace of its own, which ends with its init
	Log     *slog.Logger // has the container's id

	UID, GID int // the owner of its processes' streams, if the options name one

	OOMs   *cgroup.OOMWatch // counts since Group was known
	struck atomic.Bool      // somebody sent SIGKILL
}

// Own gives a process's streams the owner that the options name. As with runc's callers 0 and 0 name none.
func (c *Container) Own(io *task.IO) error {
	if c.UID == 0 && c.GID == 0 {
		return nil
	}
	return io.Chown(c.UID, c.GID)
}

// PID is the init's process id.
func (c *Container) PID() int { return c.Child.PID() }

// Kill signals the init, or with all everything in the container. SIGKILL reaches a paused container too, and thaws it.
func (c *Container) Kill(_ context.Context, sig syscall.Signal, all bool) error {
	ends := sig == syscall.SIGKILL
	if ends {
		c.struck.Store(true)
	}
	if all && !(ends && c.Private) {
		n, err := c.Group.Signal(sig)
		if ends && c.Child.Signal(sig) == nil { // it may have been moved elsewhere
			n++
		}
		if err == nil && n == 0 {
			return fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
		}
		return err
	}
	err := c.Child.Signal(sig)
	if err == nil && ends {
		c.Group.Thaw()
	}
	return err
}

// Wait blocks until the init has ended. A container without a pid namespace of its own ends with it: what else runs in
// it is killed.
func (c *Container) Wait() task.Exit {
	status, at := c.Child.Wait()
	if !c.Private {
		if _, err := c.Group.Signal(syscall.SIGKILL); err != nil {
			c.Log.Error("end the container with its init", "err", err)
		}
	}
	return task.Exit{Status: status, At: at, OOM: c.OOMs.Exited(c.shot(status))}
}

// Strike notes whether a SIGKILL that the container may die of is the shim's own doing, and tells if that is news.
func (c *Container) Strike(own bool) (news bool) { return c.struck.Swap(own) != own }

// shot tells whether status is that of a SIGKILL which the shim did not send.
func (c *Container) shot(status int) bool {
	return status == 128+int(syscall.SIGKILL) && !c.struck.Load()
}

// WatchOOM makes tell be called for what the OOM killer does in the container.
func (c *Container) WatchOOM(tell func()) error { return c.OOMs.Watch(tell) }

// End kills the init, if it is still there, and returns when no process of the container is left.
func (c *Container) End(ctx context.Context) error {
	c.struck.Store(true)
	if c.Child.Signal(syscall.SIGKILL) == nil { // created
		c.Group.Thaw()
	}
	select {
	case <-c.Child.Done():
	case <-ctx.Done():
		return fmt.Errorf("wait for process %d: %w", c.Child.PID(), ctx.Err())
	}
	if c.Private {
		return nil
	}
	return c.Group.Kill(ctx)
}

// PIDs are all processes of the container.
func (c *Container) PIDs(context.Context) ([]int, error) { return c.Group.PIDs() }

// Stats are the container's figures as containerd's cgroup metrics.
func (c *Container) Stats(context.Context) (proto.Message, error) { return c.Group.Stats() }
