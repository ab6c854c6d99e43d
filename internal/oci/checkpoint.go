package oci

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	runc "github.com/containerd/go-runc"

	"github.com/shimwright/shimwright/internal/checkpoint"
	"github.com/shimwright/shimwright/internal/engine"
	"github.com/shimwright/shimwright/internal/options"
	"github.com/shimwright/shimwright/task"
)

// Checkpoint has the binary write the container, running or paused, to an image on disk. It goes on as it was, or ends if
// the options want that. When it fails the container goes on.
//
// ErrInvalidArgument: the options or paths cannot be used. ErrFailedPrecondition: criu is missing or too old, or nothing
// runs.
func (t *Task) Checkpoint(ctx context.Context, r *task.CheckpointRequest) error {
	if err := t.checkpoint(ctx, r); err != nil {
		return fmt.Errorf("OCI runtime checkpoint failed: %w", t.because(err))
	}
	return nil
}

func (t *Task) checkpoint(ctx context.Context, r *task.CheckpointRequest) (err error) {
	runtime, err := options.Read(t.binary.bundle)
	if err != nil {
		return err
	}
	o, err := checkpoint.Decode(r, runtime)
	if err != nil {
		return err
	}
	criu, err := checkpoint.Ready(ctx)
	if err != nil {
		return err
	}
	if err := t.running(); err != nil {
		return err
	}
	undo, err := checkpoint.MakeDir(o.ImagePath)
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	defer func() {
		if err != nil {
			undo()
		}
	}()
	desk, err := checkpoint.NewDesk(t.binary.bundle, o.WorkPath)
	if err != nil {
		return err
	}
	defer desk.Clear()
	pids, err := t.Group.PIDs()
	if err != nil {
		return err
	}
	streams, err := checkpoint.FindStreams(pids, t.streams)
	if err != nil {
		return err
	}
	config, err := desk.Configure(streams.DumpConfig(os.Getenv(criuConfig), criu))
	if err != nil {
		return err
	}
	if err := streams.Save(o.ImagePath); err != nil { // after the dump the container may be gone
		return err
	}
	var actions []runc.CheckpointAction
	if !o.Exit {
		actions = append(actions, runc.LeaveRunning)
	}
	return t.Dump(ctx, o.Exit, func(ctx context.Context) error {
		err := t.run(ctx, func(ctx context.Context, c *call) error {
			return c.Checkpoint(runc.WithExtraEnv(ctx, criuConfig+"="+config), t.id, &runc.CheckpointOpts{
				ImagePath:                o.ImagePath,
				WorkDir:                  desk.Work,
				ParentPath:               o.ParentPath,
				AllowOpenTCP:             o.OpenTcp,
				AllowExternalUnixSockets: o.ExternalUnixSockets,
				AllowTerminal:            o.Terminal,
				FileLocks:                o.FileLocks,
				Cgroups:                  runc.CgroupMode(o.CgroupsMode),
				EmptyNamespaces:          o.EmptyNamespaces,
			}, actions...)
		})
		if err != nil {
			return checkpoint.Explain(err, desk.Keep(checkpoint.DumpLog, checkpoint.KeptDumpLog))
		}
		return nil
	})
}

// criuConfig is the variable that names a configuration file for criu. It gets through the OCI runtime, whose own
// configuration of criu goes on to hold. What the variable names before is added to.
const criuConfig = "CRIU_CONFIG_FILE"

// running is an error if there is no process of the user's.
func (t *Task) running() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.started {
		return fmt.Errorf("a created container has nothing to checkpoint: %w", errdefs.ErrFailedPrecondition)
	}
	return t.stopped("checkpoint")
}

// restored is a task that Start restores from the image that r names. What can be checked before is checked now.
func (t *Task) restored(ctx context.Context, r *task.CreateRequest, o *options.Options) (task.Task, error) {
	if _, err := checkpoint.Ready(ctx); err != nil {
		return nil, err
	}
	if err := checkpoint.Image(r.Checkpoint, r.ParentCheckpoint); err != nil {
		return nil, err
	}
	if err := check(r); err != nil {
		return nil, err
	}
	restore := func(ctx context.Context, f *engine.Flight, publish func(engine.Restorable) error) error {
		return t.restore(ctx, f, r, o, publish)
	}
	return &engine.Restored{Restore: restore, Log: t.Log}, nil
}

func (t *Task) restore(ctx context.Context, f *engine.Flight, r *task.CreateRequest, o *options.Options, publish func(engine.Restorable) error) error {
	desk, err := checkpoint.NewDesk(r.Bundle, o.CriuWorkPath)
	if err != nil {
		return err
	}
	defer desk.Clear()
	streams, err := checkpoint.LoadStreams(r.Checkpoint)
	if err != nil {
		return err
	}
	config, err := desk.Configure(streams.RestoreConfig(os.Getenv(criuConfig)))
	if err != nil {
		return err
	}
	t.started = true
	log := ""
	err = t.make(ctx, f, r, func(ctx context.Context, c *call, io *stdio) error {
		_, err := c.Restore(runc.WithExtraEnv(ctx, criuConfig+"="+config), r.ID, r.Bundle, &runc.RestoreOpts{
			// What the image has was allowed when it was made.
			CheckpointOpts: runc.CheckpointOpts{
				ImagePath: r.Checkpoint, WorkDir: desk.Work,
				AllowOpenTCP: true, AllowExternalUnixSockets: true, FileLocks: true,
			},
			IO: io, Detach: true, NoSubreaper: true, NoPivot: o.NoPivotRoot,
			PidFile: c.file("pid"), ConsoleSocket: io.Console,
		})
		if err != nil {
			log = desk.Keep(checkpoint.RestoreLog, checkpoint.KeptRestoreLog)
			return err
		}
		if err := t.adopt(c, r); err != nil {
			return err
		}
		if err := io.finish(); err != nil {
			return err
		}
		return publish(t)
	})
	if log != "" {
		return checkpoint.Explain(err, log)
	}
	return err
}

// paths are those of a process's streams as /proc shows them; empty ones are no file.
func paths(io *task.IO) (paths []string) {
	for _, f := range []*os.File{io.Stdin, io.Stdout, io.Stderr} {
		path := ""
		if f != nil && !io.Terminal {
			path, _ = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
		}
		paths = append(paths, path)
	}
	return paths
}
