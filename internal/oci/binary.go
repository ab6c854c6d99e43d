package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	runc "github.com/containerd/go-runc"

	"github.com/shimwright/shimwright/internal/engine"
	"github.com/shimwright/shimwright/internal/options"
	"github.com/shimwright/shimwright/internal/reap"
)

// binary is an OCI runtime's program, as it is run for one container.
type binary struct {
	path    string
	states  string // the directory of the states, its --root
	bundle  string // where it runs: relative paths are the bundle's
	systemd bool   // it asks systemd for cgroups
	reaper  *reap.Reaper
	log     *slog.Logger
}

func (e *Engine) binary(path, id, bundle string, o *options.Options) *binary {
	return &binary{
		path: path, states: e.states(o), bundle: bundle, systemd: o.SystemdCgroup,
		reaper: e.reaper, log: e.log.With("id", id),
	}
}

// call is one run of the binary.
type call struct {
	*runc.Runc
	dir string // for the files of this call, of which the binary's log is one
}

func (c *call) file(name string) string { return filepath.Join(c.dir, name) }

// run runs the binary through fn, on a thread of its own. When f is called off or ctx ends, the binary and all that it
// has started is killed. An error is what the binary has last logged as one.
func (b *binary) run(ctx context.Context, f *engine.Flight, fn func(ctx context.Context, c *call) error) error {
	return f.Run(ctx, b.reaper, func() error {
		// The end of ctx is the flight's matter: go-runc would kill the binary and lose what that has started.
		return b.call(context.WithoutCancel(ctx), fn)
	})
}

// call is run on the caller's thread, which is that of a flight.
func (b *binary) call(ctx context.Context, fn func(context.Context, *call) error) error {
	dir, err := os.MkdirTemp(b.bundle, ".oci-*")
	if errors.Is(err, fs.ErrNotExist) {
		dir, err = os.MkdirTemp("", "oci-*") // the bundle is gone before its container
	}
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	c := &call{dir: dir}
	c.Runc = &runc.Runc{
		Command: b.path, WorkDir: filepath.Dir(dir), Root: b.states, SystemdCgroup: b.systemd,
		Log: c.file("log"), LogFormat: runc.JSON, Debug: b.log.Enabled(ctx, slog.LevelDebug),
	}
	err = fn(ctx, c)
	said := b.relay(ctx, c.Log)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("run the OCI runtime: %w: %w", err, errdefs.ErrFailedPrecondition)
	case said != "":
		return errors.New(said)
	default:
		return err
	}
}

// relay passes on what the binary has logged, and returns the last error in there: it is not logged, but returned.
func (b *binary) relay(ctx context.Context, file string) (failure string) {
	data, _ := os.ReadFile(file)
	for data = bytes.TrimSpace(data); len(data) > 0; data = bytes.TrimSpace(data) {
		var entry struct{ Level, Msg string }
		if d := json.NewDecoder(bytes.NewReader(data)); d.Decode(&entry) == nil {
			data = data[d.InputOffset():] // crun's entries have several lines
		} else {
			line, rest, _ := bytes.Cut(data, []byte("\n"))
			entry.Level, entry.Msg, data = "warning", string(line), rest // some write plain text whatever they are asked for
		}
		msg := strings.TrimSpace(entry.Msg)
		switch entry.Level {
		case "error", "fatal", "panic":
			failure = msg
		case "warning", "warn":
			b.log.WarnContext(ctx, msg, "runtime", b.path)
		default:
			b.log.DebugContext(ctx, msg, "runtime", b.path)
		}
	}
	return failure
}
