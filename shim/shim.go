package shim

import (
	"context"
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	"github.com/shimwright/shimwright/internal/reap"
	"github.com/shimwright/shimwright/task"
	"google.golang.org/protobuf/types/known/anypb"
)

// InitFunc makes the runtime: in the serving process, and in delete and -info; never in start, which only makes way
// for the serving process. ctx ends with the process's work. What it returns as an error is what the daemon shows.
type InitFunc func(ctx context.Context, env *Env) (task.Runtime, error)

// Env is who the shim is, and what it can use.
type Env struct {
	Name      string // as given to Run, e.g. io.containerd.runc.v2
	ID        string // of the container that the shim was started for; it may serve others too
	Namespace string
	Bundle    string // of container ID; empty in -info
	Address   string // the daemon's gRPC socket, a path
	Events    string // the daemon's ttrpc socket, a path with or without unix://; empty: nobody takes events
	Debug     bool   // the daemon logs at debug level
	Serving   bool   // this is the serving process

	Log    *slog.Logger // reaches the daemon's log; never blocks
	Reaper *reap.Reaper // starts and watches child processes; nil unless Serving

	// Forward publishes an event that came from elsewhere, such as from inside a virtual machine: in order with the
	// shim's own, with the time and namespace that it has. nil unless Serving.
	Forward func(*types.Envelope)
}

// Registrar is a runtime that serves more than the task service on the same listener.
type Registrar interface {
	RegisterTTRPC(*ttrpc.Server) error
}

// Option changes what Run does.
type Option func(*config)

type config struct {
	version, revision string
	interceptors      []ttrpc.UnaryServerInterceptor
	noSubreaper       bool

	beforeStart, afterStart []func(context.Context, *Start) error
}

// WithVersion sets what -v and -info say. The default is what the Go toolchain noted in the binary.
func WithVersion(version, revision string) Option {
	return func(c *config) { c.version, c.revision = version, revision }
}

// WithInterceptor adds an interceptor around every unary method that the shim serves; the first added is the outermost.
// It sees errors as the runtime returned them, before they become status codes.
func WithInterceptor(i ttrpc.UnaryServerInterceptor) Option {
	return func(c *config) { c.interceptors = append(c.interceptors, i) }
}

// WithoutSubreaper leaves orphans among the shim's descendants to the machine's init.
func WithoutSubreaper() Option {
	return func(c *config) { c.noSubreaper = true }
}

// Start is what the start command knows.
type Start struct {
	Env                // as in delete; its Log reaches the daemon's log
	Options *anypb.Any // the runtime's options; nil: none given
	PID     int        // of the serving process; 0 before it was made
}

// WithStartHooks adds to the start command what is to be done before it makes a serving process, and after that is
// ready; either may be nil. Nothing is called if the container's group has a shim already. What before does to its own
// process, such as joining a cgroup, the serving process inherits. An error fails the start, and leaves nothing of it.
func WithStartHooks(before, after func(context.Context, *Start) error) Option {
	return func(c *config) {
		if before != nil {
			c.beforeStart = append(c.beforeStart, before)
		}
		if after != nil {
			c.afterStart = append(c.afterStart, after)
		}
	}
}

// version and revision are set by the linker in this project's own builds.
var version, revision string

// Run is the body of a shim's main: it does what the daemon asked for on the command line and ends the process. name is
// the runtime's name, such as io.containerd.runc.v2. Call it from main's goroutine.
func Run(name string, init InitFunc, opts ...Option) {
	cfg := config{version: version, revision: revision}
	if cfg.version == "" {
		if b, ok := debug.ReadBuildInfo(); ok {
			cfg.version = b.Main.Version
		}
	}
	for _, o := range opts {
		o(&cfg)
	}
	c := &command{name: name, init: init, config: cfg, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv}
	os.Exit(c.main(os.Args))
}
