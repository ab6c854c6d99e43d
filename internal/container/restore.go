package container

import (
	"context"

	"github.com/opencontainers/runc/libcontainer"

	"github.com/shimwright/shimwright/internal/checkpoint"
	"github.com/shimwright/shimwright/internal/engine"
	"github.com/shimwright/shimwright/internal/options"
	"github.com/shimwright/shimwright/task"
)

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
	restore := func(ctx context.Context, f *engine.Flight, publish func(engine.Restorable) error) error {
		return e.fly(ctx, f, func() error { return e.restore(r, o, publish) })
	}
	return &engine.Restored{Restore: restore, Log: e.log.With("id", r.ID)}, nil
}

// restore is run on a thread of its own. criu and the processes that it makes are children of that thread.
func (e *Engine) restore(r *task.CreateRequest, o *options.Options, publish func(engine.Restorable) error) (err error) {
	p, config, err := prepare(r, o)
	if err != nil {
		return err
	}
	desk, err := checkpoint.NewDesk(r.Bundle, o.CriuWorkPath)
	if err != nil {
		return err
	}
	defer desk.Clear()
	streams, err := checkpoint.LoadStreams(r.Checkpoint)
	if err != nil {
		return err
	}
	labels := config.Labels
	if len(streams) > 0 {
		if config.Labels, err = configure(desk, labels, streams.RestoreConfig); err != nil {
			return err
		}
	}

	t := newTask(e, r, o)
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
		WorkDirectory:           desk.Work,
		TcpEstablished:          true,
		ExternalUnixConnections: true,
		FileLocks:               true,
		EmptyNs:                 emptyNamespaces,
		StatusFd:                -1,
	}
	if err := guard(func() error { return c.Restore(p, criu) }); err != nil {
		return checkpoint.Explain(err, desk.Keep(checkpoint.RestoreLog, checkpoint.KeptRestoreLog))
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
	return publish(t)
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
