package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/specconv"

	"github.com/shimwright/shimwright/internal/bundle"
	"github.com/shimwright/shimwright/internal/cgroup"
	"github.com/shimwright/shimwright/internal/checkpoint"
	"github.com/shimwright/shimwright/internal/engine"
	"github.com/shimwright/shimwright/internal/options"
	"github.com/shimwright/shimwright/task"
)

// Delete frees the container: what runs in it, its cgroup, its state. Repeated: no error.
func (t *Task) Delete(ctx context.Context) error {
	if err := t.delete(ctx); err != nil {
		return fmt.Errorf("OCI runtime delete failed: %w", err)
	}
	return nil
}

func (t *Task) delete(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, engine.Patience)
	defer cancel()
	if err := t.End(ctx); err != nil {
		return err
	}
	if err := t.engine.remove(ctx, t.states, t.id, t.Group); err != nil {
		return err
	}
	t.OOMs.Close()
	return nil
}

// Delete frees what a dead shim has left of container id: its processes, cgroup and state.
func (e *Engine) Delete(ctx context.Context, id, dir string) (task.Exit, error) {
	o, err := options.Read(dir)
	if err != nil {
		e.log.Warn("delete goes on with the default options", "id", id, "err", err)
	}
	states := e.states(o)
	pid, started := engine.Survivor(dir)
	_, err = os.Lstat(filepath.Join(states, id))
	if errors.Is(err, fs.ErrNotExist) && pid == 0 {
		return task.Exit{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, engine.Patience)
	defer cancel()
	exit, err := e.deleteAll(ctx, states, id, dir, o, pid, started)
	if err != nil {
		return exit, fmt.Errorf("delete %s: %w", id, err)
	}
	return exit, nil
}

// deleteAll frees the container by what can be read of it: its state, else the bundle's config.json, else the pid of
// its init, 0 if that has ended, and when that process was started.
func (e *Engine) deleteAll(ctx context.Context, states, id, dir string, o *options.Options, pid int, started uint64) (exit task.Exit, err error) {
	state, err := stateOf(states, id)
	var group cgroup.Group
	if state != nil {
		group = state.CgroupPaths
	} else {
		group, err = groupOf(id, dir, o)
	}
	if pid != 0 && len(group) == 0 {
		group, err = cgroup.Of(pid)
		if began, alive := engine.Started(pid); !alive || began != started {
			group = nil // it has ended meanwhile: these may be another's
		}
	}
	if err != nil {
		e.log.Warn("the container's cgroup is not known", "id", id, "err", err)
	}
	if state != nil {
		pid, started = state.InitProcessPid, state.InitProcessStartTime
	}
	if exit, err = engine.Kill(ctx, pid, started, group); err != nil {
		return exit, err
	}
	if err := group.Kill(ctx); err != nil {
		return exit, err
	}
	if err := checkpoint.Clean(dir, filepath.Join(states, id)); err != nil {
		return exit, err
	}
	if err := e.remove(ctx, states, id, group); err != nil {
		return exit, err
	}
	return exit, group.Remove(ctx) // with the state gone, remove has not looked at it
}

// stateOf is the state that another process has written, nil if it is missing or torn.
func stateOf(states, id string) (*libcontainer.State, error) {
	c, err := load(states, id)
	if err != nil {
		return nil, err
	}
	return c.State()
}

// groupOf finds the cgroup of a container by its bundle's config.json.
func groupOf(id, dir string, o *options.Options) (cgroup.Group, error) {
	m, err := managerOf(id, dir, o)
	if err != nil {
		return nil, err
	}
	return m.GetPaths(), nil
}

// managerOf makes the cgroup manager that create made for the bundle's config.json.
func managerOf(id, dir string, o *options.Options) (m cgroups.Manager, err error) {
	spec, err := bundle.ReadSpec(dir)
	if err != nil {
		return nil, err
	}
	if spec == nil {
		return nil, fmt.Errorf("no %s: %w", bundle.ConfigFile, errdefs.ErrNotFound)
	}
	err = guard(func() error {
		config, err := specconv.CreateCgroupConfig(&specconv.CreateOpts{
			CgroupName:       id,
			UseSystemdCgroup: o.SystemdCgroup,
			Spec:             spec,
			RootlessCgroups:  rootless(),
		}, nil)
		if err != nil {
			return err
		}
		m, err = manager.New(config)
		return err
	})
	return m, err
}

// remove frees container id, whose processes have ended: the cgroup, and the state below states. What is not there is no
// error.
func (e *Engine) remove(ctx context.Context, states, id string, group cgroup.Group) error {
	poststop := func(context.Context) {}
	if c, err := load(states, id); err == nil {
		poststop = e.takePoststop(id, c)
		_ = guard(c.Destroy) // what it leaves, wipe removes
	}
	if err := wipe(ctx, filepath.Join(states, id), group); err != nil {
		return err
	}
	poststop(ctx)
	return nil
}

// wipe frees what a container with a torn state, or with something left in its cgroup, has: the cgroup, and the state,
// dir. What is not there is no error.
func wipe(ctx context.Context, dir string, group cgroup.Group) error {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := group.Kill(ctx); err != nil {
		return err
	}
	if err := group.Remove(ctx); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}
