package container

import (
	"context"
	"fmt"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer"
	"google.golang.org/protobuf/proto"

	"github.com/shimwright/shimwright/internal/checkpoint"
	"github.com/shimwright/shimwright/internal/engine"
	"github.com/shimwright/shimwright/internal/options"
	"github.com/shimwright/shimwright/task"
)

// restored is a container that Start restores from an image. Until then there is no process, and nothing of it but the
// files in the bundle.
type restored struct {
	engine  *Engine
	request *task.CreateRequest
	options *options.Options

	mu     sync.Mutex
	flight *engine.Flight // the restore; nil before
	task   *Task          // nil before the restore is over, and if it failed
	oom    func()         // called for OOM kills; nil: nobody asked
}

// createRestored is Create with an image. What can be checked without restoring it is checked now.
func (e *Engine) createRestored(ctx context.Context, r *task.CreateRequest, o *options.Options) (task.Task, error) {
	if _, err := checkpoint.Ready(ctx); err != nil {
		return nil, err
	}
	if err := checkpoint.Image(r.Checkpoint, r.ParentCheckpoint); err != nil {
		return nil, err
	}
	err := e.fly(ctx, engine.NewFlight(), func() error {
		_, _, err := prepare(r, o)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &restored{engine: e, request: r, options: o}, nil
}

// Start restores the processes, which go on where they were.
func (x *restored) Start(ctx context.Context) error {
	f := engine.NewFlight()
	x.mu.Lock()
	if x.flight != nil {
		x.mu.Unlock()
		return fmt.Errorf("container was restored before: %w", errdefs.ErrFailedPrecondition)
	}
	x.flight = f
	x.mu.Unlock()
	if err := x.engine.fly(ctx, f, x.start); err != nil {
		return fmt.Errorf("OCI runtime restore failed: %w", err)
	}
	return nil
}

// start is Start on a thread of its own. criu and the processes that it makes are children of that thread.
func (x *restored) start() (err error) {
	r := x.request
	p, config, err := prepare(r, x.options)
	if err != nil {
		return err
	}
	desk, err := newDesk(r.Bundle, x.options.CriuWorkPath)
	if err != nil {
		return err
	}
	defer desk.clear()
	streams, err := checkpoint.LoadStreams(r.Checkpoint)
	if err != nil {
		return err
	}
	labels := config.Labels
	if len(streams) > 0 {
		if config.Labels, err = desk.configure(labels, streams.RestoreConfig); err != nil {
			return err
		}
	}

	t := newTask(x.engine, r, x.options)
	var c *libcontainer.Container
	err = guard(func() error {
		c, err = libcontainer.Create(t.states, r.ID, config)
		return err
	})
	if err != nil {
		return classify(err)
	}
	defer func() {
		if err != nil {
			t.undo(c)
		}
	}()
	io, err := connect(p, &r.IO)
	if err != nil {
		return err
	}
	defer io.close()
	// What the image has was allowed when it was made.
	criu := &libcontainer.CriuOpts{
		ImagesDirectory:         r.Checkpoint,
		WorkDirectory:           desk.work,
		TcpEstablished:          true,
		ExternalUnixConnections: true,
		FileLocks:               true,
		EmptyNs:                 emptyNamespaces,
		StatusFd:                -1,
	}
	if err := guard(func() error { return c.Restore(p, criu) }); err != nil {
		return checkpoint.Explain(err, desk.keep(checkpoint.RestoreLog, checkpoint.KeptRestoreLog))
	}
	if err := t.adopt(c, p, config); err != nil {
		return err
	}
	if err := forget(t, c, labels); err != nil {
		return err
	}
	if err := io.finish(); err != nil {
		return err
	}
	return x.publish(t)
}

// forget takes what was meant for criu alone out of the state on disk.
func forget(t *Task, c *libcontainer.Container, labels []string) error {
	state, err := c.State()
	if err != nil {
		return err
	}
	state.Config.Labels = labels
	return writeState(t.state(), state)
}

// publish makes the restored task known, unless the restore was called off.
func (x *restored) publish(t *Task) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.flight.CalledOff(); err != nil {
		return err
	}
	if x.oom != nil {
		if err := t.WatchOOM(x.oom); err != nil {
			t.Log.Warn("OOM kills are told at an exit only", "err", err)
		}
	}
	x.task = t
	return nil
}

// WatchOOM makes tell be called for what the OOM killer does in the container, once that was restored.
func (x *restored) WatchOOM(tell func()) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.oom = tell
	return nil
}

// running is the task once it was restored. ErrFailedPrecondition: it was not.
func (x *restored) running() (*Task, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.task == nil {
		return nil, fmt.Errorf("the container is not restored: %w", errdefs.ErrFailedPrecondition)
	}
	return x.task, nil
}

// PID is the init's process id; 0 before it was restored.
func (x *restored) PID() int {
	if t, err := x.running(); err == nil {
		return t.PID()
	}
	return 0
}

// Kill signals the restored container. While it is being restored SIGKILL calls that off; nothing else is there to signal.
func (x *restored) Kill(ctx context.Context, sig syscall.Signal, all bool) error {
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
		f.CallOff(engine.ErrKilled) // under the lock: the restore ends before this, or with it
		x.mu.Unlock()
		go f.Hunt() // ends with the restore
		return nil
	default:
		x.mu.Unlock()
		return fmt.Errorf("the container is not restored: %w", errdefs.ErrFailedPrecondition)
	}
}

// Wait blocks until the restored init has ended.
func (x *restored) Wait() task.Exit {
	t, err := x.running()
	if err != nil {
		return task.Exit{Status: 255}
	}
	return t.Wait()
}

// Delete frees the container. One that was not restored has nothing to free.
func (x *restored) Delete(ctx context.Context) error {
	if t, err := x.running(); err == nil {
		return t.Delete(ctx)
	}
	return nil
}

// Exec prepares a further process.
func (x *restored) Exec(ctx context.Context, r *task.ExecRequest) (task.Process, error) {
	t, err := x.running()
	if err != nil {
		return nil, err
	}
	return t.Exec(ctx, r)
}

// Pause freezes the container.
func (x *restored) Pause(ctx context.Context) error {
	t, err := x.running()
	if err != nil {
		return err
	}
	return t.Pause(ctx)
}

// Resume thaws the container.
func (x *restored) Resume(ctx context.Context) error {
	t, err := x.running()
	if err != nil {
		return err
	}
	return t.Resume(ctx)
}

// Update changes the container's limits.
func (x *restored) Update(ctx context.Context, r *task.UpdateRequest) error {
	t, err := x.running()
	if err != nil {
		return err
	}
	return t.Update(ctx, r)
}

// Stats are the container's figures.
func (x *restored) Stats(ctx context.Context) (proto.Message, error) {
	t, err := x.running()
	if err != nil {
		return nil, err
	}
	return t.Stats(ctx)
}

// PIDs are all processes of the container; none before it was restored.
func (x *restored) PIDs(ctx context.Context) ([]int, error) {
	if t, err := x.running(); err == nil {
		return t.PIDs(ctx)
	}
	return nil, nil
}

// Checkpoint writes the container to an image.
func (x *restored) Checkpoint(ctx context.Context, r *task.CheckpointRequest) error {
	t, err := x.running()
	if err != nil {
		return err
	}
	return t.Checkpoint(ctx, r)
}
