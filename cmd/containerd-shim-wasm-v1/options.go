package main

import (
	"fmt"
	"math"
	"path/filepath"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/shimwright/shimwright/internal/options"
	"github.com/shimwright/shimwright/internal/wasm"
	wasmv1 "github.com/shimwright/shimwright/protos/wasm/v1"
)

// decodeOptions reads what the daemon passed: options of ours, or the runc shim's, which a pod's native containers may
// come with. ErrInvalidArgument: they are neither, or cannot be followed.
func decodeOptions(a *anypb.Any) (*wasmv1.Options, error) {
	o := new(wasmv1.Options)
	if runc := new(runcoptions.Options); a.MessageIs(runc) {
		if err := options.Unmarshal(a, runc); err != nil {
			return nil, err
		}
		if runc.BinaryName != "" {
			return nil, fmt.Errorf("option binary_name %q: this shim runs containers itself; use io.containerd.runc.v2 for another OCI runtime: %w", runc.BinaryName, errdefs.ErrInvalidArgument)
		}
		o.Root, o.SystemdCgroup, o.NoPivotRoot, o.NoNewKeyring = runc.Root, runc.SystemdCgroup, runc.NoPivotRoot, runc.NoNewKeyring
		o.ShimCgroup, o.IoUid, o.IoGid = runc.ShimCgroup, runc.IoUid, runc.IoGid
		return o, nil
	}
	if err := options.Unmarshal(a, o); err != nil {
		return nil, err
	}
	if o.CacheDir != "" && !filepath.IsAbs(o.CacheDir) {
		return nil, fmt.Errorf("option cache_dir %q is not absolute: %w", o.CacheDir, errdefs.ErrInvalidArgument)
	}
	if o.CacheSize > math.MaxInt64 || o.MemoryLimit > math.MaxInt64 {
		return nil, fmt.Errorf("options cache_size and memory_limit end at %d: %w", int64(math.MaxInt64), errdefs.ErrInvalidArgument)
	}
	return o, nil
}

// engineOptions are those that the engine follows.
func engineOptions(o *wasmv1.Options) (*anypb.Any, error) {
	return anypb.New(&runcoptions.Options{
		Root: o.Root, SystemdCgroup: o.SystemdCgroup, NoPivotRoot: o.NoPivotRoot, NoNewKeyring: o.NoNewKeyring,
		ShimCgroup: o.ShimCgroup, IoUid: o.IoUid, IoGid: o.IoGid,
	})
}

// cacheOf is the cache that options name, or else the shim's.
func (rt *runtime) cacheOf(o *wasmv1.Options) *wasm.Cache {
	c := rt.cache
	if o.CacheDir != "" {
		c.Dir = o.CacheDir
	}
	if o.CacheSize != 0 {
		c.Size = int64(o.CacheSize)
	}
	c.Workers = int(o.CompileWorkers)
	return &c
}
