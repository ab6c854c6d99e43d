// Package socket makes a shim's socket: it says where it is, gives it one owner and removes exactly what was made.
//
// Sockets are files, never abstract: mode 0600 in directories of mode 0700. Whoever makes or removes one holds a lock
// on its directory, so that of two starts at once one makes the socket and the other finds it.
package socket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// A Socket is a listening socket and the file that leads to it.
type Socket struct {
	listener *net.UnixListener
	path     string
	made     *os.File // the file as it was made, O_PATH: while it is held no other file gets its inode
}

// Listen makes the socket at address, with its directory if that is missing, and listens.
// ErrAlreadyExists: somebody listens there. A stale socket is replaced; anything else in its place is left alone.
func Listen(address string) (*Socket, error) {
	path, err := Path(address)
	if err != nil {
		return nil, err
	}
	if err := makeDir(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make the socket's directory: %w", err)
	}
	unlock, err := lock(path)
	if err != nil {
		return nil, err
	}
	defer unlock()

	if err := removeStale(path); err != nil {
		return nil, err
	}
	return listen(path)
}

func listen(path string) (_ *Socket, err error) {
	// The mode of the unbound socket becomes that of the file, so it is never open to others, not even for a moment.
	private := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) }), err)
	}}
	l, err := private.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	listener := l.(*net.UnixListener)
	listener.SetUnlinkOnClose(false)
	defer func() {
		if err != nil {
			os.Remove(path)
			listener.Close()
		}
	}()
	if err := os.Chmod(path, 0o600); err != nil { // a umask may have taken even more away
		return nil, err
	}
	made, err := pin(path)
	if err != nil {
		return nil, err
	}
	return &Socket{listener, path, made}, nil
}

// pin holds on to the file at path.
func pin(path string) (*os.File, error) {
	return os.OpenFile(path, unix.O_PATH|unix.O_NOFOLLOW, 0)
}

// Inherit takes over f, a listening socket made by Listen in another process, and closes f.
// ErrInvalidArgument: f is no such thing. ErrNotFound: its file is gone, so nobody could reach it.
func Inherit(f *os.File) (*Socket, error) {
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("inherit %s: %w: %w", f.Name(), err, errdefs.ErrInvalidArgument)
	}
	listener, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return nil, fmt.Errorf("inherit %s: a %s socket: %w", f.Name(), l.Addr().Network(), errdefs.ErrInvalidArgument)
	}
	listener.SetUnlinkOnClose(false)
	path, err := Path(scheme + listener.Addr().String())
	if err != nil {
		listener.Close()
		return nil, err
	}
	made, err := pin(path)
	if err != nil {
		listener.Close()
		return nil, fmt.Errorf("inherit %s: %w: %w", path, err, errdefs.ErrNotFound)
	}
	return &Socket{listener, path, made}, nil
}

// Address is unix:///path.
func (s *Socket) Address() string { return scheme + s.path }

// Listener accepts connections. Closing it is the same as Close.
func (s *Socket) Listener() net.Listener { return s.listener }

// File is a copy of the listening socket, for a child to Inherit. The caller closes it.
func (s *Socket) File() (*os.File, error) { return s.listener.File() }

// Remove removes the socket's file, and never another's that has taken its place. It comes before Close. Repeated: no
// error.
func (s *Socket) Remove() error {
	unlock, err := lock(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	made, err := s.made.Stat()
	if err != nil {
		return err
	}
	now, err := os.Lstat(s.path)
	if err == nil && os.SameFile(now, made) {
		err = os.Remove(s.path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Close stops listening in this process; its file and copies in other processes stay.
func (s *Socket) Close() error { return errors.Join(s.listener.Close(), s.made.Close()) }

// RemoveStale removes the socket at address if nobody listens there. Somebody does, or there is none: no error.
func RemoveStale(address string) error {
	path, err := Path(address)
	if err != nil {
		return err
	}
	unlock, err := lock(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	if err := removeStale(path); !errors.Is(err, errdefs.ErrAlreadyExists) {
		return err
	}
	return nil
}

// removeStale makes path free, under the lock. ErrAlreadyExists: somebody listens. FailedPrecondition: it is no socket.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is in the way and is no socket: %w", path, errdefs.ErrFailedPrecondition)
	}
	switch err := connect(path); {
	case err == nil, errors.Is(err, unix.EAGAIN): // EAGAIN: so many connect that the queue is full
		return fmt.Errorf("somebody listens on %s: %w", path, errdefs.ErrAlreadyExists)
	case errors.Is(err, unix.ECONNREFUSED):
		return os.Remove(path)
	default:
		return fmt.Errorf("connect to %s: %w", path, err)
	}
}

// connect tries, without waiting, whether somebody listens on path.
func connect(path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Connect(fd, &unix.SockaddrUnix{Name: path})
}

// lock locks the directory of path, and leaves no file behind that was made for locking.
func lock(path string) (unlock func(), err error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		err = unix.Flock(int(dir.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		dir.Close()
		return nil, fmt.Errorf("lock %s: %w", dir.Name(), err)
	}
	return func() {
		unix.Flock(int(dir.Fd()), unix.LOCK_UN) // by name: a child forked just now still has a copy of the descriptor
		dir.Close()
	}, nil
}

// makeDir makes dir with exactly perm, and what is missing above it so that others can pass through. What is there stays as it is.
func makeDir(dir string, perm fs.FileMode) error {
	err := os.Mkdir(dir, perm)
	if errors.Is(err, fs.ErrNotExist) {
		if err = makeDir(filepath.Dir(dir), 0o711); err == nil {
			err = os.Mkdir(dir, perm)
		}
	}
	switch {
	case err == nil:
		return os.Chmod(dir, perm)
	case errors.Is(err, fs.ErrExist):
		return nil
	}
	return err
}
