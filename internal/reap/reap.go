// Package reap sees child processes end, without a thread each, and reaps what a child subreaper adopts.
//
// A process that the shim starts is watched: a pidfd on the Go runtime's poller tells its end, the status is looked at
// before the process is reaped, and it is reaped exactly once. Everything else that becomes our child by adoption is
// reaped by a sweep. The two never meet, nor does the sweep take a status from os/exec, because of how Linux places
// children: a child belongs to the thread that made it, an orphan is adopted by the thread group's leader, and a
// thread that ends leaves its children to the leader. The leader is kept for the main goroutine, which starts
// nothing and runs the sweep over its own children only (wait4(2), __WNOTHREAD). Processes that have to be children of
// the leader later – a container's init – are started on a throw-away thread, and watched before it ends. A library may
// also end a thread of the pool, with somebody's os/exec child on it: so the sweep leaves the dead a moment in which
// whoever waits for them finds them.
package reap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// The main goroutine stays on the main thread: only there does the sweep see what was adopted, and nothing else is
// ever started from it. It also keeps that thread from being the one that ends inside a container's mount namespace.
func init() { runtime.LockOSThread() }

// Reaper knows the children that somebody watches.
type Reaper struct {
	mu      sync.Mutex
	watched map[int]*Child
	holds   map[*time.Time]bool // when each hold began
	swept   chan struct{}       // asks for a sweep; capacity 1

	strays map[int]time.Time // the leader's dead children that nobody watches, and when they were first seen; the sweep's own
}

// grace is how long a dead child is left to somebody who may be waiting for it.
const grace = 300 * time.Millisecond

// New returns a Reaper without children. Without Run, watched children work and orphans stay zombies.
func New() *Reaper {
	return &Reaper{watched: make(map[int]*Child), holds: make(map[*time.Time]bool), swept: make(chan struct{}, 1), strays: make(map[int]time.Time)}
}

// Run reaps adopted orphans until ctx ends. It has to be called from the main goroutine.
func (r *Reaper) Run(ctx context.Context) error {
	if unix.Gettid() != unix.Getpid() {
		return errors.New("reap: Run was not called from the main goroutine")
	}
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	defer signal.Stop(died)
	for {
		var later <-chan time.Time
		if r.sweep(time.Now()) {
			later = time.After(grace)
		}
		select {
		case <-died:
		case <-r.swept:
		case <-later:
		case <-ctx.Done():
			return nil
		}
	}
}

// sweep reaps the leader's dead children that nobody watches and nobody has waited for since an earlier sweep. again:
// some were left for a later one.
func (r *Reaper) sweep(now time.Time) (again bool) {
	held, since := r.held()
	seen := r.strays
	r.strays = make(map[int]time.Time)
	for _, pid := range children() {
		r.mu.Lock()
		watched := r.watched[pid] != nil
		r.mu.Unlock()
		var info siginfo
		if watched || waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT|unix.WNOTHREAD) != nil || info.pid() == 0 {
			continue
		}
		first, ok := seen[pid]
		if ok && now.Sub(first) >= grace && !(held && !first.Before(since)) {
			_ = waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOHANG|unix.WNOTHREAD)
			continue
		}
		if !ok {
			first = now
		}
		r.strays[pid] = first
		again = again || !held || first.Before(since) // the end of a hold asks for a sweep
	}
	return again
}

// children lists this thread's children (proc(5), /proc/pid/task/tid/children).
func children() (pids []int) {
	list, _ := os.ReadFile("/proc/thread-self/children")
	for field := range strings.FieldsSeq(string(list)) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// held tells when the first of the holds has begun, if there is one.
func (r *Reaper) held() (held bool, since time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for began := range r.holds {
		if !held || began.Before(since) {
			held, since = true, *began
		}
	}
	return held, since
}

// Hold keeps orphans that are found dead from now on from being reaped until release is called: for a start whose helper
// processes may end up with the leader before whoever waits for them has seen them.
func (r *Reaper) Hold() (release func()) {
	began := new(time.Time)
	*began = time.Now()
	r.mu.Lock()
	r.holds[began] = true
	r.mu.Unlock()
	return sync.OnceFunc(func() {
		r.mu.Lock()
		delete(r.holds, began)
		r.mu.Unlock()
		r.ask()
	})
}

func (r *Reaper) ask() {
	select {
	case r.swept <- struct{}{}:
	default:
	}
}

// Spawn runs fn on a thread of its own, which has its own working directory, root and umask and ends with fn. A
// process that fn leaves running has to be watched before fn returns. A panic in fn is returned as an error.
func (r *Reaper) Spawn(fn func() error) error {
	done := make(chan error, 1)
	go onFreshThread(func() {
		err := errSpawnEnded
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			}
			done <- err
		}()
		if uerr := unix.Unshare(unix.CLONE_FS); uerr != nil {
			err = os.NewSyscallError("unshare", uerr)
			return
		}
		err = fn()
	})
	return <-done
}

var errSpawnEnded = errors.New("the spawning goroutine was ended")

// onFreshThread runs fn on a thread without children and ends that thread. A thread of the Go runtime's pool may have
// started somebody's os/exec child, which the thread's end would hand to the leader and its sweep: such a thread is
// kept busy while another one is looked for, and then given back.
func onFreshThread(fn func()) {
	runtime.LockOSThread()
	if err := waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT|unix.WNOTHREAD); errors.Is(err, unix.ECHILD) {
		fn() // still locked: the thread ends with this goroutine
		return
	}
	found := make(chan struct{})
	go onFreshThread(func() {
		close(found)
		fn()
	})
	<-found
	runtime.UnlockOSThread()
}

// Watch takes charge of our child pid, which nobody may wait for from then on. Call it before the thread that started
// the child ends, or before the child can have been reaped.
func (r *Reaper) Watch(pid int) (*Child, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch process %d: %w", pid, os.NewSyscallError("pidfd_open", err))
	}
	c := &Child{reaper: r, pid: pid, fd: fd, pidfd: os.NewFile(uintptr(fd), "pidfd"), done: make(chan struct{})}
	r.mu.Lock()
	r.watched[pid] = c
	r.mu.Unlock()
	go c.watch()
	return c, nil
}

// Child is a watched process.
type Child struct {
	reaper *Reaper
	pid    int
	done   chan struct{}

	mu    sync.Mutex // guards fd's use against its close
	fd    int        // pidfd's descriptor; -1 when closed. (os.File.Fd would make it blocking.)
	pidfd *os.File

	status int // with at: written before done is closed
	at     time.Time
}

// PID is the child's process id.
func (c *Child) PID() int { return c.pid }

// Done is closed when the child has ended and was reaped.
func (c *Child) Done() <-chan struct{} { return c.done }

// Wait returns how and when the child ended, as often as it is asked: its exit code, or 128+n for signal n.
func (c *Child) Wait() (status int, at time.Time) {
	<-c.done
	return c.status, c.at
}

// Signal sends sig to the child and to no other process. ErrNotFound: it has ended.
func (c *Child) Signal(sig syscall.Signal) error {
	return c.signal(func() error { return os.NewSyscallError("pidfd_send_signal", unix.PidfdSendSignal(c.fd, sig, nil, 0)) })
}

// SignalGroup is Signal to all of the process group that the child leads.
func (c *Child) SignalGroup(sig syscall.Signal) error {
	return c.signal(func() error { return os.NewSyscallError("kill", unix.Kill(-c.pid, sig)) })
}

// signal calls send while the pid is the child's own.
func (c *Child) signal(send func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
	}
	switch err := send(); {
	case err == nil:
		return nil
	case errors.Is(err, unix.ESRCH):
		return fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
	default:
		return fmt.Errorf("signal process %d: %w", c.pid, err)
	}
}

// watch parks on the poller until the child has ended.
func (c *Child) watch() {
	conn, err := c.pidfd.SyscallConn()
	if err == nil {
		err = conn.Read(func(fd uintptr) bool {
			var info siginfo
			err := waitid(unix.P_PIDFD, int(fd), &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT)
			return err != nil || info.pid() != 0
		})
	}
	if err != nil { // no poller for this descriptor: wait the plain way
		_ = waitid(unix.P_PID, c.pid, nil, unix.WEXITED|unix.WNOWAIT)
	}
	c.finish()
}

// finish records how the child ended, reaps it and tells everyone. The child has ended.
func (c *Child) finish() {
	var info siginfo
	c.at = time.Now()
	c.mu.Lock() // from its reaping on the pid may be another's
	if err := waitid(unix.P_PID, c.pid, &info, unix.WEXITED|unix.WNOHANG); err != nil || info.pid() == 0 {
		c.status = 255 // somebody else took the status
	} else {
		c.status = info.exit()
	}
	_ = c.pidfd.Close()
	c.fd = -1
	c.mu.Unlock()
	c.reaper.mu.Lock()
	delete(c.reaper.watched, c.pid)
	c.reaper.mu.Unlock()
	close(c.done)
}
