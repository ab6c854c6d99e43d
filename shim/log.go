package shim

import (
	"bytes"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// logFile writes to the daemon's log FIFO and never waits for it: what does not fit is dropped. It is held open for
// reading too, so that it works before a daemon opens it, and after one has gone.
type logFile struct{ fd int }

// openLog opens the FIFO at path. Without one the log goes to stderr, if somebody runs the shim by hand, or nowhere.
func openLog(path string, byHand bool) *logFile {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil && !byHand {
		fd, err = unix.Open(os.DevNull, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return &logFile{unix.Stderr}
	}
	return &logFile{fd}
}

// takeStderr makes the log this process's stderr as well: the Go runtime's last words go there.
func (l *logFile) takeStderr() { _ = unix.Dup3(l.fd, unix.Stderr, 0) }

// Write writes whole lines as far as they fit, and claims to have written everything.
func (l *logFile) Write(p []byte) (int, error) {
	const atomic = 4096 // PIPE_BUF: up to here a write to a pipe is all or nothing
	for rest := p; len(rest) > 0; {
		n := min(len(rest), atomic)
		if i := bytes.LastIndexByte(rest[:n], '\n'); i >= 0 {
			n = i + 1
		}
		if _, err := unix.Write(l.fd, rest[:n]); err != nil && !errors.Is(err, unix.EINTR) {
			break
		}
		rest = rest[n:]
	}
	return len(p), nil
}
