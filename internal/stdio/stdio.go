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
// With a terminal the pty is copied, see terminal.go. Output may also go to a logging binary, through a pipe whose read
// ends the shim keeps for the next one should it fail, see logger.go.
package stdio

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/shimwright/shimwright/internal/reap"
	"github.com/shimwright/shimwright/task"
	"golang.org/x/sys/unix"
)

// Config names the streams as a client does: the path of a FIFO or file, fifo://path, file://path (created if it is
// not there, with its directory, and appended to), or nothing for /dev/null. Output may also go to a logging binary:
// binary://path?key=value, or binary-v2:// for one that tells its readiness by a byte.
type Config struct {
	Stdin, Stdout, Stderr string
	Terminal              bool // Stdout carries everything, Stderr is not used
}

// Opener opens streams for the processes of a shim.
type Opener struct {
	Namespace string       // the daemon's
	Reaper    *reap.Reaper // watches loggers
	Log       *slog.Logger

	limits *limits // nil: the usual
}

// Streams are a process's open streams.
type Streams struct {
	terminal *terminal // nil without
	loggers  []*logger

	mu sync.Mutex
	// What the process is given, and what is held beside it; nil when closed or not there.
	stdin, stdout, stderr             *os.File
	stdinHold, stdoutHold, stderrHold *os.File
	unused                            []*os.File // write ends: a logger's for a stream that it does not get
}

// Open opens what c names for exec execID of container id, or for its first process. It returns when the loggers are ready,
// or ctx ends. ErrInvalidArgument: a stream that cannot be used; ErrUnavailable: a logger that does not get ready. On
// error nothing is open.
func (o *Opener) Open(ctx context.Context, id, execID string, c Config) (_ *Streams, err error) {
	s := new(Streams)
	defer func() {
		if err != nil {
			s.Abort()
		}
	}()
	if s.stdin, s.stdinHold, err = openInput(c.Stdin); err != nil {
		return nil, fmt.Errorf("open stdin: %w", err)
	}
	if s.stdout, s.stdoutHold, err = o.openOutput(s, 0, c.Stdout, id, execID); err != nil {
		return nil, fmt.Errorf("open stdout: %w", err)
	}
	if c.Terminal {
		s.terminal = new(terminal)
	} else if s.stderr, s.stderrHold, err = o.openOutput(s, 1, c.Stderr, id, execID); err != nil {
		return nil, fmt.Errorf("open stderr: %w", err)
	}
	for _, l := range s.loggers {
		if err := l.start(ctx); err != nil {
			return nil, err
		}
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
	s.closeUnused()
}

// Close closes everything. What the process wrote stays readable for whoever has the FIFO open. It waits, bounded, for
// the loggers to take what was written.
func (s *Streams) Close() {
	s.close()
	for _, l := range s.loggers {
		l.close()
	}
}

// Abort closes the streams of a process that never was: its loggers are killed.
func (s *Streams) Abort() {
	s.close()
	for _, l := range s.loggers {
		l.kill()
	}
}

func (s *Streams) close() {
	if s.terminal != nil {
		s.terminal.close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range []**os.File{&s.stdin, &s.stdout, &s.stderr, &s.stdinHold, &s.stdoutHold, &s.stderrHold} {
		closeFile(f)
	}
	s.closeUnused()
}

// closeUnused lets a logger see the end of the stream that it does not get. mu is held.
func (s *Streams) closeUnused() {
	for i := range s.unused {
		closeFile(&s.unused[i])
	}
}

func closeFile(f **os.File) {
	if *f != nil {
		_ = (*f).Close()
		*f = nil
	}
}

// openInput opens what a process reads.
func openInput(uri string) (f, hold *os.File, err error) {
	t, err := parse(uri)
	if err != nil {
		return nil, nil, err
	}
	if t.program != nil {
		return nil, nil, fmt.Errorf("%q: a logger gives no input; use a FIFO: %w", uri, errdefs.ErrInvalidArgument)
	}
	return openStream(t, unix.O_RDONLY)
}

// openOutput opens what a process writes to; i is 0 for stdout and 1 for stderr. A logger is made but not started: one
// for both streams if they have the same URI.
func (o *Opener) openOutput(s *Streams, i int, uri, id, execID string) (f, hold *os.File, err error) {
	t, err := parse(uri)
	if err != nil {
		return nil, nil, err
	}
	if t.program == nil {
		return openStream(t, unix.O_WRONLY|unix.O_APPEND)
	}
	if i == 1 && len(s.loggers) == 1 && s.loggers[0].uri == uri {
		f, s.unused = s.unused[0], nil
		return f, nil, nil
	}
	l := &logger{
		program: t.program, reaper: o.Reaper, limits: usual, log: o.Log.With("id", id),
		env: []string{"CONTAINER_ID=" + id, "CONTAINER_NAMESPACE=" + o.Namespace},
	}
	if execID != "" {
		l.env, l.log = append(l.env, "CONTAINER_EXEC_ID="+execID), l.log.With("exec", execID)
	}
	if o.limits != nil {
		l.limits = *o.limits
	}
	s.loggers = append(s.loggers, l)
	var out [2]*os.File
	for j := range out {
		if l.in[j], out[j], err = pipe(); err != nil {
			closeFile(&out[0])
			return nil, nil, err
		}
	}
	s.unused = append(s.unused, out[1-i])
	return out[i], nil, nil
}

// openStream opens a FIFO, a file or /dev/null. hold is the other end of a FIFO: it keeps a reader from seeing the end,
// and a writer, and what it has written, from finding no reader.
func openStream(t target, flags int) (f, hold *os.File, err error) {
	if t.path == "" {
		f, err = open(os.DevNull, flags)
		return f, nil, err
	}
	at, err := find(t)
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
	if flags&unix.O_WRONLY != 0 {
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

// find looks up a target's path. Symbolic links in its last element are not followed.
func find(t target) (location, error) {
	path := t.path
	if t.create {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return location{}, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
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

// target is what a stream's URI names. Without path and program it is /dev/null.
type target struct {
	path    string
	create  bool // it is made if it is not there
	program *program
}

// parse takes a stream's URI apart.
func parse(uri string) (target, error) {
	if uri == "" {
		return target{}, nil
	}
	t := target{path: uri}
	if scheme, _, ok := strings.Cut(uri, "://"); ok {
		u, err := url.Parse(uri)
		if err != nil {
			return target{}, fmt.Errorf("%q: %w: %w", uri, err, errdefs.ErrInvalidArgument)
		}
		query := false
		switch scheme {
		case "fifo", "file":
			t.create = scheme == "file"
		case "binary", "binary-v2":
			query = true
			if t.program, err = parseProgram(uri, u); err != nil {
				return target{}, err
			}
		default:
			return target{}, fmt.Errorf("%q: unknown scheme; use a path, fifo:///path, file:///path, binary:///path or binary-v2:///path: %w", uri, errdefs.ErrInvalidArgument)
		}
		if u.Host != "" || u.RawQuery != "" && !query || u.Fragment != "" {
			return target{}, fmt.Errorf("%q: want %s:///absolute/path: %w", uri, scheme, errdefs.ErrInvalidArgument)
		}
		t.path = u.Path
	}
	if !strings.HasPrefix(t.path, "/") || strings.ContainsRune(t.path, 0) {
		return target{}, fmt.Errorf("%q: not an absolute path: %w", uri, errdefs.ErrInvalidArgument)
	}
	return t, nil
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
