package manager

import (
	"context"
	"fmt"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
)

const (
	// cleanupTimeout bounds what has to happen even though its caller has gone.
	cleanupTimeout = 30 * time.Second

	// shutdownTimeout is how long a shim may take to end after a Shutdown. It has events to deliver.
	shutdownTimeout = 10 * time.Second
)

// Exit is how a container ended.
type Exit struct {
	PID    int       // of its first process; 0: there was none, or nobody knows
	Status int       // the exit code, or 128+n if signal n ended it; 137 also if nobody knows
	At     time.Time // when it was seen dead
}

func exitOf(r *taskapi.DeleteResponse) Exit {
	return Exit{PID: int(r.Pid), Status: int(r.ExitStatus), At: r.ExitedAt.AsTime()}
}

// Delete removes the task of s, if there is one, the shim, if no other container is in it, and the bundle. The task has
// ended or was never started, or the shim is dead; then everything that is left of the container is killed.
// ErrFailedPrecondition: the task is running. After an error it may be called again; repeated or in parallel it has
// one result.
func (m *Manager) Delete(ctx context.Context, s *Shim) (_ Exit, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("delete %s: %w", s.id, err)
		}
	}()
	s.deleting.Lock()
	defer s.deleting.Unlock()
	if s.deleted {
		return *s.exit, nil
	}
	if !m.claim(s.bundle, s) {
		return Exit{}, fmt.Errorf("it was loaded again: %w", errdefs.ErrFailedPrecondition)
	}
	defer m.release(s.bundle)
	return m.delete(ctx, s)
}

// delete is Delete, with the bundle claimed and s.deleting held.
func (m *Manager) delete(ctx context.Context, s *Shim) (Exit, error) {
	err := m.end(ctx, s)
	for tries := 0; errdefs.IsUnavailable(err) && tries < 3; tries++ { // the connection broke; did the shim end?
		select {
		case <-s.done:
			err = m.end(ctx, s)
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return Exit{}, err
	}
	s.Close()
	exit, err := m.discard(ctx, s.binary, s.bundle)
	if err != nil {
		return Exit{}, err
	}
	if s.exit == nil { // the shim was not there to tell
		s.exit = &exit
	}
	s.deleted = true
	return *s.exit, nil
}

// end deletes the task and sets s.exit, if there was one, and shuts the shim down. ErrNotFound: the shim is dead.
func (m *Manager) end(ctx context.Context, s *Shim) error {
	open := s
	select {
	case <-s.done:
		open = &Shim{manager: m, id: s.id, namespace: s.namespace, bundle: s.bundle, binary: s.binary}
		if err := m.reach(ctx, open); err != nil {
			return err
		}
		defer open.Close()
	default:
	}
	r, err := open.task.Delete(ctx, &taskapi.DeleteRequest{ID: s.id})
	switch {
	case err == nil:
		exit := exitOf(r)
		s.exit = &exit
	case !errdefs.IsNotFound(err): // none, or deleted before
		return err
	}
	return m.shutdown(ctx, open)
}

// shutdown tells the shim to end if it has no other container, and waits until it has. One that stays although it
// should not is left to the binary's delete.
func (m *Manager) shutdown(ctx context.Context, s *Shim) error {
	last := m.retire(s)
	_, err := s.task.Shutdown(ctx, &taskapi.ShutdownRequest{ID: s.id})
	if err != nil && !errdefs.IsUnavailable(err) && !errdefs.IsNotFound(err) {
		return fmt.Errorf("shut down the shim: %w", err)
	}
	if !last {
		return nil
	}
	_ = s.client.Close() // a shim ends when its callers have hung up
	wait, cancel := context.WithTimeout(ctx, shutdownTimeout)
	defer cancel()
	select {
	case <-s.done:
		err = s.process.ended(wait)
	case <-wait.Done():
		err = wait.Err()
	}
	if err != nil && ctx.Err() == nil {
		m.config.Log.Warn("the shim stays after its shutdown", "namespace", s.namespace, "id", s.id, "pid", s.PID(), "err", err)
	}
	return ctx.Err()
}

// discard runs the binary's delete and removes the bundle.
func (m *Manager) discard(ctx context.Context, binary, dir string) (Exit, error) {
	exit, err := m.runDelete(ctx, binary, dir)
	if err != nil {
		return Exit{}, err
	}
	return exit, removeBundle(dir)
}
