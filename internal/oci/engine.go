// Package oci runs containers with an OCI runtime's binary: crun, nvidia-container-runtime, a runc of one's own. What
// the option binary_name says is run for each operation that only it can do – create, start, exec, pause, resume, update,
// delete; how processes end, what they use and how they are killed is seen to here.
//
// The binary's containers become children of this process when the binary ends: the shim is a child subreaper. Its state
// is where runc's would be, so `BINARY --root /run/containerd/runc/<namespace> list` works.
package oci

import (
	"fmt"
	"log/slog"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/shimwright/shimwright/internal/engine"
	"github.com/shimwright/shimwright/internal/options"
	"github.com/shimwright/shimwright/internal/reap"
)

// Config is what an Engine works with.
type Config struct {
	Root      string       // of the states, empty: engine.DefaultRoot; the option "root" of a task overrides it
	Namespace string       // the daemon's namespace
	Reaper    *reap.Reaper // nil in a process that starts no container
	Log       *slog.Logger // nil: nothing is logged
}

// Engine makes containers with the binary that a task's options name. It implements task.Runtime, task.Deleter and
// task.Informer.
type Engine struct {
	root, namespace string
	reaper          *reap.Reaper
	log             *slog.Logger
}

// New returns an Engine.
func New(c Config) *Engine {
	e := &Engine{root: c.Root, namespace: c.Namespace, reaper: c.Reaper, log: c.Log}
	if e.root == "" {
		e.root = engine.DefaultRoot
	}
	if e.reaper == nil {
		e.reaper = reap.New()
	}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	return e
}

// states is the directory that holds the state of the namespace's containers.
func (e *Engine) states(o *options.Options) string {
	root := e.root
	if o.Root != "" {
		root = o.Root
	}
	return filepath.Join(root, e.namespace)
}

// find looks for the binary that o names. ErrInvalidArgument: there is none.
func find(o *options.Options) (string, error) {
	name := o.BinaryName
	if strings.Contains(name, "/") && !filepath.IsAbs(name) {
		return "", fmt.Errorf("option binary_name %q is neither a name nor an absolute path: %w", name, errdefs.ErrInvalidArgument)
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("option binary_name: %w; install it, or set the absolute path of an OCI runtime: %w", err, errdefs.ErrInvalidArgument)
	}
	return path, nil
}
