package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

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
	undo, err := makeDir(o.ImagePath)
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	defer func() {
		if err != nil {
			undo()
		}
	}()
	desk, err := newDesk(t.bundle, o.WorkPath)
	if err != nil {
		return err
	}
	defer desk.clear()

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
		WorkDirectory:           desk.work,
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
	struck := o.Exit && t.Strike(true) // criu's SIGKILL is not the OOM killer's
	err = t.dump(ctx, c, dump)
	if err != nil {
		if struck {
			t.Strike(false)
		}
		if status == libcontainer.Running {
			t.Group.Thaw() // criu does it, unless it was killed
		}
		return checkpoint.Explain(err, desk.keep(checkpoint.DumpLog, checkpoint.KeptDumpLog))
	}
	if o.Exit {
		return t.end(ctx)
	}
	return nil
}

// dump runs criu. Whoever asked for it may go away: a criu that was killed would leave processes in the state that it had
// put them into. Only when they are dead for a while is it called off.
func (t *Task) dump(ctx context.Context, c *libcontainer.Container, o *libcontainer.CriuOpts) error {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	go func() { // ends with this call
		select {
		case <-t.Child.Done():
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(engine.Patience):
			cancel(fmt.Errorf("criu goes on without the container, which has ended: %w", errdefs.ErrAborted))
		case <-ctx.Done():
		}
	}()
	return t.engine.fly(ctx, engine.NewFlight(), func() error { return c.Checkpoint(o) })
}

// emptyNamespaces are those whose contents are not criu's to restore: like runc, the engine leaves networks to whoever
// has made them.
const emptyNamespaces = unix.CLONE_NEWNET

// end waits until a container is dead that criu has killed, and thawed for that if it was paused.
func (t *Task) end(ctx context.Context) error {
	select {
	case <-t.Child.Done():
		return nil
	case <-time.After(engine.Patience):
		return fmt.Errorf("process %d does not end after the checkpoint: %w", t.Child.PID(), errdefs.ErrUnavailable)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// criuConfig is the annotation, of runc, that names a configuration file for criu.
const criuConfig = "org.criu.config"

// withStreams finds out what the container's processes have open outside of it, and loads the container with a configuration of
// criu's that says so: from a copy of its state, since that is where libcontainer finds the name of it.
func (t *Task) withStreams(c *libcontainer.Container, desk *desk, criu checkpoint.Criu) (*libcontainer.Container, checkpoint.Streams, error) {
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
	state.Config.Labels, err = desk.configure(state.Config.Labels, func(base string) []byte { return streams.DumpConfig(base, criu) })
	if err != nil {
		return nil, nil, err
	}
	states := filepath.Join(desk.dir, "states")
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

// desk is a directory in the bundle for the time of a checkpoint or restore.
type desk struct {
	bundle, dir string
	work        string // where criu works; dir itself if nobody asked for another one
}

const deskDir = "criu-work"

func newDesk(bundle, work string) (*desk, error) {
	d := &desk{bundle: bundle, dir: filepath.Join(bundle, deskDir), work: work}
	if err := checkpoint.RemoveAll(d.dir); err != nil {
		return nil, err
	}
	if err := os.Mkdir(d.dir, 0o700); err != nil {
		return nil, err
	}
	if work == "" {
		d.work = d.dir
		return d, nil
	}
	if _, err := makeDir(work); err != nil {
		d.clear()
		return nil, fmt.Errorf("work path: %w", err)
	}
	return d, nil
}

func (d *desk) clear() { _ = checkpoint.RemoveAll(d.dir) }

// keep saves a log of criu's from being cleared away, and returns where it is.
func (d *desk) keep(log, as string) string {
	path := filepath.Join(d.work, log)
	if d.work != d.dir {
		return path
	}
	kept := filepath.Join(d.bundle, as)
	if os.Rename(path, kept) != nil {
		return path
	}
	return kept
}

// configure writes a configuration file for criu, which adds to the one that labels name, and returns labels that name it.
func (d *desk) configure(labels []string, config func(base string) []byte) ([]string, error) {
	base, named := utils.SearchLabels(labels, criuConfig)
	if !named {
		base = checkpoint.DefaultConfig
	}
	path := filepath.Join(d.dir, "criu.conf")
	if err := os.WriteFile(path, config(base), 0o600); err != nil {
		return nil, err
	}
	others := slices.DeleteFunc(slices.Clone(labels), func(l string) bool { return strings.HasPrefix(l, criuConfig+"=") })
	return append(others, criuConfig+"="+path), nil
}

// makeDir makes dir if it is not there; undo takes that back. ErrInvalidArgument: it cannot be a directory.
func makeDir(dir string) (undo func(), err error) {
	undo = func() {}
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		undo = func() { _ = os.RemoveAll(dir) }
	}
	err = os.MkdirAll(dir, 0o700)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.EROFS) {
		err = fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return undo, err
}
