package wasi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"

	"github.com/tetratelabs/wazero/experimental/sys"
	wasys "github.com/tetratelabs/wazero/sys"
	"golang.org/x/sys/unix"
)

// file is an open file or directory. It implements wazero's sys.PollableFile. Reads and writes are the kernel's, and block as they do.
type file struct {
	fd    int // -1: closed
	stat  wasys.Stat_t
	names []byte // of a directory: what the kernel has told and nobody has read
}

func newFile(fd int) (sys.File, sys.Errno) {
	st, errno := fstat(fd)
	if errno != 0 {
		unix.Close(fd)
		return nil, errno
	}
	return &file{fd: fd, stat: st}, 0
}

// kernel is the kernel's descriptor.
func (f *file) kernel() int { return f.fd }

func (f *file) Dev() (uint64, sys.Errno)          { return f.stat.Dev, 0 }
func (f *file) Ino() (wasys.Inode, sys.Errno)     { return f.stat.Ino, 0 }
func (f *file) IsDir() (bool, sys.Errno)          { return f.stat.Mode.IsDir(), 0 }
func (f *file) Stat() (wasys.Stat_t, sys.Errno)   { return fstat(f.fd) }
func (f *file) IsAppend() bool                    { return f.flags()&unix.O_APPEND != 0 }
func (f *file) SetAppend(enable bool) sys.Errno   { return f.setFlag(unix.O_APPEND, enable) }
func (f *file) IsNonblock() bool                  { return f.flags()&unix.O_NONBLOCK != 0 }
func (f *file) SetNonblock(enable bool) sys.Errno { return f.setFlag(unix.O_NONBLOCK, enable) }
func (f *file) Sync() sys.Errno                   { return again(func() error { return unix.Fsync(f.fd) }) }

func (f *file) Datasync() sys.Errno { return again(func() error { return unix.Fdatasync(f.fd) }) }

func (f *file) flags() int {
	flags, err := unix.FcntlInt(uintptr(f.fd), unix.F_GETFL, 0)
	if err != nil {
		return 0
	}
	return flags
}

func (f *file) setFlag(flag int, enable bool) sys.Errno {
	flags, err := unix.FcntlInt(uintptr(f.fd), unix.F_GETFL, 0)
	if err != nil {
		return sys.UnwrapOSError(err)
	}
	if flags &^= flag; enable {
		flags |= flag
	}
	_, err = unix.FcntlInt(uintptr(f.fd), unix.F_SETFL, flags)
	return sys.UnwrapOSError(err)
}

func (f *file) Read(buf []byte) (n int, errno sys.Errno) {
	return f.transfer(buf, func() (int, error) { return unix.Read(f.fd, buf) })
}

func (f *file) Pread(buf []byte, off int64) (int, sys.Errno) {
	if f.stat.Mode.IsDir() {
		return 0, sys.EISDIR
	}
	return f.transfer(buf, func() (int, error) { return unix.Pread(f.fd, buf, off) })
}

func (f *file) Write(buf []byte) (n int, errno sys.Errno) {
	for n < len(buf) {
		rest := buf[n:]
		k, errno := f.transfer(rest, func() (int, error) { return unix.Write(f.fd, rest) })
		n += k
		if errno != 0 || k == 0 {
			if n > 0 && errno == sys.EAGAIN {
				errno = 0
			}
			return n, errno
		}
	}
	return n, 0
}

func (f *file) Pwrite(buf []byte, off int64) (n int, errno sys.Errno) {
	for n < len(buf) {
		rest, at := buf[n:], off+int64(n)
		k, errno := f.transfer(rest, func() (int, error) { return unix.Pwrite(f.fd, rest, at) })
		n += k
		if errno != 0 || k == 0 {
			return n, errno
		}
	}
	return n, 0
}

func (f *file) transfer(buf []byte, fn func() (int, error)) (n int, errno sys.Errno) {
	if len(buf) == 0 {
		return 0, 0
	}
	errno = again(func() (err error) {
		n, err = fn()
		return err
	})
	return max(n, 0), errno
}

// offset has another name because go vet takes a Seek(int64, int) for io.Seeker's.
type offset = int64

func (f *file) Seek(by offset, whence int) (offset, sys.Errno) {
	if whence < io.SeekStart || whence > io.SeekEnd {
		return 0, sys.EINVAL
	}
	if f.stat.Mode.IsDir() {
		if by != 0 || whence != io.SeekStart {
			return 0, sys.EINVAL
		}
		f.names = nil
	}
	at, err := unix.Seek(f.fd, by, whence)
	return max(at, 0), sys.UnwrapOSError(err)
}

func (f *file) Truncate(size int64) sys.Errno {
	if f.stat.Mode.IsDir() {
		return sys.EISDIR
	}
	return again(func() error { return unix.Ftruncate(f.fd, size) })
}

func (f *file) Utimens(atim, mtim int64) sys.Errno { return utimens(f.fd, atim, mtim) }

func (f *file) Close() sys.Errno {
	if f.fd < 0 {
		return 0
	}
	err := unix.Close(f.fd)
	f.fd = -1
	return sys.UnwrapOSError(err)
}

// Poll waits until the file can be read or written. A timeout below 0 is none.
func (f *file) Poll(flag sys.Pflag, timeoutMillis int32) (ready bool, errno sys.Errno) {
	var events int16
	if flag&sys.POLLIN != 0 {
		events |= unix.POLLIN
	}
	if flag&sys.POLLOUT != 0 {
		events |= unix.POLLOUT
	}
	fds := []unix.PollFd{{Fd: int32(f.fd), Events: events}}
	errno = again(func() error {
		n, err := unix.Poll(fds, int(timeoutMillis))
		ready = n > 0
		return err
	})
	return ready, errno
}

// Readdir reads up to n further entries, all that are left if n is not positive.
func (f *file) Readdir(n int) (entries []sys.Dirent, errno sys.Errno) {
	if !f.stat.Mode.IsDir() {
		return nil, sys.ENOTDIR
	}
	for n <= 0 || len(entries) < n {
		if len(f.names) == 0 {
			buf := make([]byte, 8<<10)
			k := 0
			errno = again(func() (err error) {
				k, err = unix.Getdents(f.fd, buf)
				return err
			})
			if errno == sys.ENOENT { // removed meanwhile: it has none
				errno = 0
			}
			if errno != 0 || k <= 0 {
				return entries, errno
			}
			f.names = buf[:k]
		}
		// struct linux_dirent64, getdents(2)
		size := binary.NativeEndian.Uint16(f.names[16:])
		one := f.names[:size]
		f.names = f.names[size:]
		name, _, _ := bytes.Cut(one[19:], []byte{0})
		if s := string(name); s != "." && s != ".." {
			entries = append(entries, sys.Dirent{Name: s, Ino: binary.NativeEndian.Uint64(one), Type: dirTypes[one[18]]})
		}
	}
	return entries, 0
}

var dirTypes = map[byte]fs.FileMode{
	unix.DT_DIR:  fs.ModeDir,
	unix.DT_LNK:  fs.ModeSymlink,
	unix.DT_FIFO: fs.ModeNamedPipe,
	unix.DT_SOCK: fs.ModeSocket,
	unix.DT_CHR:  fs.ModeDevice | fs.ModeCharDevice,
	unix.DT_BLK:  fs.ModeDevice,
}

func fstat(fd int) (wasys.Stat_t, sys.Errno) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return wasys.Stat_t{}, sys.UnwrapOSError(err)
	}
	return wasys.Stat_t{
		Dev: st.Dev, Ino: st.Ino, Mode: mode(st.Mode), Nlink: uint64(st.Nlink), Size: st.Size, //nolint:unconvert // 32 bits on arm64
		Atim: st.Atim.Nano(), Mtim: st.Mtim.Nano(), Ctim: st.Ctim.Nano(),
	}, 0
}

func mode(m uint32) fs.FileMode {
	// The kinds of S_IFMT are DT_ values, shifted (IFTODT).
	return fs.FileMode(m&0o777) | dirTypes[byte(m&unix.S_IFMT>>12)]
}

func utimens(fd int, atim, mtim int64) sys.Errno {
	times := []unix.Timespec{timespec(atim), timespec(mtim)}
	return sys.UnwrapOSError(unix.UtimesNanoAt(fd, "", times, unix.AT_EMPTY_PATH))
}

func timespec(ns int64) unix.Timespec {
	if ns == sys.UTIME_OMIT {
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	}
	return unix.NsecToTimespec(ns)
}

// again repeats what a signal has interrupted.
func again(fn func() error) sys.Errno {
	for {
		if err := fn(); !errors.Is(err, unix.EINTR) {
			return sys.UnwrapOSError(err)
		}
	}
}
