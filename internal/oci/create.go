package oci

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/containerd/errdefs"
	runc "github.com/containerd/go-runc"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/shimwright/shimwright/internal/cgroup"
	"github.com/shimwright/shimwright/internal/engine"
	"github.com/shimwright/shimwright/internal/options"
	"github.com/shimwright/shimwright/internal/reap"
	"github.com/shimwright/shimwright/task"
)

// Create makes the container of the bundle's config.json, which r.Spec is, with its init waiting for Start. On error
// nothing of it is left. If r names a checkpoint there is nothing before Start, which then makes it all.
//
// ErrInvalidArgument: the spec or the options cannot be used, or there is no such binary. ErrAlreadyExists: the id is
// taken. ErrNotFound, ErrFailedPrecondition: there is no such checkpoint, or no criu. What else the binary refuses has no class: it has only words.
func (e *Engine) Create(ctx context.Context, r *task.CreateRequest) (task.Task, error) {
	o, err := options.Decode(r.Options)
	if err != nil {
		return nil, err
	}
	path, err := find(o)
	if err != nil {
		return nil, err
	}
	if err := options.Write(r.Bundle, o); err != nil {
		return nil, err
	}
	t := &Task{id: r.ID, binary: e.binary(path, r.ID, r.Bundle, o)}
	t.Log, t.UID, t.GID = t.binary.log, int(o.IoUid), int(o.IoGid)
	if err := t.Own(&r.IO); err != nil {
		return nil, err
	}
	if r.Checkpoint != "" {
		return t.restored(ctx, r, o)
	}
	if err := t.create(ctx, r, o); err != nil {
		return nil, fmt.Errorf("OCI runtime create failed: %w", err)
	}
	return t, nil
}

func (t *Task) create(ctx context.Context, r *task.CreateRequest, o *options.Options) error {
	f := engine.NewFlight()
	return t.make(ctx, f, r, func(ctx context.Context, c *call, io *stdio) error {
		if err := c.Create(ctx, r.ID, r.Bundle, &runc.CreateOpts{
			IO: io, PidFile: c.file("pid"), ConsoleSocket: io.Console,
			NoPivot: o.NoPivotRoot, NoNewKeyring: o.NoNewKeyring,
		}); err != nil {
			return err
		}
		if err := t.adopt(c, r); err != nil {
			return err
		}
		if err := io.finish(); err != nil {
			return err
		}
		return f.CalledOff()
	})
}

// make has fn make the container in flight f. When that fails nothing of it is left.
func (t *Task) make(ctx context.Context, f *engine.Flight, r *task.CreateRequest, fn func(context.Context, *call, *stdio) error) (err error) {
	if err := check(r); err != nil {
		return err
	}
	if _, err := os.Lstat(t.state()); err == nil {
		return fmt.Errorf("container with given ID already exists: %w", errdefs.ErrAlreadyExists)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	foreign := cgroup.At(r.Spec.Linux.CgroupsPath)
	defer func() {
		if err != nil {
			t.undo(cgroup.At(r.Spec.Linux.CgroupsPath).Without(foreign))
		}
	}()
	release := t.binary.reaper.Hold()
	defer release()
	return t.binary.run(ctx, f, func(ctx context.Context, c *call) error {
		io, err := c.connect(&r.IO)
		if err != nil {
			return err
		}
		defer io.close()
		return fn(ctx, c, io)
	})
}

// adopt takes charge of the init, which the binary has left to us.
func (t *Task) adopt(c *call, r *task.CreateRequest) error {
	pid, err := pidOf(c.file("pid"))
	if err != nil {
		return err
	}
	if t.Group, err = cgroup.Of(pid); err != nil {
		return err
	}
	for _, ns := range r.Spec.Linux.Namespaces {
		t.Private = t.Private || ns.Type == specs.PIDNamespace && ns.Path == ""
	}
	t.streams = paths(&r.IO)
	t.OOMs = t.Group.OOMs()
	t.Child, err = t.binary.reaper.Watch(pid)
	return err
}

// undo removes what a failed create has left, group being what it has made of cgroups.
func (t *Task) undo(group cgroup.Group) {
	ctx, cancel := context.WithTimeout(context.Background(), engine.Patience)
	defer cancel()
	if t.Child != nil {
		_ = t.Child.Signal(syscall.SIGKILL)
		t.Group.Thaw()
		<-t.Child.Done()
		group = t.Group
	}
	if err := t.binary.remove(ctx, t.id, group); err != nil {
		t.Log.Error("undo create", "err", err)
	}
}

// named tells whether a container may be called id: the name becomes that of directories.
func named(id string) bool {
	ok := id != "" && id != "." && id != ".."
	for _, c := range id {
		ok = ok && (c == '_' || c == '+' || c == '.' || c == '-' ||
			'0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z')
	}
	return ok
}

// check refuses what no runtime can run, so that it has a class.
func check(r *task.CreateRequest) error {
	var what string
	switch s := r.Spec; {
	case !named(r.ID):
		what = "invalid container ID format: " + r.ID
	case s == nil:
		what = "the bundle has no config.json"
	case s.Linux == nil:
		what = "linux property must not be empty"
	case s.Root == nil:
		what = "root property must not be empty"
	default:
		root := s.Root.Path
		if !filepath.IsAbs(root) {
			root = filepath.Join(r.Bundle, root)
		}
		if _, err := os.Stat(root); err != nil { // crun does not say which file it is that it misses
			return fmt.Errorf("root file system: %w", err)
		}
		return engine.CheckProcess(s.Process)
	}
	return fmt.Errorf("%s: %w", what, errdefs.ErrInvalidArgument)
}

func (t *Task) state() string { return filepath.Join(t.binary.states, t.id) }

// watch takes charge of the process that the binary has left to us, with its pid in file.
func (c *call) watch(r *reap.Reaper, file string) (*reap.Child, error) {
	pid, err := pidOf(file)
	if err != nil {
		return nil, err
	}
	return r.Watch(pid)
}
