package oci

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/shimwright/shimwright/internal/engine"
	"github.com/shimwright/shimwright/internal/options"
)

// Info describes the binary that opts name, by its own command `features`. One that does not have it has no features
// here. ErrInvalidArgument: opts cannot be used.
func (e *Engine) Info(ctx context.Context, opts *anypb.Any) (*types.RuntimeInfo, error) {
	o, err := options.Decode(opts)
	if err != nil {
		return nil, err
	}
	path, err := find(o)
	if err != nil {
		return nil, err
	}
	info := &types.RuntimeInfo{Name: engine.Name, Options: opts}
	var f *features.Features
	err = e.binary(path, "", "", o).run(ctx, engine.NewFlight(), func(ctx context.Context, c *call) error {
		f, err = c.Features(ctx)
		return err
	})
	if err != nil {
		e.log.Warn("the OCI runtime does not say its features", "runtime", path, "err", err)
		return info, nil
	}
	data, err := json.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("features: %w", err)
	}
	info.Features = &anypb.Any{TypeUrl: engine.FeaturesURL, Value: data}
	return info, nil
}
