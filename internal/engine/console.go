package engine

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/containerd/console"
	"golang.org/x/sys/unix"
)

// ReceiveMaster receives the pty's master that an init sends, and turns off the newline's translation on output, which
// is the client's terminal's to do.
func ReceiveMaster(socket syscall.Conn) (*os.File, error) {
	conn, err := socket.SyscallConn()
	if err != nil {
		return nil, err
	}
	name := make([]byte, 4096)
	oob := make([]byte, unix.CmsgSpace(4))
	var n, oobn int
	waitErr := conn.Read(func(fd uintptr) bool {
		for {
			n, oobn, _, _, err = unix.Recvmsg(int(fd), name, oob, unix.MSG_CMSG_CLOEXEC)
			if !errors.Is(err, unix.EINTR) {
				return !errors.Is(err, unix.EAGAIN)
			}
		}
	})
	if waitErr != nil {
		return nil, waitErr
	}
	if err != nil {
		return nil, os.NewSyscallError("recvmsg", err)
	}
	fds, err := rights(oob[:oobn])
	if err != nil {
		return nil, err
	}
	if len(fds) != 1 {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
		return nil, fmt.Errorf("%d files instead of one", len(fds))
	}
	master := os.NewFile(uintptr(fds[0]), string(name[:n]))
	if err := console.ClearONLCR(master.Fd()); err != nil {
		_ = master.Close()
		return nil, fmt.Errorf("pty: %w", err)
	}
	return master, nil
}

// rights are the files in a control message.
func rights(oob []byte) (fds []int, err error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		if m.Header.Type == unix.SCM_RIGHTS {
			more, err := unix.ParseUnixRights(&m)
			if err != nil {
				return fds, err
			}
			fds = append(fds, more...)
		}
	}
	return fds, nil
}
