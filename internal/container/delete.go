package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runc/libcontainer/system"
	"golang.org/x/sys/unix"

	"github.com/shimwright/shimwright/internal/bundle"
	"github.com/shimwright/shimwright/internal/cgroup"
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
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if t.child.Signal(syscall.SIGKILL) == nil { // created
		t.group.Thaw()
	}
	select {
	case <-t.child.Done():
	case <-ctx.Done():
		return fmt.Errorf("wait for process %d: %w", t.child.PID(), ctx.Err())
	}
	if !t.private {
		if err := t.group.Kill(ctx); err != nil {
			return err
		}
	}
	return t.engine.remove(ctx, t.states, t.id, t.group)
}

// Delete frees what a dead shim has left of container id: its processes, cgroup and state.
func (e *Engine) Delete(ctx context.Context, id, dir string) (task.Exit, error) {
	o, err := readOptions(dir)
	if err != nil {
		e.log.Warn("delete goes on with the default options", "id", id, "err", err)
	}
	states := e.states(o)
	if _, err := os.Lstat(filepath.Join(states, id)); errors.Is(err, fs.ErrNotExist) {
		return task.Exit{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var exit task.Exit
	c, err := load(states, id)
	if err == nil {
		exit, err = killInit(ctx, c)
		if err != nil {
			return exit, fmt.Errorf("delete %s: %w", id, err)
		}
	}
	group := e.groupOf(c, id, dir, o)
	err = group.Kill(ctx)
	if err == nil {
		err = e.remove(ctx, states, id, group)
	}
	if err != nil {
		return exit, fmt.Errorf("delete %s: %w", id, err)
	}
	return exit, nil
}

// groupOf finds the cgroup of a container that another process has made: in its state c or, if that is nil, by its
// bundle's config.json.
func (e *Engine) groupOf(c *libcontainer.Container, id, dir string, o *options) cgroup.Group {
	if c != nil {
		if state, err := c.State(); err == nil {
			return state.CgroupPaths
		}
	}
	m, err := managerOf(id, dir, o)
	if err != nil {
		e.log.Warn("the container's cgroup is not known", "id", id, "err", err)
		return nil
	}
	return m.GetPaths()
}

// managerOf makes the cgroup manager that create made for the bundle's config.json.
func managerOf(id, dir string, o *options) (m cgroups.Manager, err error) {
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

// killInit kills the init that the state of c names, unless it has ended and its pid is another's, and waits for its
// end. It is not our child.
func killInit(ctx context.Context, c *libcontainer.Container) (task.Exit, error) {
	state, err := c.State()
	if err != nil {
		return task.Exit{}, err
	}
	fd, err := unix.PidfdOpen(state.InitProcessPid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return task.Exit{}, nil
	}
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	defer pidfd.Close()
	stat, err := system.Stat(state.InitProcessPid)
	if err != nil || stat.StartTime != state.InitProcessStartTime || stat.State == system.Zombie || stat.State == system.Dead {
		return task.Exit{}, nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		return task.Exit{}, nil
	}
	cgroup.Group(state.CgroupPaths).Thaw()
	if err := readable(ctx, pidfd); err != nil {
		return task.Exit{}, fmt.Errorf("wait for process %d: %w", state.InitProcessPid, err)
	}
	return task.Exit{Status: 128 + int(unix.SIGKILL), At: time.Now()}, nil
}

// readable waits until pidfd's process has ended.
func readable(ctx context.Context, pidfd *os.File) error {
	if deadline, ok := ctx.Deadline(); ok {
		_ = pidfd.SetReadDeadline(deadline)
	}
	conn, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	return conn.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return err == nil && n > 0
	})
}

// remove frees container id, whose processes have ended: the cgroup, and the state below states. What is not there is no
// error.
func (e *Engine) remove(ctx context.Context, states, id string, group cgroup.Group) error {
	c, err := load(states, id)
	if err == nil {
		err = e.fly(ctx, newFlight(), func() error { return guard(c.Destroy) }) // it may run hooks
	}
	dir := filepath.Join(states, id)
	if _, lerr := os.Lstat(dir); errors.Is(lerr, fs.ErrNotExist) {
		if err != nil && !errors.Is(err, errdefs.ErrNotFound) {
			e.log.Warn("a poststop hook failed", "id", id, "err", err)
		}
		return nil
	}
	// The state is torn, or something is left in the cgroup.
	if err := group.Kill(ctx); err != nil {
		return err
	}
	if err := group.Remove(ctx); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}
