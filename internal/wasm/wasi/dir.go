// Package wasi is the file system that a WASI guest sees: directories of the host, each a world of its own.
//
// Every path is resolved by the kernel below the directory that was opened for it (openat2 with RESOLVE_IN_ROOT): an
// absolute symbolic link, or too many "..", ends at that directory. Magic links are not followed. What shows the
// kernel's own state, such as /proc, cannot be opened: /proc/self/mem would be the memory of the guest's host.
package wasi

import (
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/tetratelabs/wazero/experimental/sys"
	wasys "github.com/tetratelabs/wazero/sys"
	"golang.org/x/sys/unix"
)

// Dir is a directory given to a guest. It implements wazero's sys.FS; paths are relative to it.
type Dir struct {
	sys.UnimplementedFS
	fd       int // O_PATH
	readOnly bool
}

// Open opens the directory at path, relative to the current directory. With readOnly the guest cannot change anything.
func Open(path string, readOnly bool) (*Dir, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = denied(fd)
		if err != nil {
			unix.Close(fd)
		}
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return &Dir{fd: fd, readOnly: readOnly}, nil
}

// Close frees the directory. Files that were opened in it stay open.
func (d *Dir) Close() error { return unix.Close(d.fd) }

// kernelState are the file systems that a guest has no business in.
var kernelState = []int64{
	unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC,
	unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC, unix.BPF_FS_MAGIC, unix.NSFS_MAGIC, unix.EFIVARFS_MAGIC, unix.PSTOREFS_MAGIC,
}

func denied(fd int) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return err
	}
	if slices.Contains(kernelState, st.Type) {
		return unix.EACCES
	}
	return nil
}

// open resolves name below the directory. What the kernel could not decide for a rename elsewhere is tried again.
func (d *Dir) open(name string, flags int, mode uint32) (int, error) {
	if name == "" || name == "/" {
		name = "."
	}
	how := unix.OpenHow{Flags: uint64(flags) | unix.O_CLOEXEC, Mode: uint64(mode), Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	for tries := 0; ; tries++ {
		fd, err := unix.Openat2(d.fd, name, &how)
		if err == unix.EINTR || err == unix.EAGAIN && tries < 100 {
			continue
		}
		return fd, err
	}
}

// entry is a name in a directory that exists; the name itself may not. Where it ends in a slash it is a directory's, and
// the calls that remove and make things do not follow a link there either.
type entry struct {
	fd   int
	name string
}

// mustBeDir tells whether the name can be no other than a directory's.
func (e entry) mustBeDir() bool { return strings.HasSuffix(e.name, "/") }

// entry finds the directory that name is in. The caller closes it.
func (d *Dir) entry(name string) (entry, error) {
	dir, base := path.Split(path.Clean("/" + name))
	if base == "" {
		return entry{}, unix.EBUSY // the directory itself
	}
	fd, err := d.open("."+dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return entry{}, err
	}
	if err := denied(fd); err != nil {
		unix.Close(fd)
		return entry{}, err
	}
	if strings.HasSuffix(name, "/") {
		base += "/"
	}
	return entry{fd, base}, nil
}

func (e entry) close() { unix.Close(e.fd) }

// change calls fn with name's entry, unless nothing may be changed.
func (d *Dir) change(name string, fn func(e entry) error) sys.Errno {
	if d.readOnly {
		return sys.EROFS
	}
	e, err := d.entry(name)
	if err == nil {
		defer e.close()
		err = fn(e)
	}
	return sys.UnwrapOSError(err)
}

// OpenFile opens or makes a file.
func (d *Dir) OpenFile(name string, flag sys.Oflag, perm fs.FileMode) (sys.File, sys.Errno) {
	flags := unix.O_NOCTTY
	switch {
	case flag&sys.O_RDWR != 0:
		flags |= unix.O_RDWR
	case flag&sys.O_WRONLY != 0:
		flags |= unix.O_WRONLY
	}
	for _, f := range openFlags {
		if flag&f.guest != 0 {
			flags |= f.host
		}
	}
	if d.readOnly && flags&(unix.O_WRONLY|unix.O_RDWR|unix.O_CREAT|unix.O_TRUNC) != 0 {
		return nil, sys.EROFS
	}
	mode := uint32(0)
	if flags&unix.O_CREAT != 0 {
		mode = uint32(perm.Perm())
	}
	fd, err := d.open(name, flags, mode)
	if err != nil {
		return nil, sys.UnwrapOSError(err)
	}
	if err := denied(fd); err != nil {
		unix.Close(fd)
		return nil, sys.UnwrapOSError(err)
	}
	return newFile(fd)
}

var openFlags = []struct {
	guest sys.Oflag
	host  int
}{
	{sys.O_APPEND, unix.O_APPEND},
	{sys.O_CREAT, unix.O_CREAT},
	{sys.O_DIRECTORY, unix.O_DIRECTORY},
	{sys.O_DSYNC, unix.O_DSYNC},
	{sys.O_EXCL, unix.O_EXCL},
	{sys.O_NOFOLLOW, unix.O_NOFOLLOW},
	{sys.O_NONBLOCK, unix.O_NONBLOCK},
	{sys.O_RSYNC, unix.O_RSYNC},
	{sys.O_SYNC, unix.O_SYNC},
	{sys.O_TRUNC, unix.O_TRUNC},
}

// Stat describes what name leads to.
func (d *Dir) Stat(name string) (wasys.Stat_t, sys.Errno) { return d.stat(name, 0) }

// Lstat describes name itself.
func (d *Dir) Lstat(name string) (wasys.Stat_t, sys.Errno) { return d.stat(name, unix.O_NOFOLLOW) }

func (d *Dir) stat(name string, flags int) (wasys.Stat_t, sys.Errno) {
	fd, err := d.open(name, unix.O_PATH|flags, 0)
	if err != nil {
		return wasys.Stat_t{}, sys.UnwrapOSError(err)
	}
	defer unix.Close(fd)
	return fstat(fd)
}

// Mkdir makes a directory.
func (d *Dir) Mkdir(name string, perm fs.FileMode) sys.Errno {
	return d.change(name, func(e entry) error { return unix.Mkdirat(e.fd, e.name, uint32(perm.Perm())) })
}

// Rmdir removes an empty directory.
func (d *Dir) Rmdir(name string) sys.Errno {
	return d.change(name, func(e entry) error { return unix.Unlinkat(e.fd, e.name, unix.AT_REMOVEDIR) })
}

// Unlink removes what is no directory.
func (d *Dir) Unlink(name string) sys.Errno {
	return d.change(name, func(e entry) error { return unix.Unlinkat(e.fd, e.name, 0) })
}

// Rename gives a file or directory another name.
func (d *Dir) Rename(from, to string) sys.Errno { return sys.UnwrapOSError(d.renameTo(from, d, to)) }

func (d *Dir) renameTo(from string, dir *Dir, to string) error {
	return d.move(from, dir, to, func(old, e entry) error { return unix.Renameat(old.fd, old.name, e.fd, e.name) })
}

// Link gives a file a further name. A symbolic link is not followed.
func (d *Dir) Link(oldName, newName string) sys.Errno {
	return sys.UnwrapOSError(d.linkTo(oldName, d, newName))
}

func (d *Dir) linkTo(oldName string, dir *Dir, newName string) error {
	return d.move(oldName, dir, newName, func(old, e entry) error {
		if old.mustBeDir() { // with the slash, linkat would follow a link
			return unix.ENOTDIR
		}
		return unix.Linkat(old.fd, old.name, e.fd, e.name, 0)
	})
}

// move calls fn with an entry of d and one of dir, unless nothing may be changed in either.
func (d *Dir) move(from string, dir *Dir, to string, fn func(old, e entry) error) error {
	if d.readOnly || dir.readOnly {
		return unix.EROFS
	}
	old, err := d.entry(from)
	if err != nil {
		return err
	}
	defer old.close()
	e, err := dir.entry(to)
	if err != nil {
		return err
	}
	defer e.close()
	return fn(old, e)
}

// Symlink makes a symbolic link; absolute ones are refused, as WASI has it.
func (d *Dir) Symlink(target, name string) sys.Errno {
	if path.IsAbs(target) {
		return sys.EPERM
	}
	return d.change(name, func(e entry) error { return unix.Symlinkat(target, e.fd, e.name) })
}

// Readlink is what a symbolic link says.
func (d *Dir) Readlink(name string) (string, sys.Errno) {
	e, err := d.entry(name)
	if err != nil {
		return "", sys.UnwrapOSError(err)
	}
	defer e.close()
	if e.mustBeDir() { // with the slash, readlinkat would follow it
		return "", sys.EINVAL
	}
	for size := 256; ; size *= 2 {
		buf := make([]byte, size)
		n, err := unix.Readlinkat(e.fd, e.name, buf)
		if err != nil || n < size {
			return string(buf[:max(n, 0)]), sys.UnwrapOSError(err)
		}
	}
}

// Utimens sets when a file was last read and changed, in nanoseconds of the epoch.
func (d *Dir) Utimens(name string, atim, mtim int64) sys.Errno {
	return sys.UnwrapOSError(d.utimens(name, 0, timespec(atim), timespec(mtim)))
}

func (d *Dir) utimens(name string, flags int, atim, mtim unix.Timespec) error {
	if d.readOnly {
		return unix.EROFS
	}
	fd, err := d.open(name, unix.O_PATH|flags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := denied(fd); err != nil {
		return err
	}
	return unix.UtimesNanoAt(fd, "", []unix.Timespec{atim, mtim}, unix.AT_EMPTY_PATH)
}
