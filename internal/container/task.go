package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/shimwright/shimwright/internal/cgroup"
	"github.com/shimwright/shimwright/internal/reap"
	"github.com/shimwright/shimwright/task"
)

// patience is how long killed processes are waited for: the kernel may have to write a core or finish a disk's work.
const patience = 10 * time.Second

// Task is a container and its init. All fields but struck are set by create.
type Task struct {
	engine  *Engine
	id      string
	bundle  string
	states  string       // the directory of the namespace's states
	group   cgroup.Group // where it runs
	private bool         // it has a pid namespace of its own, which ends with its init
	child   *reap.Child  // the init
	hooks   startHooks
	program Program // what it runs
	loaded  bool    // the program waits for its start only
	ooms    *cgroup.OOMWatch
	struck  atomic.Bool // somebody sent SIGKILL

	uid, gid int // the owner of its processes' streams, if the options name one
}

// own gives a process's streams the owner that the options name. As with runc's callers 0 and 0 name none.
func (t *Task) own(io *task.IO) error {
	if t.uid == 0 && t.gid == 0 {
		return nil
	}
	return io.Chown(t.uid, t.gid)
}

// state is the directory of the container's state.
func (t *Task) state() string { return filepath.Join(t.states, t.id) }

// PID is the init's process id.
func (t *Task) PID() int { return t.child.PID() }

// Start lets the init, which waits at a FIFO, run the user's program, and then the poststart hooks. The container is
// killed if a hook fails, or if all this is not done when ctx ends.
//
// It is done here rather than by libcontainer, whose way leaves a goroutine in open(2) if the init dies meanwhile.
func (t *Task) Start(ctx context.Context) error {
	init, _ := program(t.PID()) // of a dead one nothing is known, nor will it be started
	err := t.start(ctx)
	started := err == nil
	if started {
		err = t.runHooks(ctx, init)
	}
	if err == nil {
		return nil
	}
	if (started || ctx.Err() != nil) && t.child.Signal(syscall.SIGKILL) == nil {
		t.group.Thaw()
	}
	return fmt.Errorf("OCI runtime start failed: %w", err)
}

func (t *Task) start(ctx context.Context) error {
	if !t.loaded {
		if err := t.load(ctx); err != nil {
			return err
		}
	}
	return t.program.Start()
}

// load lets the init execute what the container is to run, and waits until that is ready.
func (t *Task) load(ctx context.Context) error {
	if err := t.execute(ctx); err != nil {
		return err
	}
	t.loaded = true
	return t.program.Load(ctx)
}

// execute lets the init, which waits at a FIFO, go on.
func (t *Task) execute(ctx context.Context) error {
	select {
	case <-t.child.Done():
		return fmt.Errorf("cannot start a container that has stopped: %w", errdefs.ErrFailedPrecondition)
	default:
	}
	path := filepath.Join(t.states, t.id, "exec.fifo")
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot start an already running container: %w", errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return err
	}
	defer f.Close()

	over := make(chan struct{})
	defer close(over)
	go func() { // ends with this call
		select {
		case <-t.child.Done():
		case <-ctx.Done():
		case <-over:
			return
		}
		_ = f.SetReadDeadline(time.Unix(1, 0))
	}()
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var n int
	token := func(fd uintptr) bool { // 0 bytes: nobody has opened it for writing yet
		n, _ = unix.Read(int(fd), make([]byte, 1))
		return n > 0
	}
	if conn.Read(token) != nil {
		_ = conn.Control(func(fd uintptr) { token(fd) }) // it may have been written last
	}
	switch {
	case n > 0:
		_ = os.Remove(path) // tells a running container from a created one
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	default:
		return fmt.Errorf("container process is already dead: %w", errdefs.ErrFailedPrecondition)
	}
}

// Kill signals the init, or with all everything in the container. SIGKILL reaches a paused container too, and thaws it.
func (t *Task) Kill(_ context.Context, sig syscall.Signal, all bool) error {
	ends := sig == syscall.SIGKILL
	if ends {
		t.struck.Store(true)
	}
	if all && !(ends && t.private) {
		n, err := t.group.Signal(sig)
		if ends && t.child.Signal(sig) == nil { // it may have been moved elsewhere
			n++
		}
		if err == nil && n == 0 {
			return fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
		}
		return err
	}
	err := t.child.Signal(sig)
	if err == nil && ends {
		t.group.Thaw()
	}
	return err
}

// Wait blocks until the init has ended. A container without a pid namespace of its own ends with it: what else runs in
// it is killed.
func (t *Task) Wait() task.Exit {
	status, at := t.child.Wait()
	status = t.program.Status(status)
	t.program.Close()
	if !t.private {
		if _, err := t.group.Signal(syscall.SIGKILL); err != nil {
			t.engine.log.Error("end the container with its init", "id", t.id, "err", err)
		}
	}
	return task.Exit{Status: status, At: at, OOM: t.ooms.Exited(t.shot(status))}
}

// shot tells whether status is that of a SIGKILL which the shim did not send.
func (t *Task) shot(status int) bool {
	return status == 128+int(syscall.SIGKILL) && !t.struck.Load()
}

// WatchOOM makes tell be called for what the OOM killer does in the container.
func (t *Task) WatchOOM(tell func()) error { return t.ooms.Watch(tell) }

// PIDs are all processes of the container.
func (t *Task) PIDs(context.Context) ([]int, error) { return t.group.PIDs() }

// Stats are the container's figures as containerd's cgroup metrics.
func (t *Task) Stats(context.Context) (proto.Message, error) { return t.group.Stats() }

// Pause freezes the container, running or created.
func (t *Task) Pause(context.Context) error {
	c, err := load(t.states, t.id)
	if err == nil {
		err = classify(guard(c.Pause))
	}
	if err != nil {
		return fmt.Errorf("OCI runtime pause failed: %w", err)
	}
	return nil
}

// Resume thaws the container.
func (t *Task) Resume(context.Context) error {
	c, err := load(t.states, t.id)
	if err == nil {
		err = classify(guard(c.Resume))
	}
	if err != nil {
		return fmt.Errorf("OCI runtime resume failed: %w", err)
	}
	return nil
}
