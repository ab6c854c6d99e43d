package oci

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	runc "github.com/containerd/go-runc"

	"github.com/shimwright/shimwright/internal/bundle"
	"github.com/shimwright/shimwright/internal/cgroup"
	"github.com/shimwright/shimwright/internal/checkpoint"
	"github.com/shimwright/shimwright/internal/engine"
	"github.com/shimwright/shimwright/internal/options"
	"github.com/shimwright/shimwright/task"
)

// Delete frees what a dead shim has left of container id: its processes, cgroup and state. Without the binary all but its
// poststop hooks is done.
func (e *Engine) Delete(ctx context.Context, id, dir string) (task.Exit, error) {
	o, err := options.Read(dir)
	if err != nil {
		e.log.Warn("delete goes on with the default options", "id", id, "err", err)
	}
	path, err := find(o)
	if err != nil {
		e.log.Warn("delete goes on without the OCI runtime", "id", id, "err", err)
	}
	ctx, cancel := context.WithTimeout(ctx, engine.Patience)
	defer cancel()
	exit, err := e.binary(path, id, dir, o).deleteAll(ctx, id)
	if err != nil {
		return exit, fmt.Errorf("delete %s: %w", id, err)
	}
	return exit, nil
}

// deleteAll frees the container by what its bundle says.
func (b *binary) deleteAll(ctx context.Context, id string) (exit task.Exit, err error) {
	group := cgroup.Group{}
	if spec, err := bundle.ReadSpec(b.bundle); err == nil && spec != nil && spec.Linux != nil {
		group = cgroup.At(spec.Linux.CgroupsPath)
	}
	pid, started := engine.Survivor(b.bundle)
	if pid != 0 {
		its, err := cgroup.Of(pid)
		if began, alive := engine.Started(pid); err == nil && alive && began == started { // else these may be another's
			maps.Copy(group, its)
		}
		if exit, err = engine.Kill(ctx, pid, started, group); err != nil {
			return exit, err
		}
	}
	if err := group.Kill(ctx); err != nil {
		return exit, err
	}
	return exit, b.remove(ctx, id, group)
}

// remove frees container id, whose processes have ended, as far as they are known: what the binary keeps of it, its
// cgroup. What is not there is no error.
func (b *binary) remove(ctx context.Context, id string, group cgroup.Group) error {
	state := filepath.Join(b.states, id)
	if err := checkpoint.Clean(b.bundle, state); err != nil {
		return err
	}
	if _, err := os.Lstat(state); err == nil {
		err := errNoBinary
		if b.path != "" {
			err = b.run(ctx, engine.NewFlight(), func(ctx context.Context, c *call) error {
				return c.Delete(ctx, id, &runc.DeleteOpts{Force: true})
			})
		}
		if err != nil {
			b.log.Warn("the OCI runtime does not delete the container", "err", err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := group.Kill(ctx); err != nil {
		return err
	}
	if err := group.Remove(ctx); err != nil {
		return err
	}
	return os.RemoveAll(state)
}

var errNoBinary = errors.New("there is none")
