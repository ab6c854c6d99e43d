package rootfs

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
)

// long tells options that may not fit into the one page that mount(2) has for them.
func long(options []string) bool { return len(strings.Join(options, ",")) >= os.Getpagesize()-512 }

// mountLong makes a mount with the calls that take one option at a time. tried is why mount(2) did not make it: it
// stands where the kernel does not know these calls, or takes no layers one by one (6.5).
func mountLong(m *mount.Mount, at string, tried error) error {
	fsfd, err := unix.Fsopen(m.Type, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return tried
	}
	defer unix.Close(fsfd)
	attrs := 0
	set := func(key, value string) error { return unix.FsconfigSetString(fsfd, key, value) }
	if err := set("source", m.Source); err != nil {
		return tried
	}
	for _, o := range m.Options {
		key, value, valued := strings.Cut(o, "=")
		attr, known := attributes[o]
		switch {
		case known:
			attrs |= attr
			if o == "ro" {
				err = unix.FsconfigSetFlag(fsfd, o)
			}
		case key == "lowerdir":
			for _, layer := range layers(value) {
				if err == nil {
					err = set("lowerdir+", layer)
				}
			}
		case valued:
			err = set(key, value)
		default:
			err = unix.FsconfigSetFlag(fsfd, o)
		}
		if err != nil {
			return errors.Join(tried, fmt.Errorf("option %.200s: %w", o, err))
		}
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return errors.Join(tried, fmt.Errorf("make %s: %w", m.Type, err))
	}
	fd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return fmt.Errorf("mount %s: %w", m.Type, err)
	}
	defer unix.Close(fd)
	return unix.MoveMount(fd, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// attributes are the options that are the mount's and not the file system's.
var attributes = map[string]int{
	"defaults": 0, "rw": 0, "suid": 0, "dev": 0, "exec": 0, "relatime": 0,
	"ro":         unix.MOUNT_ATTR_RDONLY,
	"nosuid":     unix.MOUNT_ATTR_NOSUID,
	"nodev":      unix.MOUNT_ATTR_NODEV,
	"noexec":     unix.MOUNT_ATTR_NOEXEC,
	"noatime":    unix.MOUNT_ATTR_NOATIME,
	"nodiratime": unix.MOUNT_ATTR_NODIRATIME,
}

// layers splits overlay's lowerdir at colons. A backslash takes the meaning from what follows it.
func layers(lowerdir string) []string {
	var all []string
	var layer strings.Builder
	for i := 0; i < len(lowerdir); i++ {
		switch c := lowerdir[i]; {
		case c == '\\' && i+1 < len(lowerdir):
			i++
			layer.WriteByte(lowerdir[i])
		case c == ':':
			all = append(all, layer.String())
			layer.Reset()
		default:
			layer.WriteByte(c)
		}
	}
	return append(all, layer.String())
}
