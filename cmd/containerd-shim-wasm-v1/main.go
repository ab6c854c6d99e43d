// Command containerd-shim-wasm-v1 runs WebAssembly modules (WASI preview 1) as containers for containerd, and native
// programs beside them in the same pods.
package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/shimwright/shimwright/internal/container"
	"github.com/shimwright/shimwright/internal/wasm"
	"github.com/shimwright/shimwright/shim"
	"github.com/shimwright/shimwright/task"
)

// Name is the runtime's.
const Name = "io.containerd.wasm.v1"

func main() {
	wasm.Reexec()
	shim.Run(Name, func(_ context.Context, env *shim.Env) (task.Runtime, error) {
		return &runtime{
			Engine: container.New(container.Config{Namespace: env.Namespace, Reaper: env.Reaper, Log: env.Log}),
			cache:  wasm.Cache{Dir: cacheDir(env.Bundle), Log: env.Log},
		}, nil
	})
}

// cacheDir is where compiled modules are kept: below the daemon's root, which the bundle links to
// (work → ROOT/PLUGIN/NAMESPACE/ID), so that all shims of a daemon share it and it outlives them.
func cacheDir(bundle string) string {
	work, err := os.Readlink(filepath.Join(bundle, "work"))
	if err != nil || !filepath.IsAbs(work) {
		return wasm.DefaultCache
	}
	return filepath.Join(work, "../../..", Name)
}
