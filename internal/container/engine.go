// Package container runs OCI containers inside the shim, with libcontainer; nothing else in the project imports it.
//
// Containers look on disk as runc's do: `runc --root /run/containerd/runc/<namespace> list|state|kill|delete` works on
// them. Like runc, the engine loads a container's state from disk for each operation, so that no lock is shared by a
// kill, a start and an exec, and nothing is kept in memory for an idle container but its pid and its cgroup's paths.
//
// Programs that import this package are re-executed as the init of their containers, see package reexec.
package container

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/userns"
	"github.com/opencontainers/runc/libcontainer"

	_ "github.com/shimwright/shimwright/internal/container/reexec"
	"github.com/shimwright/shimwright/internal/engine"
	"github.com/shimwright/shimwright/internal/options"
	"github.com/shimwright/shimwright/internal/reap"
)

// Config is what an Engine works with.
type Config struct {
	Root      string       // of the states, empty: engine.DefaultRoot; the option "root" of a task overrides it
	Namespace string       // the daemon's namespace
	Reaper    *reap.Reaper // nil in a process that starts nothing
	Log       *slog.Logger // nil: nothing is logged
}

// Engine makes containers. It implements task.Runtime, task.Deleter and task.Informer.
type Engine struct {
	root, namespace string
	reaper          *reap.Reaper
	log             *slog.Logger
}

// New returns an Engine. libcontainer's log, of which a process has only one, goes to c.Log from now on.
func New(c Config) *Engine {
	e := &Engine{root: c.Root, namespace: c.Namespace, reaper: c.Reaper, log: c.Log}
	if e.root == "" {
		e.root = engine.DefaultRoot
	}
	if e.reaper == nil {
		e.reaper = reap.New()
	}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	redirectLogrus(e.log)
	return e
}

// states is the directory that holds the state of the namespace's containers.
func (e *Engine) states(o *options.Options) string {
	root := e.root
	if o.Root != "" {
		root = o.Root
	}
	return filepath.Join(root, e.namespace)
}

// own refuses options that are for another engine.
func own(o *options.Options) error {
	if o.BinaryName != "" {
		return fmt.Errorf("option binary_name %q: running containers with another OCI runtime: %w", o.BinaryName, errdefs.ErrNotImplemented)
	}
	return nil
}

// rootless tells whether cgroups may be out of reach: there is no real root here.
func rootless() bool { return os.Geteuid() != 0 || userns.RunningInUserNS() }

// fly is f.Run for what calls into libcontainer.
func (e *Engine) fly(ctx context.Context, f *engine.Flight, fn func() error) error {
	return f.Run(ctx, e.reaper, func() error { return guard(fn) })
}

// load reads the state of container id below dir. ErrNotFound: there is none.
func load(dir, id string) (c *libcontainer.Container, err error) {
	err = guard(func() error {
		c, err = libcontainer.Load(dir, id)
		return err
	})
	return c, classify(err)
}

// guard calls into libcontainer, which panics at some unexpected messages of a container's init.
func guard(fn func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("libcontainer: panic: %v\n%s: %w", p, debug.Stack(), errdefs.ErrInternal)
		}
	}()
	return fn()
}

// classify gives libcontainer's errors their class.
func classify(err error) error {
	var class error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, libcontainer.ErrExist):
		class = errdefs.ErrAlreadyExists
	case errors.Is(err, libcontainer.ErrNotExist):
		class = errdefs.ErrNotFound
	case errors.Is(err, libcontainer.ErrInvalidID):
		class = errdefs.ErrInvalidArgument
	case errors.Is(err, libcontainer.ErrPaused), errors.Is(err, libcontainer.ErrNotPaused),
		errors.Is(err, libcontainer.ErrRunning), errors.Is(err, libcontainer.ErrNotRunning):
		class = errdefs.ErrFailedPrecondition
	default:
		return err
	}
	return fmt.Errorf("%w: %w", err, class)
}
