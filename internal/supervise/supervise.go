// Package supervise holds a shim's tasks: their states, the order of what happens to them, and the events of it.
//
// It is the only place that knows whether something may happen now (by the table of package task), and the only one
// that decides in which order it is told. A runtime never publishes; what reaches the daemon comes from here.
package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"syscall"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/shimwright/shimwright/internal/reap"
	"github.com/shimwright/shimwright/internal/stdio"
	"github.com/shimwright/shimwright/task"
	"google.golang.org/protobuf/types/known/anypb"
)

// Config is what a Supervisor works with.
type Config struct {
	Runtime   task.Runtime
	Namespace string
	Publish   func(topic string, event any) // must not wait
	Reaper    *reap.Reaper                  // watches loggers; nil: one of its own
	Log       *slog.Logger
}

// Supervisor holds the tasks of one shim.
type Supervisor struct {
	cfg     Config
	streams stdio.Opener

	mu      sync.Mutex
	tasks   map[string]*Task
	gone    graveyard
	closing bool
}

// New returns a Supervisor without tasks.
func New(cfg Config) *Supervisor {
	if cfg.Reaper == nil {
		cfg.Reaper = reap.New()
	}
	return &Supervisor{
		cfg: cfg, tasks: make(map[string]*Task),
		streams: stdio.Opener{Namespace: cfg.Namespace, Reaper: cfg.Reaper, Log: cfg.Log},
	}
}

// Status is what is known of a process at one moment.
type Status struct {
	ID, ExecID string // ExecID is empty for the task's first process
	Bundle     string
	Stdio      stdio.Config
	State      task.State
	PID        int // 0 before there is a process
	Exit       task.Exit
}

// CreateRequest asks for a task. Mounts go to Bundle/rootfs.
type CreateRequest struct {
	ID, Bundle                   string
	Mounts                       []*types.Mount
	Stdio                        stdio.Config
	Checkpoint, ParentCheckpoint string
	Options                      *anypb.Any
}

// Create makes a task and returns the id of its process. It goes on when ctx ends; what ends it is a Kill or Delete of
// the task. On error nothing of the task is left. ErrAlreadyExists: there is one of that id.
func (s *Supervisor) Create(ctx context.Context, r *CreateRequest) (pid int, err error) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	t := &Task{ID: r.ID, Bundle: r.Bundle, sup: s, cancel: cancel, made: make(chan struct{}), execs: make(map[string]*process), live: make(map[*process]bool)}
	if err := s.reserve(t); err != nil {
		return 0, err
	}
	defer close(t.made)
	defer s.release(t) // unless it was admitted; also when the runtime panics
	init, err := t.create(ctx, r)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		return 0, err
	}
	return init.PID(), nil
}

// admit makes a task visible, unless somebody has given it up meanwhile.
func (s *Supervisor) admit(ctx context.Context, t *Task, init *process) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	t.init = init
	return nil
}

func (s *Supervisor) reserve(t *Task) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return fmt.Errorf("the shim is shutting down: %w", errdefs.ErrUnavailable)
	}
	if _, ok := s.tasks[t.ID]; ok {
		return fmt.Errorf("task %s: %w", t.ID, errdefs.ErrAlreadyExists)
	}
	s.tasks[t.ID] = t
	s.gone.forget(t.ID)
	return nil
}

// release drops a task whose Create has failed.
func (s *Supervisor) release(t *Task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.init == nil && s.tasks[t.ID] == t {
		delete(s.tasks, t.ID)
	}
}

// task returns a task that exists, that is: whose Create has succeeded.
func (s *Supervisor) task(id string) (*Task, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.tasks[id]; t != nil && t.init != nil {
		return t, nil
	}
	return nil, fmt.Errorf("task %s: %w", id, errdefs.ErrNotFound)
}

func (s *Supervisor) process(id, execID string) (*process, error) {
	t, err := s.task(id)
	if err != nil {
		return nil, err
	}
	return t.process(execID)
}

// giveUp ends the Create of task id, if there is one under way, and returns the task.
func (s *Supervisor) giveUp(id string) *Task {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.tasks[id]; t != nil && t.init == nil {
		t.cancel(errKilled)
		return t
	}
	return nil
}

// Start runs the task's program, or that of an exec.
func (s *Supervisor) Start(ctx context.Context, id, execID string) (pid int, err error) {
	p, err := s.process(id, execID)
	if err != nil {
		return 0, err
	}
	return p.start(ctx)
}

// Exec registers a further process.
func (s *Supervisor) Exec(ctx context.Context, id string, r *ExecRequest) error {
	t, err := s.task(id)
	if err != nil {
		return err
	}
	return t.exec(ctx, r)
}

// Kill signals a process, or with all everything in the container. It does not wait for other operations. A Create that is under
// way is given up by SIGKILL and SIGTERM.
func (s *Supervisor) Kill(ctx context.Context, id, execID string, sig syscall.Signal, all bool) error {
	if execID == "" && (sig == syscall.SIGKILL || sig == syscall.SIGTERM) && s.giveUp(id) != nil {
		return nil
	}
	p, err := s.process(id, execID)
	if err != nil {
		return err
	}
	return p.kill(ctx, sig, all)
}

var errKilled = fmt.Errorf("killed while being created: %w", errdefs.ErrAborted)

// Delete frees a task or an exec. Asked again, or by many at once, it gives the same answer.
func (s *Supervisor) Delete(ctx context.Context, id, execID string) (Status, error) {
	if execID == "" {
		if t := s.giveUp(id); t != nil {
			select {
			case <-t.made:
			case <-ctx.Done():
				return Status{}, context.Cause(ctx)
			}
		}
	}
	p, err := s.process(id, execID)
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if st, ok := s.gone.find(id, execID); ok {
			return st, nil
		}
		return Status{}, err
	}
	return p.remove(ctx)
}

// State does not wait for anything. A running exec of a paused task is paused.
func (s *Supervisor) State(id, execID string) (Status, error) {
	t, err := s.task(id)
	if err != nil {
		return Status{}, err
	}
	p, err := t.process(execID)
	if err != nil {
		return Status{}, err
	}
	st := p.status()
	if execID != "" && st.State == task.Running && t.init.status().State == task.Paused {
		st.State = task.Paused
	}
	return st, nil
}

// Wait returns how a process ended, once it has, also when it is deleted meanwhile.
func (s *Supervisor) Wait(ctx context.Context, id, execID string) (task.Exit, error) {
	p, err := s.process(id, execID)
	if err != nil {
		return task.Exit{}, err
	}
	select {
	case <-p.settled:
		return p.status().Exit, nil
	case <-ctx.Done():
		return task.Exit{}, context.Cause(ctx)
	}
}

// CloseStdin gives a process the end of its stdin.
func (s *Supervisor) CloseStdin(id, execID string) error {
	p, err := s.process(id, execID)
	if err != nil {
		return err
	}
	p.streams.CloseStdin()
	return nil
}

// Resize sets the size of a process's terminal. Without one it does nothing.
func (s *Supervisor) Resize(id, execID string, width, height uint16) error {
	p, err := s.process(id, execID)
	if err != nil {
		return err
	}
	return p.streams.Resize(width, height)
}

// Close refuses new tasks from now on and reports true, if there is no task or now is set. Else it does nothing.
func (s *Supervisor) Close(now bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.tasks) > 0 && !now {
		return false
	}
	s.closing = true
	return true
}

// Closing tells whether Close has reported true.
func (s *Supervisor) Closing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

// Len is the number of tasks, those being created included.
func (s *Supervisor) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.tasks)
}
