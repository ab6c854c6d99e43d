package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// A directory is made before a mount: X-containerd.mkdir.path=PATH[:MODE[:UID:GID]].
type directory struct {
	path     template
	mode     uint32
	set      bool // the mode was named
	uid, gid int  // -1: not named
}

func newDirectory(key, value string, text func(string) (template, error)) (d directory, err error) {
	bad := func(reason string) (directory, error) {
		return d, invalid("option X-containerd.mkdir.%s=%s: %s", key, value, reason)
	}
	if key != "path" {
		return bad("only path=PATH[:MODE[:UID:GID]] is known")
	}
	d = directory{mode: 0o700, uid: -1, gid: -1}
	fields := strings.Split(value, ":")
	if len(fields) > 4 || len(fields) == 3 {
		return bad("it is PATH[:MODE[:UID:GID]]")
	}
	if len(fields) > 1 {
		mode, err := strconv.ParseUint(fields[1], 8, 32)
		if err != nil || mode > 0o777 {
			return bad("the mode is octal, at most 777")
		}
		d.mode, d.set = uint32(mode), true
	}
	if len(fields) == 4 {
		uid, err1 := strconv.ParseUint(fields[2], 10, 31)
		gid, err2 := strconv.ParseUint(fields[3], 10, 31)
		if err1 != nil || err2 != nil {
			return bad("uid and gid are numbers")
		}
		d.uid, d.gid = int(uid), int(gid)
	}
	if d.path, err = text(fields[0]); err != nil {
		return d, err
	}
	_, rest, inside := d.path.within()
	for _, p := range rest {
		if slices.Contains(strings.Split(p.text, "/"), "..") {
			return bad("no way up in a path")
		}
	}
	begin := ""
	if len(rest) > 0 {
		begin = rest[0].text
	}
	if !strings.HasPrefix(begin, "/") || (!inside && strings.Trim(begin, "/") == "" && len(rest) == 1) {
		return bad("the path is absolute, or below {{ mount N }}")
	}
	return d, nil
}

// make makes the directory. Its parent has to be there. Below {{ mount N }} no link leads out of that mount.
func (d directory) make(earlier []made) error {
	top, rest := "/", d.path
	if i, below, ok := d.path.within(); ok {
		top, rest = earlier[i].at, below
	}
	path := filepath.Clean(rest.fill(earlier))
	err := d.makeBelow(top, path)
	if err != nil {
		return fmt.Errorf("make directory %s: %w", filepath.Join(top, path), err)
	}
	return nil
}

func (d directory) makeBelow(top, path string) error {
	root, err := unix.Open(top, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	parent, err := unix.Openat2(root, filepath.Dir(path), &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	name := filepath.Base(path)
	made := unix.Mkdirat(parent, name, d.mode)
	if made != nil && !errors.Is(made, unix.EEXIST) {
		return made
	}
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if d.uid >= 0 {
		if err := unix.Fchown(fd, d.uid, d.gid); err != nil {
			return err
		}
	}
	if made == nil || d.set { // whatever the umask
		return unix.Fchmod(fd, d.mode)
	}
	return nil
}

// An image is a file with a file system, made if it is not there: X-containerd.mkfs.size, fs, uuid.
type image struct {
	size     int64
	fs, uuid string
}

func newImage() *image { return &image{fs: "ext4"} }

// packages names what has the tool that makes a file system.
var packages = map[string]string{"ext2": "e2fsprogs", "ext3": "e2fsprogs", "ext4": "e2fsprogs", "xfs": "xfsprogs"}

func (im *image) set(key, value string) error {
	switch key {
	case "size":
		size, ok := parseSize(value)
		if !ok {
			return invalid("option X-containerd.mkfs.size=%s: it is a number of bytes, or like 64MiB", value)
		}
		im.size = size
	case "fs":
		if packages[value] == "" {
			return invalid("option X-containerd.mkfs.fs=%s: ext2, ext3, ext4 and xfs are known", value)
		}
		im.fs = value
	case "uuid":
		if strings.Trim(value, "0123456789abcdefABCDEF-") != "" {
			return invalid("option X-containerd.mkfs.uuid=%s: it is no UUID", value)
		}
		im.uuid = value
	default:
		return invalid("option X-containerd.mkfs.%s: size, fs and uuid are known", key)
	}
	return nil
}

func (im *image) check() error {
	if im.size == 0 {
		return invalid("mkfs needs the option X-containerd.mkfs.size")
	}
	return nil
}

// parseSize: units are powers of 1024, with or without i and B, as the daemon reads them.
func parseSize(s string) (size int64, ok bool) {
	end := strings.IndexFunc(s, func(c rune) bool { return c != '.' && (c < '0' || c > '9') })
	number, unit := s, ""
	if end >= 0 {
		number, unit = s[:end], strings.ToLower(strings.TrimSpace(s[end:]))
	}
	n, err := strconv.ParseFloat(number, 64)
	power := 0
	if unit = strings.TrimSuffix(strings.TrimSuffix(unit, "b"), "i"); unit != "" {
		power = strings.Index(" kmgtp", unit)
	}
	if err != nil || power < 0 || len(unit) > 1 {
		return 0, false
	}
	n *= float64(int64(1) << (10 * power))
	return int64(n), n >= 1 && n < 1<<62
}

// make makes the file path unless it is there. Nobody finds it before it is whole.
func (im *image) make(ctx context.Context, path string) (err error) {
	if _, err := os.Lstat(path); err == nil || !errors.Is(err, os.ErrNotExist) {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("make a file system in %s: %w", path, err)
		}
	}()
	tool, err := find("mkfs." + im.fs)
	if err != nil {
		return fmt.Errorf("%w (package %s): %w", err, packages[im.fs], errdefs.ErrFailedPrecondition)
	}
	unfinished := path + ".mkfs"
	f, err := os.OpenFile(unfinished, os.O_RDWR|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o640)
	if err != nil {
		return err
	}
	defer os.Remove(unfinished) // gone by then if all went well
	err = f.Truncate(im.size)
	f.Close()
	if err != nil {
		return err
	}
	args := []string{"-q"}
	switch {
	case im.uuid != "" && im.fs == "xfs":
		args = append(args, "-m", "uuid="+im.uuid)
	case im.uuid != "":
		args = append(args, "-U", im.uuid)
	}
	out, err := exec.CommandContext(ctx, tool, append(args, unfinished)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %.500s", tool, err, strings.TrimSpace(string(out)))
	}
	return os.Rename(unfinished, path)
}

// find looks for a tool in PATH and where a service's PATH may not lead.
func find(tool string) (string, error) {
	path, err := exec.LookPath(tool)
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if err == nil {
			break
		}
		if p, e := exec.LookPath(filepath.Join(dir, tool)); e == nil {
			return p, nil
		}
	}
	if err != nil {
		return "", fmt.Errorf("%s is not installed", tool)
	}
	return path, nil
}
