package container

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/utils"
	"golang.org/x/sys/unix"

	"github.com/shimwright/shimwright/internal/checkpoint"
	"github.com/shimwright/shimwright/internal/engine"
	"github.com/shimwright/shimwright/internal/options"
	"github.com/shimwright/shimwright/task"
)

// Checkpoint writes the container, running or paused, to an image on disk. It goes on as it was, or ends if the options
// want that. When it fails the container goes on.
//
// ErrInvalidArgument: the options or paths cannot be used. ErrFailedPrecondition: criu is missing or too old.
func (t *Task) Checkpoint(ctx context.Context, r *task.CheckpointRequest) error {
	if err := t.checkpoint(ctx, r); err != nil {
		return fmt.Errorf("OCI runtime checkpoint failed: %w", err)
	}
	return nil
}

func (t *Task) checkpoint(ctx context.Context, r *task.CheckpointRequest) (err error) {
	runtime, err := options.Read(t.bundle)
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
	c, err := load(t.states, t.id)
	if err != nil {
		return err
	}
	status, err := c.Status()
	if err != nil {
		return err
	}
	if status != libcontainer.Running && status != libcontainer.Paused {
		return fmt.Errorf("a %s container has nothing to checkpoint: %w", status, errdefs.ErrFailedPrecondition)
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
	desk, err := checkpoint.NewDesk(t.bundle, o.WorkPath)
	if err != nil {
		return err
	}
	defer desk.Clear()

	// Before the dump: once that is done the container may be gone.
	c, streams, err := t.withStreams(c, desk, criu)
	if err != nil {
		return err
	}
	if err := streams.Save(o.ImagePath); err != nil {
		return err
	}
	dump := &libcontainer.CriuOpts{
		ImagesDirectory:         o.ImagePath,
		WorkDirectory:           desk.Work,
		ParentImage:             o.ParentPath,
		LeaveRunning:            !o.Exit,
		TcpEstablished:          o.OpenTcp,
		ExternalUnixConnections: o.ExternalUnixSockets,
		ShellJob:                o.Terminal,
		FileLocks:               o.FileLocks,
		EmptyNs:                 emptyNamespaces,
		ManageCgroupsMode:       o.CgroupsMode,
		StatusFd:                -1,
	}
	return t.Dump(ctx, o.Exit, func(ctx context.Context) error {
		err := t.engine.fly(ctx, engine.NewFlight(), func() error { return c.Checkpoint(dump) })
		if err != nil {
			return checkpoint.Explain(err, desk.Keep(checkpoint.DumpLog, checkpoint.KeptDumpLog))
		}
		return nil
	})
}

// emptyNamespaces are those whose contents are not criu's to restore: like runc, the engine leaves networks to whoever
// has made them.
const emptyNamespaces = unix.CLONE_NEWNET

// criuConfig is the annotation, of runc, that names a configuration file for criu.
const criuConfig = "org.criu.config"

// withStreams finds out what the container's processes have open outside of it, and loads the container with a configuration of
// criu's that says so: from a copy of its state, since that is where libcontainer finds the name of it.
func (t *Task) withStreams(c *libcontainer.Container, desk *checkpoint.Desk, criu checkpoint.Criu) (*libcontainer.Container, checkpoint.Streams, error) {
	state, err := c.State()
	if err != nil {
		return nil, nil, err
	}
	pids, err := t.Group.PIDs()
	if err != nil {
		return nil, nil, err
	}
	streams, err := checkpoint.FindStreams(pids, state.ExternalDescriptors)
	if err != nil {
		return nil, nil, err
	}
	state.Config.Labels, err = configure(desk, state.Config.Labels, func(base string) []byte { return streams.DumpConfig(base, criu) })
	if err != nil {
		return nil, nil, err
	}
	states := filepath.Join(desk.Dir, "states")
	if err := os.MkdirAll(filepath.Join(states, t.id), 0o700); err != nil {
		return nil, nil, err
	}
	if err := writeState(filepath.Join(states, t.id), state); err != nil {
		return nil, nil, err
	}
	c, err = load(states, t.id)
	return c, streams, err
}

// writeState writes state into dir as libcontainer does.
func writeState(dir string, state *libcontainer.State) error {
	data, err := json.Marshal(state)
	if err != nil {
		return err
	}
	const name = "state.json"
	next := filepath.Join(dir, name+".next")
	if err := os.WriteFile(next, data, 0o600); err != nil {
		return err
	}
	return os.Rename(next, filepath.Join(dir, name))
}

// configure writes a configuration file for criu, which adds to the one that labels name, and returns labels that name it.
func configure(desk *checkpoint.Desk, labels []string, config func(base string) []byte) ([]string, error) {
	base, named := utils.SearchLabels(labels, criuConfig)
	if !named {
		base = checkpoint.DefaultConfig
	}
	path, err := desk.Configure(config(base))
	if err != nil {
		return nil, err
	}
	others := slices.DeleteFunc(slices.Clone(labels), func(l string) bool { return strings.HasPrefix(l, criuConfig+"=") })
	return append(others, criuConfig+"="+path), nil
}
