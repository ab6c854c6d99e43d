package main

import (
	"context"
	"fmt"
	"net"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/shimwright/shimwright/internal/container"
	"github.com/shimwright/shimwright/internal/wasm"
	wasmv1 "github.com/shimwright/shimwright/protos/wasm/v1"
	"github.com/shimwright/shimwright/task"
)

// The annotations of a container that are for this shim.
const (
	annotationPreopens = "io.containerd.wasm.preopens" // directories that the guest gets: /data:ro,/cfg
	annotationListen   = "io.containerd.wasm.listen"   // sockets that it gets: tcp:0.0.0.0:8080,…
)

// runtime runs modules as the runc shim runs native programs: a module's container is like any other, and its process is
// a runner.
type runtime struct {
	*container.Engine
	cache wasm.Cache // without options
}

// Create makes the container of r.Spec. For a module everything is done but running it.
func (rt *runtime) Create(ctx context.Context, r *task.CreateRequest) (task.Task, error) {
	o, err := decodeOptions(r.Options)
	if err != nil {
		return nil, err
	}
	if r.Options, err = engineOptions(o); err != nil {
		return nil, err
	}
	if r.Spec == nil || r.Spec.Process == nil || r.Checkpoint != "" {
		return rt.Engine.Create(ctx, r)
	}
	root := r.Rootfs
	if r.Spec.Root != nil && r.Spec.Root.Path != "" {
		root = r.Spec.Root.Path
	}
	if !filepath.IsAbs(root) {
		root = filepath.Join(r.Bundle, root)
	}
	world, err := worldOf(r.Spec, o)
	if err != nil {
		return nil, err
	}
	program, err := wasm.Select(wasm.View{Root: root, Mounts: r.Spec.Mounts, Bundle: r.Bundle}, r.Spec.Process, r.Spec.Annotations)
	if err != nil {
		return nil, err
	}
	cache := rt.cacheOf(o)
	if program == nil {
		t, err := rt.Engine.Create(ctx, r)
		if err != nil {
			return nil, err
		}
		return &wasmTask{t.(*container.Task), cache, world}, nil
	}
	run, err := cache.New(ctx, world.request(program, r.Spec.Process))
	if err != nil {
		return nil, err
	}
	t, err := rt.CreateProgram(ctx, r, run)
	if err != nil {
		return nil, err
	}
	return &wasmTask{t, cache, world}, nil
}

// wasmTask is a container whose execs may be modules.
type wasmTask struct {
	*container.Task
	cache *wasm.Cache
	world world
}

// Exec prepares a process, a module or a native one: what its program is decides.
func (t *wasmTask) Exec(ctx context.Context, r *task.ExecRequest) (task.Process, error) {
	program, err := wasm.Select(wasm.View{Root: fmt.Sprintf("/proc/%d/root", t.PID())}, r.Spec, nil)
	if err != nil {
		return nil, err
	}
	if program == nil {
		return t.Task.Exec(ctx, r)
	}
	w := t.world
	w.listen = nil // these the container's first process has
	run, err := t.cache.New(context.WithoutCancel(ctx), w.request(program, r.Spec))
	if err != nil {
		return nil, err
	}
	return t.ExecProgram(r, run)
}

// world is what every guest of a container gets.
type world struct {
	preopens []wasm.Preopen
	listen   []string
	memory   int64 // bytes that a guest can have; 0: no limit
	room     int64 // bytes that all of the container can have; 0: no limit
}

// worldOf reads a container's annotations and limits, and what the options say where it has none. ErrInvalidArgument:
// they make no sense.
func worldOf(spec *specs.Spec, o *wasmv1.Options) (w world, err error) {
	dirs, where := o.Preopens, "option preopens"
	if list, ok := spec.Annotations[annotationPreopens]; ok {
		dirs, where = strings.Split(list, ","), "annotation "+annotationPreopens
	} else if len(dirs) == 0 {
		dirs = []string{"/"}
	}
	if w.preopens, err = preopens(dirs); err != nil {
		return w, fmt.Errorf("%s: %w: %w", where, err, errdefs.ErrInvalidArgument)
	}
	sockets, where := o.Listen, "option listen"
	if list, ok := spec.Annotations[annotationListen]; ok {
		sockets, where = strings.Split(list, ","), "annotation "+annotationListen
	}
	if w.listen, err = listeners(sockets); err != nil {
		return w, fmt.Errorf("%s: %w: %w", where, err, errdefs.ErrInvalidArgument)
	}
	w.memory = int64(o.MemoryLimit)
	if l := spec.Linux; l != nil && l.Resources != nil && l.Resources.Memory != nil && l.Resources.Memory.Limit != nil {
		w.room = max(*l.Resources.Memory.Limit, 0)
	}
	return w, nil
}

func preopens(list []string) (all []wasm.Preopen, err error) {
	for _, item := range list {
		item = strings.TrimSpace(item)
		dir, mode, has := strings.Cut(item, ":")
		if item == "" {
			continue
		}
		if !path.IsAbs(dir) || has && mode != "ro" && mode != "rw" {
			return nil, fmt.Errorf("%q is not of the form /DIRECTORY or /DIRECTORY:ro", item)
		}
		all = append(all, wasm.Preopen{Path: path.Clean(dir), ReadOnly: mode == "ro"})
	}
	return all, nil
}

func listeners(list []string) (all []string, err error) {
	for _, item := range list {
		item = strings.TrimSpace(item)
		if item == "" {
			continue
		}
		address, ok := strings.CutPrefix(item, "tcp:")
		if _, _, err := net.SplitHostPort(address); !ok || err != nil {
			return nil, fmt.Errorf("%q is not of the form tcp:ADDRESS:PORT", item)
		}
		all = append(all, address)
	}
	return all, nil
}

func (w world) request(program *wasm.Program, p *specs.Process) wasm.Request {
	return wasm.Request{
		Program: program, Args: p.Args, Env: p.Env, Cwd: p.Cwd,
		Preopens: w.preopens, Listen: w.listen, MemoryLimit: w.memory, Room: w.room,
	}
}
