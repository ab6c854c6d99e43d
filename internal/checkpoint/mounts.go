package checkpoint

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// RemoveAll removes dir after a criu that may have been killed, which then leaves mounts in it: the container's root
// file system, and the hierarchies of cgroups, where a removal of files would remove other people's groups. dir stays if
// something is mounted there that cannot be unmounted. Nothing there: no error.
func RemoveAll(dir string) error {
	if err := unmount(dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

func unmount(dir string) error {
	dir, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for range 10 { // one may have covered others
		mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
		if err != nil || len(mounts) == 0 {
			return err
		}
		for _, m := range mounts { // what they are copies of stays
			_ = unix.Mount("", m.Mountpoint, "", unix.MS_PRIVATE, "")
		}
		for _, m := range slices.Backward(mounts) {
			_ = unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		}
	}
	return &fs.PathError{Op: "unmount", Path: dir, Err: unix.EBUSY}
}
