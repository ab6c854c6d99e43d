package stdio

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// How long Close waits for a terminal's last output: what the pty still holds is read at once, and its way into the FIFO
// takes no reader, see hurry.
const (
	lastRead  = 100 * time.Millisecond
	lastWrite = time.Second
)

// terminal copies between a pty and the client's streams.
type terminal struct {
	mu     sync.Mutex
	master *os.File
	out    *os.File      // where the output goes
	copied chan struct{} // closed when all output has been copied; nil before the copy began
	in     *os.File      // where the input comes from
}

// setConsole takes the pty's master over and begins to copy.
func (s *Streams) setConsole(master *os.File) error {
	defer master.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stdout == nil {
		return errors.New("set console: the streams are closed")
	}
	t := s.terminal
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.master != nil {
		return errors.New("set console: there is one already")
	}
	pty, err := pollable(master)
	if err != nil {
		return fmt.Errorf("set console: %w", err)
	}
	out, err := pollable(s.stdout)
	if err != nil {
		pty.Close()
		return fmt.Errorf("set console: %w", err)
	}
	in, err := pollable(s.stdin)
	if err != nil {
		pty.Close()
		out.Close()
		return fmt.Errorf("set console: %w", err)
	}
	closeFile(&s.stdin)
	closeFile(&s.stdout)
	t.master, t.out, t.in, t.copied = pty, out, in, make(chan struct{})
	go func() { // ends with EIO when no process has the terminal any more, or with close
		defer close(t.copied)
		_, _ = io.Copy(onlyWriter{out}, onlyReader{pty})
		_ = out.Close() // the client sees the end of the output
		s.mu.Lock()
		defer s.mu.Unlock()
		s.closeUnused()
	}()
	go func() { // ends with the client's stdin, or with close
		_, _ = io.Copy(onlyWriter{pty}, onlyReader{in})
		_ = in.Close()
	}()
	return nil
}

// onlyReader and onlyWriter keep io.Copy from trying splice and copy_file_range on a pty.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)

// pollable returns a non-blocking duplicate of f on the runtime's poller. f shares the flag and must not be handed out.
func pollable(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, os.NewSyscallError("dup", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// Resize sets the terminal's size in characters. Without a terminal it does nothing.
func (s *Streams) Resize(width, height uint16) error {
	t := s.terminal
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.master == nil {
		return nil
	}
	conn, err := t.master.SyscallConn()
	if err != nil {
		return fmt.Errorf("resize terminal: %w", err)
	}
	cerr := conn.Control(func(fd uintptr) {
		err = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: width, Row: height})
	})
	if err = errors.Join(cerr, err); err != nil {
		return fmt.Errorf("resize terminal: %w", err)
	}
	return nil
}

// hurry makes room in the FIFO for all that a pty can still hold, so that the copy ends without waiting for a reader.
func (t *terminal) hurry() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.out == nil {
		return
	}
	if conn, err := t.out.SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) {
			_, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, 1<<20) // not a FIFO: no matter
		})
	}
}

func (t *terminal) close() {
	t.mu.Lock()
	master, in, out, copied := t.master, t.in, t.out, t.copied
	t.mu.Unlock()
	if master == nil {
		return
	}
	_ = in.Close()
	now := time.Now()
	_ = master.SetReadDeadline(now.Add(lastRead)) // somebody else may keep the terminal open
	_ = out.SetWriteDeadline(now.Add(lastWrite))
	<-copied
	_ = master.Close()
}
