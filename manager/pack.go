package manager

import (
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"
)

// Pack puts a part of a runtime spec into the form that the task service takes: a *specs.Process for Exec,
// *specs.LinuxResources for Update. Anything else is ErrInvalidArgument.
func Pack(part any) (*anypb.Any, error) {
	var name string
	switch part.(type) {
	case *specs.Process:
		name = "Process"
	case *specs.LinuxResources:
		name = "LinuxResources"
	default:
		return nil, fmt.Errorf("pack %T: %w", part, errdefs.ErrInvalidArgument)
	}
	value, err := json.Marshal(part)
	if err != nil {
		return nil, fmt.Errorf("pack %T: %w: %w", part, err, errdefs.ErrInvalidArgument)
	}
	return &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/" + name, Value: value}, nil
}
