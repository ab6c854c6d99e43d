package main

import (
	"context"

	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/shimwright/shimwright/internal/container"
	"github.com/shimwright/shimwright/internal/oci"
	"github.com/shimwright/shimwright/internal/options"
	"github.com/shimwright/shimwright/shim"
	"github.com/shimwright/shimwright/task"
)

// runtime is what every engine here is.
type runtime interface {
	task.Runtime
	task.Deleter
	task.Informer
}

// engines choose, for each container, by the option binary_name: none is libcontainer inside the shim.
type engines struct{ inside, binary runtime }

func newEngines(env *shim.Env) *engines {
	return &engines{
		inside: container.New(container.Config{Namespace: env.Namespace, Reaper: env.Reaper, Log: env.Log}),
		binary: oci.New(oci.Config{Namespace: env.Namespace, Reaper: env.Reaper, Log: env.Log}),
	}
}

func (e *engines) of(o *options.Options) runtime {
	if o.BinaryName == "" {
		return e.inside
	}
	return e.binary
}

// Create makes the container with the engine that its options name.
func (e *engines) Create(ctx context.Context, r *task.CreateRequest) (task.Task, error) {
	o, err := options.Decode(r.Options)
	if err != nil {
		return nil, err
	}
	return e.of(o).Create(ctx, r)
}

// Delete cleans up with the engine that the bundle's container was made with.
func (e *engines) Delete(ctx context.Context, id, bundle string) (task.Exit, error) {
	o, _ := options.Read(bundle) // the engine tells what is wrong with them
	return e.of(o).Delete(ctx, id, bundle)
}

// Info describes the engine that the options name.
func (e *engines) Info(ctx context.Context, opts *anypb.Any) (*types.RuntimeInfo, error) {
	o, err := options.Decode(opts)
	if err != nil {
		return nil, err
	}
	return e.of(o).Info(ctx, opts)
}
