package oci

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	runc "github.com/containerd/go-runc"

	"github.com/shimwright/shimwright/internal/engine"
	"github.com/shimwright/shimwright/task"
)

// streams are what the binary passes on to the process that it starts, or with a terminal, what it has itself.
// They implement go-runc's IO, of which only Set is used here.
type streams struct{ in, out, err *os.File }

func (s streams) Set(cmd *exec.Cmd) {
	cmd.Stdout, cmd.Stderr = s.out, s.err
	if s.in != nil {
		cmd.Stdin = s.in
	}
}

func (streams) Close() error          { return nil }
func (streams) Stdin() io.WriteCloser { return nil }
func (streams) Stdout() io.ReadCloser { return nil }
func (streams) Stderr() io.ReadCloser { return nil }

// stdio is how a process that is being started gets its streams.
type stdio struct {
	runc.IO
	Console runc.ConsoleSocket // nil without a terminal

	io     *task.IO
	own    *os.File // a binary's own output, with a terminal
	dir    *os.File // keeps the path of the socket alive
	giveUp func()   // ends the wait for the master
	master chan master
}

// master is the terminal's, or why it has not come.
type master struct {
	*os.File
	err error
}

// connect prepares the streams of a process, or with a terminal, a socket that the binary sends the pty's master to.
func (c *call) connect(io *task.IO) (_ *stdio, err error) {
	s := &stdio{io: io}
	if !io.Terminal {
		s.IO = streams{io.Stdin, io.Stdout, io.Stderr}
		return s, nil
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	// Its output must be a file: a pipe's end would be waited for, and whatever the binary leaves behind may hold it.
	if s.own, err = os.Create(c.file("output")); err != nil {
		return nil, err
	}
	s.IO = streams{nil, s.own, s.own}
	if s.dir, err = os.Open(c.dir); err != nil {
		return nil, err
	}
	// A socket's path has to be short, and a bundle's is not.
	path := socket(fmt.Sprintf("/proc/%d/fd/%d/tty", os.Getpid(), s.dir.Fd()))
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path.Path()})
	if err != nil {
		return nil, err
	}
	s.Console = path
	s.master = make(chan master, 1)
	ctx, cancel := context.WithCancel(context.Background())
	s.giveUp = cancel
	go func() { // ends with ctx, in close at the latest
		f, err := receive(ctx, listener)
		s.master <- master{f, err}
	}()
	return s, nil
}

type socket string

func (s socket) Path() string { return string(s) }

// masterWait is how long a binary that has ended without an error may be behind with the terminal's master.
const masterWait = time.Second

// finish hands the master of the terminal, if there is one, to whoever wants it. The binary has ended.
func (s *stdio) finish() error {
	if s.master == nil {
		return nil
	}
	late := time.AfterFunc(masterWait, s.giveUp)
	m := <-s.master
	late.Stop()
	s.master <- master{err: net.ErrClosed} // for close
	if m.err != nil {
		return fmt.Errorf("receive the terminal: %w", m.err)
	}
	if err := s.io.SetConsole(m.File); err != nil {
		return fmt.Errorf("set console: %w", err)
	}
	return nil
}

// receive takes the master from the first who connects. It is done while the binary runs: the earlier the terminal is
// set up, the less of what the process says goes through as it is.
func receive(ctx context.Context, l *net.UnixListener) (*os.File, error) {
	defer l.Close()
	context.AfterFunc(ctx, func() { _ = l.Close() })
	conn, err := l.AcceptUnix()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	context.AfterFunc(ctx, func() { _ = conn.Close() })
	return engine.ReceiveMaster(conn)
}

// close frees what was needed for the start.
func (s *stdio) close() {
	if s.master != nil {
		s.giveUp()
		if m := <-s.master; m.File != nil {
			_ = m.Close()
		}
	}
	for _, f := range []*os.File{s.dir, s.own} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// pidOf reads the pid that the binary was told to leave in file.
func pidOf(file string) (int, error) {
	pid, err := runc.ReadPidFile(file)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", filepath.Base(file), err)
	}
	return pid, nil
}
