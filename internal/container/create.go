package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/configs/validate"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/shimwright/shimwright/internal/cgroup"
	"github.com/shimwright/shimwright/internal/engine"
	"github.com/shimwright/shimwright/internal/options"
	"github.com/shimwright/shimwright/task"
)

// Create makes the container of r.Spec, with its init waiting for Start. On error nothing of it is left. If r names a
// checkpoint there is nothing before Start, which then makes it all.
//
// ErrInvalidArgument: the spec or the options cannot be used. ErrAlreadyExists: the id is taken. ErrNotImplemented: the
// options name another OCI runtime. ErrNotFound, ErrFailedPrecondition: there is no such checkpoint, or no criu.
func (e *Engine) Create(ctx context.Context, r *task.CreateRequest) (task.Task, error) {
	if r.Checkpoint != "" {
		_, o, err := e.begin(r)
		if err != nil {
			return nil, err
		}
		return e.createRestored(ctx, r, o)
	}
	t, err := e.CreateProgram(ctx, r, kernel{})
	if err != nil {
		return nil, err
	}
	return t, nil
}

// CreateProgram is Create of a container, no restored one, whose init runs program, which it owns from now on.
func (e *Engine) CreateProgram(ctx context.Context, r *task.CreateRequest, program Program) (_ *Task, err error) {
	defer func() {
		if err != nil {
			program.Close()
		}
	}()
	t, o, err := e.begin(r)
	if err != nil {
		return nil, err
	}
	t.program = program
	f := engine.NewFlight()
	if err := e.fly(ctx, f, func() error { return t.create(f, r, o) }); err != nil {
		return nil, fmt.Errorf("OCI runtime create failed: runc create failed: %w", err)
	}
	return t, nil
}

// begin does what comes before any process: it notes the options in the bundle and gives the streams their owner.
func (e *Engine) begin(r *task.CreateRequest) (*Task, *options.Options, error) {
	o, err := options.Decode(r.Options)
	if err != nil {
		return nil, nil, err
	}
	if err := own(o); err != nil {
		return nil, nil, err
	}
	if err := options.Write(r.Bundle, o); err != nil {
		return nil, nil, err
	}
	t := newTask(e, r, o)
	return t, o, t.Own(&r.IO)
}

func newTask(e *Engine, r *task.CreateRequest, o *options.Options) *Task {
	t := &Task{engine: e, id: r.ID, bundle: r.Bundle, states: e.states(o), program: kernel{}}
	t.Log, t.UID, t.GID = e.log.With("id", r.ID), int(o.IoUid), int(o.IoGid)
	return t
}

// prepare translates r on a thread of its own: libcontainer takes relative paths to be in the current directory, and a
// shim serves many bundles.
func prepare(r *task.CreateRequest, o *options.Options) (*libcontainer.Process, *configs.Config, error) {
	if err := unix.Chdir(r.Bundle); err != nil {
		return nil, nil, &os.PathError{Op: "chdir", Path: r.Bundle, Err: err}
	}
	if r.Spec == nil {
		return nil, nil, fmt.Errorf("the bundle has no config.json: %w", errdefs.ErrInvalidArgument)
	}
	if r.Spec.Linux == nil { // without namespaces it would mount over the host's own
		return nil, nil, fmt.Errorf("linux property must not be empty: %w", errdefs.ErrInvalidArgument)
	}
	p, err := newProcess(r.Spec.Process)
	if err != nil {
		return nil, nil, err
	}
	p.Init = true
	config, err := newConfig(r.ID, r.Spec, o)
	return p, config, err
}

// create is Create on a thread of its own.
func (t *Task) create(f *engine.Flight, r *task.CreateRequest, o *options.Options) (err error) {
	p, config, err := prepare(r, o)
	if err != nil {
		return err
	}
	if fields := unmet(r.Spec); len(fields) > 0 {
		t.engine.log.Warn("the spec asks for what cannot be had here", "id", t.id, "fields", fields)
	}
	t.hooks = takeHooks(r.ID, config)
	interpret(p, t.program)
	var c *libcontainer.Container
	err = guard(func() error {
		c, err = libcontainer.Create(t.states, r.ID, config)
		return err
	})
	if err != nil {
		return refused(config, err)
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
	if err := guard(func() error { return c.Start(p) }); err != nil {
		return err
	}
	if err := t.adopt(c, p, config); err != nil {
		return err
	}
	if err := io.finish(); err != nil {
		return err
	}
	if early(t.program, r.Spec) {
		if err := t.load(f.Context()); err != nil {
			return err
		}
		t.loaded = true
	}
	return f.CalledOff()
}

// adopt takes charge of the init p, which runs.
func (t *Task) adopt(c *libcontainer.Container, p *libcontainer.Process, config *configs.Config) error {
	state, err := c.State()
	if err != nil {
		return err
	}
	t.Group = maps.Clone(cgroup.Group(state.CgroupPaths))
	t.Private = config.Namespaces.IsPrivate(configs.NEWPID)
	t.OOMs = t.Group.OOMs()
	t.Child, err = t.engine.reaper.Watch(state.InitProcessPid)
	if err != nil {
		_ = p.Signal(unix.SIGKILL)
		_, _ = p.Wait()
	}
	return err
}

// undo removes what a failed create has left.
func (t *Task) undo(c *libcontainer.Container) {
	if t.Child != nil {
		_ = t.Child.Signal(unix.SIGKILL)
		<-t.Child.Done()
	}
	ctx, cancel := context.WithTimeout(context.Background(), engine.Patience)
	defer cancel()
	poststop := t.engine.takePoststop(t.id, c)
	if guard(c.Destroy) == nil {
		poststop(ctx)
		return
	}
	if err := t.engine.remove(ctx, t.states, t.id, t.Group); err != nil {
		t.engine.log.Error("undo create", "id", t.id, "err", err)
	}
}

// refused gives an error of libcontainer.Create its class: a config that is not valid is the spec's fault, unless it is a
// file that is missing.
func refused(config *configs.Config, err error) error {
	invalid := guard(func() error { return validate.Validate(config) })
	if invalid != nil && !errors.Is(invalid, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return classify(err)
}

// withoutDefaults is spec without the mount option "defaults", which means nothing, and which libcontainer would hand to
// the file system.
func withoutDefaults(spec *specs.Spec) *specs.Spec {
	plain := *spec
	plain.Mounts = append([]specs.Mount(nil), spec.Mounts...)
	for i, m := range plain.Mounts {
		plain.Mounts[i].Options = nil
		for _, o := range m.Options {
			if o != "defaults" {
				plain.Mounts[i].Options = append(plain.Mounts[i].Options, o)
			}
		}
	}
	return &plain
}

// newConfig translates the spec, relative to the current directory.
func newConfig(id string, spec *specs.Spec, o *options.Options) (config *configs.Config, err error) {
	err = guard(func() error {
		config, err = specconv.CreateLibcontainerConfig(&specconv.CreateOpts{
			CgroupName:       id,
			UseSystemdCgroup: o.SystemdCgroup,
			NoPivotRoot:      o.NoPivotRoot,
			NoNewKeyring:     o.NoNewKeyring,
			Spec:             withoutDefaults(spec),
			RootlessEUID:     os.Geteuid() != 0,
			RootlessCgroups:  rootless(),
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return config, nil
}
