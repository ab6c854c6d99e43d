package stdio

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/shimwright/shimwright/internal/reap"
	"golang.org/x/sys/unix"
)

// program is a logging binary as a URI names it: binary:///path?key=value&… runs /path key value …
type program struct {
	uri    string
	path   string
	args   []string
	strict bool // binary-v2: it is ready when it says so, and not already when it closes its descriptor
}

// parseProgram takes a URI's query apart. The arguments keep their order; of a key that comes twice the first counts.
func parseProgram(uri string, u *url.URL) (*program, error) {
	p := &program{uri: uri, path: u.Path, strict: u.Scheme == "binary-v2"}
	seen := make(map[string]bool)
	for pair := range strings.SplitSeq(u.RawQuery, "&") {
		if pair == "" {
			continue
		}
		k, v, _ := strings.Cut(pair, "=")
		key, err := url.QueryUnescape(k)
		value, verr := url.QueryUnescape(v)
		if err = errors.Join(err, verr); err != nil {
			return nil, fmt.Errorf("%q: %w: %w", uri, err, errdefs.ErrInvalidArgument)
		}
		if strings.ContainsRune(key+value, 0) {
			return nil, fmt.Errorf("%q: a zero byte in an argument: %w", uri, errdefs.ErrInvalidArgument)
		}
		if !seen[key] {
			seen[key] = true
			p.args = append(p.args, key, value)
		}
	}
	return p, nil
}

// limits bound what is done with loggers.
type limits struct {
	ready    time.Duration // from a logger's start until it is ready
	retry    time.Duration // before the first restart; twice as long before each further one
	retries  int           // restarts in a row; then it is given up
	steady   time.Duration // one that ran for so long is no longer in a row with its last restarts
	handover time.Duration // for writers to close the pipes, at Close
	drain    time.Duration // for the logger to end by itself after that
	term     time.Duration // from SIGTERM to SIGKILL, and from there until it is dead
}

var usual = limits{
	ready: 30 * time.Second, retry: 50 * time.Millisecond, retries: 6, steady: time.Minute,
	handover: 200 * time.Millisecond, drain: 10 * time.Second, term: 2 * time.Second,
}

// logger is a logging binary at the other end of a process's output. The shim keeps the pipes' read ends: what is in
// them, and who writes to them, outlives a logger that fails, for the next one that is started in its place.
type logger struct {
	*program
	env    []string
	in     [2]*os.File // read ends: descriptors 3 and 4 of the binary
	reaper *reap.Reaper
	log    *slog.Logger
	limits limits

	cancel context.CancelFunc // calls off a restart
	done   chan struct{}      // closed when it has ended and none takes its place

	mu    sync.Mutex
	child *reap.Child
	over  bool // it is being ended
}

// start runs the binary and returns when it is ready. On error it is dead.
func (l *logger) start(ctx context.Context) error {
	child, err := l.run(ctx)
	if err != nil {
		return fmt.Errorf("logger %s: %w", l.path, err)
	}
	l.child, l.done = child, make(chan struct{})
	life, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	go l.supervise(life, time.Now()) // ends with the logger; close waits for it
	return nil
}

// supervise starts the binary again when it has failed with somebody still writing or something left unread.
func (l *logger) supervise(ctx context.Context, started time.Time) {
	defer close(l.done)
	defer l.cancel()
	defer l.closeInputs()
	for failures := 0; ; {
		status, at := l.child.Wait()
		log := l.log.With("logger", l.path, "pid", l.child.PID(), "status", status)
		switch {
		case l.isOver(), status == 0 && l.drained():
			return
		case l.drained():
			log.Warn("logger failed at its end; it had read everything")
			return
		case status == 0: // its own decision, or a child of its goes on
			log.Warn("logger has ended before the container's output; the container cannot write to it any more")
			return
		}
		if at.Sub(started) >= l.limits.steady {
			failures = 0
		}
		for {
			if failures == l.limits.retries {
				log.Error("logger fails again and again: given up; the container cannot write to it any more")
				return
			}
			log.Warn("logger failed; started again: what it had read but not stored is lost", "restart", failures+1)
			select {
			case <-time.After(l.limits.retry << failures):
			case <-ctx.Done():
				return
			}
			failures++
			started = time.Now()
			child, err := l.run(ctx)
			if err == nil {
				l.take(child)
				break
			}
			if ctx.Err() != nil {
				return
			}
			log = l.log.With("logger", l.path, "error", err)
		}
	}
}

// take makes child the running one, or ends it if that is asked for meanwhile.
func (l *logger) take(child *reap.Child) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.child = child
	if l.over {
		_ = child.SignalGroup(syscall.SIGKILL)
	}
}

// run starts the binary once and waits until it is ready. On error it is dead.
func (l *logger) run(ctx context.Context) (child *reap.Child, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.Command(l.path, l.args...)
	cmd.Env = l.env
	cmd.ExtraFiles = []*os.File{l.in[0], l.in[1], w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a signal to the shim's group is not for it
	err = l.reaper.Spawn(func() (err error) {
		if err := cmd.Start(); err != nil {
			return err
		}
		if child, err = l.reaper.Watch(cmd.Process.Pid); err != nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			return err
		}
		return cmd.Process.Release()
	})
	w.Close()
	if err != nil {
		return nil, programError(err)
	}
	if err := l.ready(ctx, r, child); err != nil {
		_ = child.SignalGroup(syscall.SIGKILL)
		<-child.Done()
		return nil, err
	}
	return child, nil
}

// ready waits for what child says at the other end of r: a byte, or with binary:// the end, unless that is its own.
func (l *logger) ready(ctx context.Context, r *os.File, child *reap.Child) error {
	_ = r.SetReadDeadline(time.Now().Add(l.limits.ready))
	stop := context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	n, err := r.Read(make([]byte, 1))
	switch {
	case n == 1:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("not ready after %v: it has to close descriptor 5 when it is: %w", l.limits.ready, errdefs.ErrUnavailable)
	case !errors.Is(err, io.EOF):
		return err
	}
	if exiting(child.PID()) {
		status, _ := child.Wait()
		return fmt.Errorf("ended with status %d before it was ready: %w", status, errdefs.ErrUnavailable)
	}
	if l.strict {
		return fmt.Errorf("closed descriptor 5 without a byte: it has to write one when it is ready (binary:// asks for none): %w", errdefs.ErrUnavailable)
	}
	return nil
}

// exiting tells whether a child, watched or reaped meanwhile, is on its way out: the kernel says so (PF_EXITING in the
// flags of proc(5)'s stat) before it closes the process's descriptors.
func exiting(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // from the state on
	if len(fields) < 7 {
		return true
	}
	flags, err := strconv.ParseUint(fields[6], 10, 32)
	const pfExiting = 0x4
	return err == nil && flags&pfExiting != 0
}

// programError gives a binary that cannot be run the class of a bad request.
func programError(err error) error {
	for _, no := range []syscall.Errno{unix.ENOENT, unix.EACCES, unix.EPERM, unix.ENOEXEC, unix.ENOTDIR, unix.ELOOP, unix.ELIBBAD, unix.EISDIR, unix.E2BIG, unix.ENAMETOOLONG} {
		if errors.Is(err, no) {
			return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	return err
}

// drained tells whether nobody writes any more and all was read. The supervisor alone closes the read ends.
func (l *logger) drained() bool {
	return l.poll(func(e int16) bool { return e&unix.POLLHUP != 0 && e&unix.POLLIN == 0 })
}

// deserted tells whether nobody writes any more.
func (l *logger) deserted() bool { return l.poll(func(e int16) bool { return e&unix.POLLHUP != 0 }) }

func (l *logger) poll(ok func(events int16) bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.in {
		if f == nil {
			continue
		}
		p := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
		if _, err := unix.Poll(p, 0); err != nil || !ok(p[0].Revents) {
			return false
		}
	}
	return true
}

func (l *logger) closeInputs() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.in {
		closeFile(&l.in[i])
	}
}

func (l *logger) isOver() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.over
}

// close waits for the logger's end, bounded, and helps it along. The shim's own write ends are closed. If somebody else
// goes on writing, such as a process that an exec has left in the container, the logger stays until they are done.
func (l *logger) close() {
	if ends(l.done, l.limits.handover) || !l.deserted() || ends(l.done, l.limits.drain) {
		return
	}
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		l.log.Warn("logger does not end after the container's output has", "logger", l.path, "signal", sig)
		l.end(sig)
		if ends(l.done, l.limits.term) {
			return
		}
	}
}

// kill ends a logger that nobody has written to.
func (l *logger) kill() {
	if l.done == nil { // never started
		l.closeInputs()
		return
	}
	l.end(syscall.SIGKILL)
	ends(l.done, l.limits.term)
}

func (l *logger) end(sig syscall.Signal) {
	l.cancel()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	_ = l.child.SignalGroup(sig)
}

func ends(done <-chan struct{}, within time.Duration) bool {
	t := time.NewTimer(within)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
	}
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// pipe is a pipe in blocking mode: the process gets one end, the logger the other, and the poller neither.
func pipe() (r, w *os.File, err error) {
	var fd [2]int
	if err := unix.Pipe2(fd[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe", err)
	}
	return os.NewFile(uintptr(fd[0]), "logger's end"), os.NewFile(uintptr(fd[1]), "pipe to a logger"), nil
}
