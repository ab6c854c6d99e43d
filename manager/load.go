package manager

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/shimwright/shimwright/internal/bootstrap"
	"github.com/shimwright/shimwright/internal/bundle"
	"github.com/shimwright/shimwright/internal/socket"
)

// Loaded is what Load found of one container: either Shim, Exit or Err is set.
type Loaded struct {
	ID, Namespace string

	Shim *Shim // the shim answers and knows the container
	Exit *Exit // the shim was dead, or had no task: nothing is left of the container, and so it ended
	Err  error // it could not be found out, or the cleaning up went wrong; the bundle is still there
}

// atOnce is how many shims are asked, and how many dead ones cleaned up after, at the same time.
const atOnce = 64

// Load finds the shims of all bundles under Config.State, except those that this manager has already. It connects to
// those that answer and cleans up after the dead ones: those on whose socket nobody listens. A torn file of a bundle
// is no sign of death. Each shim has Config.LoadTimeout to answer, and none waits for another. The result is in order
// of namespace and id; the error is that of reading State itself.
func (m *Manager) Load(ctx context.Context) ([]Loaded, error) {
	bundles, err := m.bundles()
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	var (
		all   sync.WaitGroup
		slots = make(chan struct{}, atOnce)
		mu    sync.Mutex
		found []Loaded
	)
	for _, dir := range bundles {
		if !m.claim(dir, nil) {
			continue
		}
		all.Go(func() {
			defer m.release(dir)
			slots <- struct{}{}
			defer func() { <-slots }()
			l := m.load(ctx, dir)
			mu.Lock()
			defer mu.Unlock()
			found = append(found, l)
		})
	}
	all.Wait()
	m.sweep()
	slices.SortFunc(found, func(a, b Loaded) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.ID, b.ID))
	})
	return found, nil
}

// bundles are the directories that makeBundle makes, without what is hidden.
func (m *Manager) bundles() (dirs []string, err error) {
	top := filepath.Join(m.config.State, tasksDir)
	namespaces, err := os.ReadDir(top)
	if err != nil {
		return nil, err
	}
	for _, namespace := range namespaces {
		if !namespace.IsDir() || bundle.CheckID(namespace.Name()) != nil {
			continue
		}
		ids, err := os.ReadDir(filepath.Join(top, namespace.Name()))
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			if id.IsDir() && bundle.CheckID(id.Name()) == nil {
				dirs = append(dirs, m.bundle(namespace.Name(), id.Name()))
			}
		}
	}
	return dirs, nil
}

func (m *Manager) load(ctx context.Context, dir string) Loaded {
	s := &Shim{manager: m, id: filepath.Base(dir), namespace: filepath.Base(filepath.Dir(dir)), bundle: dir}
	l := Loaded{ID: s.id, Namespace: s.namespace}
	binary, err := os.ReadFile(filepath.Join(dir, bundle.ShimBinaryFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.Err = err
		return l
	}
	s.binary = string(binary)

	alive, err := m.reconnect(ctx, s)
	switch {
	case err != nil:
		l.Err = fmt.Errorf("load %s: %w", s.id, err)
	case alive:
		l.Shim = s
	default:
		ctx, cancel := context.WithTimeout(ctx, cleanupTimeout)
		defer cancel()
		if l.Exit, err = m.bury(ctx, s); err != nil {
			l.Err = fmt.Errorf("clean up after the dead shim of %s: %w", s.id, err)
		}
	}
	return l
}

// reconnect connects s to its shim if that knows the container. An error: it cannot be told.
func (m *Manager) reconnect(ctx context.Context, s *Shim) (alive bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, m.config.LoadTimeout)
	defer cancel()
	err = m.reach(ctx, s)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	_, err = s.task.State(ctx, &taskapi.StateRequest{ID: s.id})
	if err == nil || errdefs.IsNotFound(err) && isSandbox(s.bundle) {
		return true, nil
	}
	if errdefs.IsNotFound(err) {
		err = m.shutdown(ctx, s)
	}
	s.Close()
	return false, err
}

// isSandbox tells whether the shim may be alive and well without a task: its container has no process to run.
func isSandbox(dir string) bool {
	spec, err := bundle.ReadSpec(dir)
	return err != nil || spec == nil || spec.Process == nil
}

// reach connects s to whoever listens for it. ErrNotFound: nobody does.
func (m *Manager) reach(ctx context.Context, s *Shim) error {
	const tries, pause = 20, 50 * time.Millisecond
	for i := 1; ; i++ {
		err := m.tryReach(ctx, s)
		if !errdefs.IsUnavailable(err) || i == tries {
			return err
		}
		// A shim that is being killed loses one connection after another, its socket not first.
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *Manager) tryReach(ctx context.Context, s *Shim) (err error) {
	if s.log, err = m.openLog(s); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			s.log.Close()
		}
	}()
	for _, reply := range m.replies(s) {
		if err := m.connect(ctx, s, reply); !errdefs.IsNotFound(err) {
			return err
		}
	}
	return fmt.Errorf("no shim listens: %w", errdefs.ErrNotFound)
}

// replies are what the shim's start may have answered: as it was noted, as the shim has noted it, and as it should be.
// Any file may be missing or torn.
func (m *Manager) replies(s *Shim) (replies []*bootapi.BootstrapResult) {
	add := func(address string) {
		known := func(r *bootapi.BootstrapResult) bool { return r.Address == address }
		if !slices.ContainsFunc(replies, known) {
			replies = append(replies, &bootapi.BootstrapResult{Version: 3, Address: address, Protocol: "ttrpc"})
		}
	}
	if data, err := os.ReadFile(filepath.Join(s.bundle, bundle.BootstrapFile)); err == nil {
		if reply, err := bootstrap.ParseReply(data); err == nil {
			replies = append(replies, reply)
		}
	}
	if address, err := bundle.ReadAddress(s.bundle); err == nil {
		add(address)
	}
	group := cmp.Or(bundle.Group(s.bundle), s.id)
	dir := cmp.Or(m.config.SocketDir, socket.DefaultDir)
	if address, err := socket.Address(dir, m.events.address(), s.namespace, group); err == nil {
		add(address)
	}
	return replies
}

// bury cleans up after a shim that is dead.
func (m *Manager) bury(ctx context.Context, s *Shim) (*Exit, error) {
	if s.binary != "" {
		exit, err := m.discard(ctx, s.binary, s.bundle)
		if err != nil {
			return nil, err
		}
		return &exit, nil
	}
	// The binary's path is the first thing written. Without it nothing was started, unless somebody removed it.
	for _, name := range []string{bundle.BootstrapFile, bundle.AddressFile} {
		if !missing(filepath.Join(s.bundle, name)) {
			return nil, fmt.Errorf("%s is missing: put the path of the shim's binary there: %w",
				filepath.Join(s.bundle, bundle.ShimBinaryFile), errdefs.ErrFailedPrecondition)
		}
	}
	return &Exit{Status: 137, At: time.Now()}, removeBundle(s.bundle)
}

// sweep removes what removals that were cut short have left hidden, and work directories without a bundle, which a
// reboot leaves.
func (m *Manager) sweep() {
	for _, top := range []string{m.config.State, m.config.Root} {
		dirs, _ := filepath.Glob(filepath.Join(top, tasksDir, "*", "*"))
		for _, dir := range dirs {
			id, hidden := strings.CutPrefix(filepath.Base(dir), ".")
			if top == m.config.State && !hidden {
				continue
			}
			// A root file system is gone before its bundle is hidden: nothing is mounted here.
			if missing(m.bundle(filepath.Base(filepath.Dir(dir)), id)) && missing(filepath.Join(dir, bundle.RootfsDir)) {
				if err := os.RemoveAll(dir); err != nil {
					m.config.Log.Warn("remove what is left", "path", dir, "err", err)
				}
			}
		}
	}
}

func missing(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}
