package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shimwright/shimwright/internal/reap"
)

// Flight is a start in progress. Until it is over nobody knows the new process, and whoever makes it waits for it, its
// helpers and its hooks. All of them are children of the thread that the start runs on, or below those: there they can
// be reached. The kernel lists them in /proc/<pid>/task/<tid>/children.
type Flight struct {
	mu    sync.Mutex
	tid   int           // the thread; 0 before and after
	cause error         // why the start was called off
	over  chan struct{} // closed when the start is over

	ctx    context.Context // ends when the start is called off or over
	cancel context.CancelCauseFunc
}

// NewFlight is a start that has not begun.
func NewFlight() *Flight {
	f := &Flight{over: make(chan struct{})}
	f.ctx, f.cancel = context.WithCancelCause(context.Background())
	return f
}

// Context ends when the start is called off or over.
func (f *Flight) Context() context.Context { return f.ctx }

// Run runs fn, which starts a process, on a thread of its own. When ctx ends it is called off. If fn fails no child of
// the thread is left.
func (f *Flight) Run(ctx context.Context, r *reap.Reaper, fn func() error) error {
	stop := context.AfterFunc(ctx, func() {
		f.CallOff(context.Cause(ctx))
		f.Hunt()
	})
	defer stop()
	defer close(f.over)
	defer f.cancel(nil)
	return r.Spawn(func() error {
		err := f.begin()
		if err == nil {
			err = fn()
		}
		if err != nil {
			sweep(unix.Gettid())
		}
		return f.end(err)
	})
}

func (f *Flight) begin() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tid = unix.Gettid()
	return f.cause
}

func (f *Flight) end(err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tid = 0
	if err != nil && f.cause != nil && !errors.Is(err, f.cause) {
		err = fmt.Errorf("%w: %w", err, f.cause)
	}
	return err
}

// CallOff makes the start fail, unless it is past its last look at CalledOff. It does not wait for that.
func (f *Flight) CallOff(cause error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cause == nil {
		f.cause = cause
	}
	f.cancel(cause)
}

// CalledOff is why the start was called off; nil: it was not.
func (f *Flight) CalledOff() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cause
}

// Over tells whether the start is over.
func (f *Flight) Over() bool {
	select {
	case <-f.over:
		return true
	default:
		return false
	}
}

// Hunt kills what a start that was called off has running, and goes on until it is over, which it then soon is.
func (f *Flight) Hunt() {
	for {
		f.each(killTree)
		select {
		case <-f.over:
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Signal sends sig to what the start has running, and tells whether there was anything.
func (f *Flight) Signal(sig syscall.Signal) (sent bool) {
	f.each(func(parent string, pid int) {
		withChild(parent, pid, func(pidfd int) {
			if unix.PidfdSendSignal(pidfd, sig, nil, 0) == nil {
				sent = true
			}
		})
	})
	return sent
}

// each calls fn with every child of the thread. Meanwhile the thread stays.
func (f *Flight) each(fn func(parent string, pid int)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.tid == 0 {
		return
	}
	parent := childrenOf(os.Getpid(), f.tid)
	for _, pid := range children(parent) {
		fn(parent, pid)
	}
}

// sweep kills and reaps all children of this thread, tid. What has run to its end here was waited for; what a
// failed start may have left are the stages of an init. It gives up after a second, for a child that does not die.
func sweep(tid int) {
	parent := childrenOf(os.Getpid(), tid)
	for range 1000 {
		for _, pid := range children(parent) {
			killTree(parent, pid)
		}
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG|unix.WALL|unix.WNOTHREAD, nil)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return // ECHILD
		}
		if pid == 0 {
			time.Sleep(time.Millisecond)
		}
	}
}

// killTree kills pid, if it is a child of parent, and what it started: stopped first, it cannot start more or lose one.
func killTree(parent string, pid int) {
	withChild(parent, pid, func(pidfd int) {
		_ = unix.PidfdSendSignal(pidfd, unix.SIGSTOP, nil, 0)
		lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
		for _, list := range lists {
			for _, child := range children(list) {
				killTree(list, child)
			}
		}
		_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
	})
}

// withChild calls fn with a pidfd of pid if pid is a child of parent: it is looked up again after the pidfd was opened,
// since a pid may be given to another process at any time.
func withChild(parent string, pid int, fn func(pidfd int)) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if slices.Contains(children(parent), pid) {
		fn(fd)
	}
}

// childrenOf is the file that lists the children of a thread.
func childrenOf(pid, tid int) string { return fmt.Sprintf("/proc/%d/task/%d/children", pid, tid) }

func children(list string) (pids []int) {
	data, _ := os.ReadFile(list) // gone: none
	for field := range strings.FieldsSeq(string(data)) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
