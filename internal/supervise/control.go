package supervise

import (
	"context"
	"slices"

	"github.com/shimwright/shimwright/task"
	"google.golang.org/protobuf/proto"
)

// The optional parts of a task: each is asked for by type assertion.

// Pause freezes a task.
func (s *Supervisor) Pause(ctx context.Context, id string) error {
	t, err := s.task(id)
	if err != nil {
		return err
	}
	impl, ok := t.impl.(task.Pauser)
	if !ok {
		return notImplemented("pause")
	}
	return t.init.change(ctx, task.OpPause, impl.Pause)
}

// Resume thaws a task.
func (s *Supervisor) Resume(ctx context.Context, id string) error {
	t, err := s.task(id)
	if err != nil {
		return err
	}
	impl, ok := t.impl.(task.Pauser)
	if !ok {
		return notImplemented("resume")
	}
	return t.init.change(ctx, task.OpResume, impl.Resume)
}

// Update changes a task's limits.
func (s *Supervisor) Update(ctx context.Context, id string, r *task.UpdateRequest) error {
	t, err := s.task(id)
	if err != nil {
		return err
	}
	impl, ok := t.impl.(task.Updater)
	if !ok {
		return notImplemented("update")
	}
	return t.init.change(ctx, task.OpUpdate, func(ctx context.Context) error { return impl.Update(ctx, r) })
}

// Checkpoint writes a task to disk.
func (s *Supervisor) Checkpoint(ctx context.Context, id string, r *task.CheckpointRequest) error {
	t, err := s.task(id)
	if err != nil {
		return err
	}
	impl, ok := t.impl.(task.Checkpointer)
	if !ok {
		return notImplemented("checkpoint")
	}
	return t.init.change(ctx, task.OpCheckpoint, func(ctx context.Context) error { return impl.Checkpoint(ctx, r) })
}

// Stats measures a task. It does not wait for other operations.
func (s *Supervisor) Stats(ctx context.Context, id string) (proto.Message, error) {
	t, err := s.task(id)
	if err != nil {
		return nil, err
	}
	impl, ok := t.impl.(task.Stater)
	if !ok {
		return nil, notImplemented("measure")
	}
	if _, err := t.init.check(task.OpStats); err != nil {
		return nil, err
	}
	return impl.Stats(ctx)
}

// PID is a process of a task, and the exec that it is the first process of, if it is one.
type PID struct {
	PID    int
	ExecID string
}

// PIDs lists a task's processes. It does not wait for other operations. The first process is in the list until the task
// is deleted, as one that nobody has waited for is in that of ps: daemons take a task without pids for one that never was.
func (s *Supervisor) PIDs(ctx context.Context, id string) ([]PID, error) {
	t, err := s.task(id)
	if err != nil {
		return nil, err
	}
	if _, err := t.init.check(task.OpPids); err != nil {
		return nil, err
	}
	known := map[int]string{t.init.PID(): ""}
	t.mu.Lock()
	for p := range t.live {
		known[p.PID()] = p.execID
	}
	t.mu.Unlock()
	delete(known, 0)
	var pids []int
	if impl, ok := t.impl.(task.Lister); ok {
		if pids, err = impl.PIDs(ctx); err != nil {
			return nil, err
		}
	} else {
		for pid := range known {
			pids = append(pids, pid)
		}
	}
	if init := t.init.PID(); init != 0 && !slices.Contains(pids, init) {
		pids = append(pids, init)
	}
	all := make([]PID, len(pids))
	for i, pid := range pids {
		all[i] = PID{pid, known[pid]}
	}
	return all, nil
}
