// Command containerd-shim-runc-v2 runs OCI containers for containerd, with libcontainer inside the shim.
package main

import (
	"context"

	"github.com/shimwright/shimwright/internal/container"
	"github.com/shimwright/shimwright/shim"
	"github.com/shimwright/shimwright/task"
)

func main() {
	shim.Run(container.Name, func(_ context.Context, env *shim.Env) (task.Runtime, error) {
		return container.New(container.Config{Namespace: env.Namespace, Reaper: env.Reaper, Log: env.Log}), nil
	})
}
