package wasi

import (
	"errors"
	"net"

	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental/sys"
	"golang.org/x/sys/unix"
)

// socket is a listening or a connected one. wazero's own cannot be waited for, and its connections are not closed when
// the guest closes them.
type socket struct{ file }

// Recvfrom and Shutdown are what wazero knows a socket by.
func (s *socket) Recvfrom(buf []byte, flags int) (n int, errno sys.Errno) {
	return s.transfer(buf, func() (int, error) {
		n, _, err := unix.Recvfrom(s.fd, buf, flags)
		return n, err
	})
}

// Shutdown ends one direction, or both, as shutdown(2) does.
func (s *socket) Shutdown(how int) sys.Errno { return sys.UnwrapOSError(unix.Shutdown(s.fd, how)) }

func newSocket(fd int) (*socket, error) {
	st, errno := fstat(fd)
	if errno != 0 {
		unix.Close(fd)
		return nil, errno
	}
	return &socket{file{fd: fd, stat: st}}, nil
}

// Listener is a socket that a guest gets.
type Listener struct{ *socket }

// Listen opens a TCP socket, in the network namespace of the process. It does not block: a guest has one thread, and while
// that waits in accept nobody is answered whom it has accepted.
func Listen(address string) (Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return Listener{}, err
	}
	defer l.Close()
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return Listener{}, errors.ErrUnsupported
	}
	f, err := tcp.File()
	if err != nil {
		return Listener{}, err
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return Listener{}, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return Listener{}, err
	}
	s, err := newSocket(fd)
	return Listener{s}, err
}

// Give makes the listener the guest's next descriptor.
func (l Listener) Give(guest api.Module) error {
	_, err := insert(guest, l.socket)
	return err
}

func socketOf(mod api.Module, fd uint64) (*socket, error) {
	d, err := lookup(mod, fd)
	if err != nil {
		return nil, err
	}
	s, ok := d.File.(*socket)
	if !ok {
		return nil, unix.ENOTSOCK
	}
	return s, nil
}

func sockAccept(mod api.Module, args []uint64) error {
	s, err := socketOf(mod, args[0])
	if err != nil {
		return err
	}
	flags := unix.SOCK_CLOEXEC
	switch args[1] {
	case 0:
	case flagNonblock:
		flags |= unix.SOCK_NONBLOCK
	default:
		return unix.EINVAL
	}
	var fd int
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		fd, _, err = unix.Accept4(s.fd, flags)
	}
	if err != nil {
		return err
	}
	conn, err := newSocket(fd)
	if err != nil {
		return err
	}
	number, err := insert(mod, conn)
	if err != nil {
		return err
	}
	if !mod.Memory().WriteUint32Le(uint32(args[2]), uint32(number)) {
		return unix.EFAULT
	}
	return nil
}

func sockShutdown(mod api.Module, args []uint64) error {
	s, err := socketOf(mod, args[0])
	if err != nil {
		return err
	}
	how, ok := map[uint64]int{1: unix.SHUT_RD, 2: unix.SHUT_WR, 3: unix.SHUT_RDWR}[args[1]]
	if !ok {
		return unix.EINVAL
	}
	return unix.Shutdown(s.fd, how)
}
