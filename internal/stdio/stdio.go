// Package stdio opens a process's streams, holds what must stay open, and hands the process its own ends.
//
// Without a terminal the shim never touches a byte. The process gets the client's FIFO or file itself:
//
//	           client                          shim                       process
//	stdin      ─ writes ─▶ FIFO  ◀─ holds a write end until CloseStdin     ─▶ reads
//	stdout     ◀─ reads ── FIFO  ◀─ holds a write end until Exited,         ◀─ writes
//	                                a read end until Close
//
// so that a reader or writer that goes away and comes back finds everything in place, a process sees the end of its stdin
// only after CloseStdin, and a client sees the end of the output when the process is gone.
// With a terminal the pty is copied, see terminal.go.
package stdio

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/shimwright/shimwright/task"
	"golang.org/x/sys/unix"
)

// Config names the streams as a client does: the path of a FIFO or file, fifo://path, file://path (created if it is
// not there, appended to), or nothing for /dev/null.
type Config struct {
	Stdin, Stdout, Stderr string
	Terminal              bool // Stdout carries everything, Stderr is not used
}

// Streams are a process's open streams.
type Streams struct {
	terminal *terminal // nil without

	mu sync.Mutex
	// What the process is given, and what is held beside it; nil when closed or not there.
	stdin, stdout, stderr             *os.File
	stdinHold, stdoutHold, stderrHold *os.File
}

// Open opens what c names. ErrInvalidArgument: a stream that cannot be used; nothing is open then.
func Open(c Config) (_ *Streams, err error) {
	s := new(Streams)
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if s.stdin, s.stdinHold, err = openStream(c.Stdin, false); err != nil {
		return nil, fmt.Errorf("open stdin: %w", err)
	}
	if s.stdout, s.stdoutHold, err = openStream(c.Stdout, true); err != nil {
		return nil, fmt.Errorf("open stdout: %w", err)
	}
	if c.Terminal {
		s.terminal = new(terminal)
		return s, nil
	}
	if s.stderr, s.stderrHold, err = openStream(c.Stderr, true); err != nil {
		return nil, fmt.Errorf("open stderr: %w", err)
	}
	return s, nil
}

// IO is what the process gets. The files stay the Streams' own.
func (s *Streams) IO() task.IO {
	if s.terminal != nil {
		return task.IO{Terminal: true, SetConsole: s.setConsole}
	}
	return task.IO{Stdin: s.stdin, Stdout: s.stdout, Stderr: s.stderr}
}

// Started tells that the process has its ends: the shim lets go of the one for stdin, so that a client that writes to a
// process which has ended is told so.
func (s *Streams) Started() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.terminal == nil {
		closeFile(&s.stdin)
	}
}

// CloseStdin gives the process the end of its stdin, once the client has closed its own end too.
func (s *Streams) CloseStdin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	closeFile(&s.stdinHold)
}

// Exited tells that the process is gone: readers see the end of its output after what is still on its way.
func (s *Streams) Exited() {
	s.mu.Lock()
	defer s.mu.Unlock()
	closeFile(&s.stdinHold)
	if s.terminal != nil {
		s.terminal.hurry()
		return
	}
	closeFile(&s.stdin)
	closeFile(&s.stdout)
	closeFile(&s.stderr)
}

// Close closes everything. What the process wrote stays readable for whoever has the FIFO open.
func (s *Streams) Close() {
	if s.terminal != nil {
		s.terminal.close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range []**os.File{&s.stdin, &s.stdout, &s.stderr, &s.stdinHold, &s.stdoutHold, &s.stderrHold} {
		closeFile(f)
	}
}

func closeFile(f **os.File) {
	if *f != nil {
		_ = (*f).Close()
		*f = nil
	}
}

// openStream opens what a process reads, or writes. hold is the other end of a FIFO: it keeps a reader from seeing the
// end, and a writer, and what it has written, from finding no reader.
func openStream(uri string, write bool) (f, hold *os.File, err error) {
	flags := unix.O_RDONLY
	if write {
		flags = unix.O_WRONLY | unix.O_APPEND
	}
	if uri == "" {
		f, err = open(os.DevNull, flags)
		return f, nil, err
	}
	at, err := find(uri)
	if err != nil {
		return nil, nil, err
	}
	defer unix.Close(at.fd)
	if !at.fifo {
		f, err = at.reopen(flags | unix.O_NOCTTY)
		return f, nil, err
	}
	// The reader comes first, without waiting for a writer; then the writer finds one.
	r, err := at.reopen(unix.O_RDONLY | unix.O_NONBLOCK)
	if err != nil {
		return nil, nil, err
	}
	w, err := at.reopen(unix.O_WRONLY | unix.O_NONBLOCK)
	if err != nil {
		r.Close()
		return nil, nil, err
	}
	if write {
		return w, r, nil
	}
	return r, w, nil
}

// location is a file found but not opened, so that what was looked at is what is opened.
type location struct {
	fd   int // O_PATH
	path string
	fifo bool
}

// find resolves a stream's URI. Symbolic links in its last element are not followed.
func find(uri string) (location, error) {
	path, create, err := parse(uri)
	if err != nil {
		return location{}, err
	}
	if create {
		f, err := open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY)
		if err != nil {
			return location{}, err
		}
		defer f.Close()
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return location{}, pathError(path, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return location{}, pathError(path, err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFIFO, unix.S_IFREG, unix.S_IFCHR:
		return location{fd, path, st.Mode&unix.S_IFMT == unix.S_IFIFO}, nil
	default:
		unix.Close(fd)
		return location{}, fmt.Errorf("%s: neither a FIFO nor a file: %w", path, errdefs.ErrInvalidArgument)
	}
}

// parse splits a stream's URI. create: the file is made if it is not there.
func parse(uri string) (path string, create bool, err error) {
	path = uri
	if scheme, _, ok := strings.Cut(uri, "://"); ok {
		u, err := url.Parse(uri)
		if err != nil {
			return "", false, fmt.Errorf("%q: %w: %w", uri, err, errdefs.ErrInvalidArgument)
		}
		switch scheme {
		case "fifo", "file":
			if u.Host != "" || u.RawQuery != "" || u.Fragment != "" {
				return "", false, fmt.Errorf("%q: want %s:///absolute/path: %w", uri, scheme, errdefs.ErrInvalidArgument)
			}
			path, create = u.Path, scheme == "file"
		case "binary", "binary-v2":
			return "", false, fmt.Errorf("%q: logging binaries are not supported; use a FIFO or file:///path: %w", uri, errdefs.ErrNotImplemented)
		default:
			return "", false, fmt.Errorf("%q: unknown scheme; use a path, fifo:///path or file:///path: %w", uri, errdefs.ErrInvalidArgument)
		}
	}
	if !strings.HasPrefix(path, "/") || strings.ContainsRune(path, 0) {
		return "", false, fmt.Errorf("%q: not an absolute path: %w", uri, errdefs.ErrInvalidArgument)
	}
	return path, create, nil
}

func (l location) reopen(flags int) (*os.File, error) {
	fd, err := openRetry("/proc/self/fd/"+strconv.Itoa(l.fd), flags)
	if err != nil {
		return nil, pathError(l.path, err)
	}
	// O_NONBLOCK was for opening. With it os.NewFile would have the poller wake the shim for every byte that passes.
	if err := unix.SetNonblock(fd, false); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), l.path), nil
}

func open(path string, flags int) (*os.File, error) {
	fd, err := openRetry(path, flags)
	if err != nil {
		return nil, pathError(path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// openRetry is open(2) with CLOEXEC. Not os.OpenFile, which would make a FIFO non-blocking: the process shares that flag.
func openRetry(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o644)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// pathError gives what is wrong with the client's path the class of a bad request, and leaves the shim's own troubles
// (no descriptors, no memory) apart.
func pathError(path string, err error) error {
	err = &os.PathError{Op: "open", Path: path, Err: err}
	switch {
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOMEM), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EIO):
		return err
	}
	return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
}
