// Package rootfs mounts what a Create request names, in a bundle, and unmounts it.
//
// Most requests are plain: each mount goes to the bundle's rootfs, one upon the other. Mounts that build on earlier
// ones – templates such as {{ mount 0 }}, loop devices, id-mapped mounts – are built on a private stage in the same
// place, and only the tree that comes out of it is left there. So all that a task has is its rootfs and what is below:
// whoever unmounts that, this package, its daemon or the shim's delete command in another process, frees every file
// system and every loop device behind it. Nothing has to be remembered.
package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"github.com/shimwright/shimwright/internal/bundle"
	"golang.org/x/sys/unix"
)

// Mount mounts all of mounts in the rootfs of the bundle dir and returns where that is; empty: nothing was to be
// mounted. If it fails nothing stays mounted. ErrInvalidArgument: it can never succeed; before anything is mounted
// if the request alone says so. ErrFailedPrecondition: the machine has not the tool to make a file system.
func Mount(ctx context.Context, dir string, mounts []*types.Mount) (_ string, err error) {
	if len(mounts) == 0 {
		return "", nil
	}
	p, err := newPlan(mounts)
	if err != nil {
		return "", fmt.Errorf("mount rootfs: %w", err)
	}
	path := filepath.Join(dir, bundle.RootfsDir)
	if err := os.Mkdir(path, 0o711); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("mount rootfs: %w", err)
	}
	ok := false
	defer func() {
		if !ok {
			err = errors.Join(err, Unmount(dir))
		}
	}()
	if err := p.perform(ctx, path); err != nil {
		return "", fmt.Errorf("mount rootfs: %w", classed(err))
	}
	ok = true
	return path, nil
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

// patience is how long a busy mount is waited for: those who use it may be dying.
const patience = 2 * time.Second

// Unmount unmounts everything in the rootfs of the bundle dir, at every depth. Nothing there: no error. What stays
// busy is detached in the end: nobody finds it any more, and it goes with its last user.
func Unmount(dir string) error {
	path := filepath.Join(dir, bundle.RootfsDir)
	if plain(path) {
		return nil
	}
	path, err := filepath.EvalSymlinks(path)
	if err == nil {
		err = unmountTree(path, time.Now().Add(patience))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unmount rootfs: %w", err)
	}
	return nil
}

// unmountTree unmounts what the mount table has at path and below, the last first, until there is nothing. A mount that
// another one covers shows when that is gone.
func unmountTree(path string, deadline time.Time) error {
	for flags := unix.UMOUNT_NOFOLLOW; ; {
		mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(path))
		if err != nil || len(mounts) == 0 {
			return err
		}
		progress := false
		for _, m := range slices.Backward(mounts) {
			e := unix.Unmount(m.Mountpoint, flags)
			progress = progress || e == nil
			if e != nil && (err == nil || !errors.Is(e, unix.EINVAL)) { // EINVAL: covered, or gone with another one
				err = fmt.Errorf("%s: %w", m.Mountpoint, e)
			}
		}
		switch {
		case progress:
		case time.Now().Before(deadline):
			time.Sleep(20 * time.Millisecond)
		case flags&unix.MNT_DETACH == 0:
			flags |= unix.MNT_DETACH
		default:
			return err
		}
	}
}

// plain unmounts mounts upon each other, and tells whether surely nothing is left. It spares the reading of the mount
// table, which is long where there are many containers.
func plain(path string) bool {
	for {
		err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil:
		case errors.Is(err, unix.ENOENT):
			return true
		case errors.Is(err, unix.EINVAL): // none is mounted here; below, only where there is a directory
			return empty(path)
		default:
			return false
		}
	}
}

func empty(dir string) bool {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_NOFOLLOW, 0) // a link leads to where one may be mounted
	if err != nil {
		return false
	}
	defer f.Close()
	_, err = f.Readdirnames(1)
	return errors.Is(err, io.EOF)
}
