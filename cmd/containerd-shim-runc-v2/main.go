// Command containerd-shim-runc-v2 runs OCI containers for containerd, with libcontainer inside the shim, or with the OCI
// runtime's binary that a container's options name.
package main

import (
	"context"
	"fmt"

	"github.com/shimwright/shimwright/internal/cgroup"
	"github.com/shimwright/shimwright/internal/engine"
	"github.com/shimwright/shimwright/internal/options"
	"github.com/shimwright/shimwright/shim"
	"github.com/shimwright/shimwright/task"
)

func main() {
	shim.Run(engine.Name, func(_ context.Context, env *shim.Env) (task.Runtime, error) {
		return newEngines(env), nil
	}, shim.WithStartHooks(joinCgroup, nil))
}

// joinCgroup puts the shim into the cgroup that the options name, before there is one: it starts there.
func joinCgroup(_ context.Context, s *shim.Start) error {
	o, err := options.Decode(s.Options)
	if err != nil || o.ShimCgroup == "" {
		return err
	}
	if err := cgroup.Join(o.ShimCgroup); err != nil {
		return fmt.Errorf("option shim_cgroup: %w", err)
	}
	return nil
}
