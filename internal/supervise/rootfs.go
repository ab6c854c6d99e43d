package supervise

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/shimwright/shimwright/internal/bundle"
	"golang.org/x/sys/unix"
)

// rootfs is what is mounted in a bundle for a task.
type rootfs struct{ path string } // empty: nothing

func (r *rootfs) mount(dir string, mounts []*types.Mount) error {
	if len(mounts) == 0 {
		return nil
	}
	path := filepath.Join(dir, bundle.RootfsDir)
	if err := os.Mkdir(path, 0o711); err != nil && !os.IsExist(err) {
		return fmt.Errorf("mount rootfs: %w", err)
	}
	var all []mount.Mount
	for _, m := range mounts {
		if m == nil {
			return fmt.Errorf("mount rootfs: a mount is missing: %w", errdefs.ErrInvalidArgument)
		}
		all = append(all, mount.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	r.path = path // from here on there may be something to unmount
	if err := mount.All(all, path); err != nil {
		return fmt.Errorf("mount rootfs: %w", classed(err))
	}
	return nil
}

// classed gives a mount that can never succeed its class.
func classed(err error) error {
	for _, no := range []syscall.Errno{unix.ENOENT, unix.ENOTDIR, unix.EINVAL, unix.ENODEV, unix.ELOOP} {
		if errors.Is(err, no) {
			return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	return err
}

func (r *rootfs) unmount() error {
	if r.path == "" {
		return nil
	}
	if err := mount.UnmountRecursive(r.path, 0); err != nil {
		return fmt.Errorf("unmount rootfs: %w", err)
	}
	r.path = ""
	return nil
}
