package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/shimwright/shimwright/internal/engine"
	"github.com/shimwright/shimwright/task"
)

// Task is a container and its init.
type Task struct {
	engine.Container
	engine  *Engine
	id      string
	bundle  string
	hooks   startHooks
	program Program // what it runs
	loaded  bool    // the program waits for its start only
	started bool    // Start was called
	states  string  // the directory of the namespace's states
}

// state is the directory of the container's state.
func (t *Task) state() string { return filepath.Join(t.states, t.id) }

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
	if (started || ctx.Err() != nil) && t.Child.Signal(syscall.SIGKILL) == nil {
		t.Group.Thaw()
	}
	return fmt.Errorf("OCI runtime start failed: %w", err)
}

func (t *Task) start(ctx context.Context) error {
	if t.started {
		return fmt.Errorf("cannot start an already running container: %w", errdefs.ErrFailedPrecondition)
	}
	t.started = true
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
	return t.program.Load(ctx)
}

// execute lets the init, which waits at a FIFO, go on.
func (t *Task) execute(ctx context.Context) error {
	select {
	case <-t.Child.Done():
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
		case <-t.Child.Done():
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

// Wait blocks until the init has ended. A container without a pid namespace of its own ends with it: what else runs in
// it is killed.
func (t *Task) Wait() task.Exit {
	e := t.Container.Wait()
	e.Status = t.program.Status(e.Status)
	t.program.Close()
	return e
}

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
