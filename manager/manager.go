// Package manager starts shims from bundles and finds them again. It is what a daemon needs between "run this spec"
// and the shim v2 protocol, and works with every shim that speaks it, containerd's own among them.
//
// A [Manager] owns two directory trees: bundles are <State>/tasks/<namespace>/<id>, on a file system that a reboot
// empties, and the containers' work directories <Root>/tasks/<namespace>/<id>. Modes and contents are containerd's.
// Containers do not depend on the manager: it may end at any time, and a new one's [Manager.Load] finds what the old
// one has left.
package manager

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/shimwright/shimwright/internal/bootstrap"
)

// Config says where a manager keeps things and how it speaks. State and Root are required.
type Config struct {
	State string // bundles and the socket for events; absolute, at most 94 bytes, as a rule below /run
	Root  string // the containers' work directories; absolute, as a rule below /var/lib

	// SocketDir is where shims make their sockets, at most 42 bytes: empty for the shim's default, as a rule
	// /run/containerd/s. Only the dialect of 2.3 carries it.
	SocketDir string

	Dialect Dialect      // how shims are told to start; the zero value is today's
	Env     []string     // more of the shims' environment, as KEY=value
	Log     *slog.Logger // gets the shims' logs and what goes wrong in the background; nil: nobody does

	// LoadTimeout bounds each shim's answer to Load; 0: 5 s, as containerd has it.
	LoadTimeout time.Duration
}

// Dialect is the form of a shim's start command, named after the containerd that introduced it.
type Dialect int

// The dialects. A shim may know only some of them.
const (
	Containerd23 Dialect = iota // BootstrapParams on stdin, BootstrapResult on stdout
	Containerd17                // runtime options on stdin, JSON on stdout
	Containerd16                // runtime options on stdin, an address on stdout
)

func (d Dialect) bootstrap() bootstrap.Dialect {
	switch d {
	case Containerd17:
		return bootstrap.JSON
	case Containerd16:
		return bootstrap.Bare
	default:
		return bootstrap.Protobuf
	}
}

// A Manager starts shims and keeps connections to them.
type Manager struct {
	config Config
	self   string // this program, which old daemons name as the one to publish events with
	events *eventServer

	mu    sync.Mutex
	shims map[string]*Shim    // the open ones, by bundle
	busy  map[string]struct{} // bundles that are being made, loaded or removed
}

const tasksDir = "tasks"

// New makes the directories of c and begins to listen for events; [Manager.Close] ends that.
// ErrAlreadyExists: another manager runs on c.State.
func New(c Config) (*Manager, error) {
	for name, dir := range map[string]string{"State": c.State, "Root": c.Root} {
		if !filepath.IsAbs(dir) {
			return nil, fmt.Errorf("manager: %s %q is not an absolute path: %w", name, dir, errdefs.ErrInvalidArgument)
		}
		if err := mkdirAll(filepath.Join(dir, tasksDir)); err != nil {
			return nil, fmt.Errorf("manager: %w", err)
		}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.LoadTimeout == 0 {
		c.LoadTimeout = 5 * time.Second
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("manager: %w", err)
	}
	events, err := serveEvents(filepath.Join(c.State, "events.sock"), c.Log)
	if err != nil {
		return nil, fmt.Errorf("manager: %w", err)
	}
	return &Manager{
		config: c,
		self:   self,
		events: events,
		shims:  make(map[string]*Shim),
		busy:   make(map[string]struct{}),
	}, nil
}

// Events gives every event of every shim, each shim's in order. A shim's event counts as delivered when it is taken
// from the channel, so somebody must read it: meanwhile shims keep their events back, and some end no sooner than they
// are rid of them. An event may come twice if a connection breaks. The channel is closed by Close.
func (m *Manager) Events() <-chan Event { return m.events.out }

// Close drops all connections and stops listening. Shims, containers and bundles stay.
func (m *Manager) Close() error {
	m.mu.Lock()
	open := slices.Collect(maps.Values(m.shims))
	m.mu.Unlock()

	var errs []error
	for _, s := range open {
		errs = append(errs, s.Close())
	}
	return errors.Join(append(errs, m.events.Close())...)
}

// claim reserves a bundle for one operation, until release. It is false while there is another operation, or a Shim
// other than s.
func (m *Manager) claim(dir string, s *Shim) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, busy := m.busy[dir]
	if open := m.shims[dir]; busy || open != nil && open != s {
		return false
	}
	m.busy[dir] = struct{}{}
	return true
}

func (m *Manager) release(dir string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.busy, dir)
}

func (m *Manager) add(s *Shim) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.shims[s.bundle] = s
}

func (m *Manager) remove(s *Shim) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.shims[s.bundle] == s {
		delete(m.shims, s.bundle)
	}
}

// retire notes that s has no task any more, and tells whether no other container is in the same shim process.
func (m *Manager) retire(s *Shim) (last bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.retired = true
	for _, other := range m.shims {
		if !other.retired && other.address == s.address {
			return false
		}
	}
	return true
}
