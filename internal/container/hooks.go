package container

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/utils"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/shimwright/shimwright/internal/engine"
)

// Hooks run where the runtime spec wants them, in the bundle: libcontainer would run poststart in create, before the
// process is executed, and poststop only up to the first that fails. Those two kinds are therefore taken from it. The
// container's state on disk keeps poststop, for a delete after the shim.

// startHooks are what Start has to see to.
type startHooks struct {
	inside    bool             // startContainer hooks: the init runs them, after it was let go
	poststart configs.HookList // for us to run when the process is executed
	state     *specs.State     // what they are told, but for the pid
}

// takeHooks takes from config the hooks that Start runs.
func takeHooks(id string, config *configs.Config) startHooks {
	h := startHooks{config.HasHook(configs.StartContainer), config.Hooks[configs.Poststart], state(id, config, specs.StateRunning)}
	delete(config.Hooks, configs.Poststart)
	return h
}

// state is what hooks are told.
func state(id string, config *configs.Config, status specs.ContainerState) *specs.State {
	bundle, annotations := utils.Annotations(config.Labels)
	return &specs.State{Version: specs.Version, ID: id, Status: status, Bundle: bundle, Annotations: annotations}
}

// runHook runs a hook in the bundle. It is killed when ctx ends.
func (e *Engine) runHook(ctx context.Context, hook configs.Hook, state *specs.State) error {
	return e.fly(ctx, engine.NewFlight(), func() error {
		if err := unix.Chdir(state.Bundle); err != nil {
			return &os.PathError{Op: "chdir", Path: state.Bundle, Err: err}
		}
		return hook.Run(state)
	})
}

// initFailed is the exit status of an init that could not execute its process.
const initFailed = 255

// runHooks waits, for a container that has hooks for it, until the process that start has let go is executed, and runs
// the poststart hooks. An error: one has failed.
func (t *Task) runHooks(ctx context.Context, init os.FileInfo) error {
	if !t.hooks.inside && len(t.hooks.poststart) == 0 {
		return nil
	}
	if err := t.executed(ctx, init); err != nil {
		return err
	}
	t.hooks.state.Pid = t.PID()
	for i, hook := range t.hooks.poststart {
		if err := t.engine.runHook(ctx, hook, t.hooks.state); err != nil {
			return fmt.Errorf("error running poststart hook #%d: %w", i, err)
		}
	}
	return nil
}

// program is what process pid executes.
func program(pid int) (os.FileInfo, error) { return os.Stat(fmt.Sprintf("/proc/%d/exe", pid)) }

// executed waits until the container's process is not init any more, but what the user wants. That nobody tells: the
// kernel is asked. A process that has ended before it was seen has been executed, unless its status is an init's.
func (t *Task) executed(ctx context.Context, init os.FileInfo) error {
	for {
		if now, err := program(t.PID()); err == nil && !os.SameFile(now, init) {
			return nil
		}
		select {
		case <-time.After(time.Millisecond):
		case <-t.Child.Done():
			if status, _ := t.Child.Wait(); status == initFailed {
				return fmt.Errorf("a startContainer hook has failed, or the process could not be executed; "+
					"the container's stderr says why: %w", errdefs.ErrFailedPrecondition)
			}
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// takePoststop takes the poststop hooks from a container that is to be destroyed. The function that it returns runs
// them: all, whether or not one fails, as the runtime spec has it.
func (e *Engine) takePoststop(id string, c *libcontainer.Container) (run func(context.Context)) {
	config := c.Config()
	hooks := config.Hooks[configs.Poststop]
	delete(config.Hooks, configs.Poststop) // a map: it is the container's own
	return func(ctx context.Context) {
		for i, hook := range hooks {
			if err := e.runHook(ctx, hook, state(id, &config, specs.StateStopped)); err != nil {
				e.log.Warn("a poststop hook failed", "id", id, "hook", i, "err", err)
			}
		}
	}
}
