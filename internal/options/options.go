// Package options reads containerd.runc.v1.Options, what an operator sets for the runtime: as the daemon passes them,
// and as a bundle keeps them for a delete after the shim.
package options

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/shimwright/shimwright/internal/bundle"
	"github.com/shimwright/shimwright/internal/tomlpb"
)

// Options are containerd.runc.v1.Options.
type Options = runcoptions.Options

// maxFile is how long a configuration file may be, in bytes.
const maxFile = 256 << 10

// Decode reads what the daemon passed. None given: the defaults. ErrInvalidArgument: they are not options, or cannot be
// followed.
func Decode(a *anypb.Any) (*Options, error) {
	o := new(Options)
	if err := Unmarshal(a, o); err != nil {
		return nil, err
	}
	if o.Root != "" && !filepath.IsAbs(o.Root) {
		return nil, fmt.Errorf("option root %q is not absolute: %w", o.Root, errdefs.ErrInvalidArgument)
	}
	return o, nil
}

// Unmarshal reads a runtime's options into o: the message itself, or in TOML what CRI and ctr pass to a runtime that they
// do not know. None given: o stays as it is. ErrInvalidArgument: they are others, or cannot be read.
func Unmarshal(a *anypb.Any, o proto.Message) error {
	if a == nil || a.TypeUrl == "" && len(a.Value) == 0 {
		return nil
	}
	generic := new(runtimeoptions.Options)
	switch {
	case a.MessageIs(o):
		if err := proto.Unmarshal(a.Value, o); err != nil {
			return fmt.Errorf("options: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		return nil
	case a.MessageIs(generic):
		if err := proto.Unmarshal(a.Value, generic); err != nil {
			return fmt.Errorf("options: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		return decodeTOML(generic, o)
	default:
		return fmt.Errorf("options are a %q, not a %s: %w", a.TypeUrl, o.ProtoReflect().Descriptor().FullName(), errdefs.ErrInvalidArgument)
	}
}

// decodeTOML reads what a generic configuration points to, or else holds.
func decodeTOML(g *runtimeoptions.Options, o proto.Message) error {
	name := string(o.ProtoReflect().Descriptor().FullName())
	if g.TypeUrl != "" && g.TypeUrl != name && !strings.HasSuffix(g.TypeUrl, "/"+name) {
		return fmt.Errorf("options: type_url %q: want %s or none: %w", g.TypeUrl, name, errdefs.ErrInvalidArgument)
	}
	from, data := "config_body", g.ConfigBody
	if g.ConfigPath != "" {
		from = g.ConfigPath
		if !filepath.IsAbs(from) {
			return fmt.Errorf("options: config_path %q is not absolute: %w", from, errdefs.ErrInvalidArgument)
		}
		var err error
		if data, err = readFile(from); err != nil {
			return fmt.Errorf("options: config_path: %w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	// CRI's body is the whole section, with the keys of the generic configuration; CriuPath stands in the defaults of
	// containerd 1.x and means nothing since 2.0.
	if err := tomlpb.Unmarshal(data, o, "type_url", "config_path", "config_body", "criu_path"); err != nil {
		return fmt.Errorf("options: %s: %w", from, err)
	}
	return nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO without a writer does not hang
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%s: not a file of at most %d bytes", path, maxFile)
	}
	return io.ReadAll(io.LimitReader(f, maxFile))
}

// Write leaves the options in the bundle, for a delete after the shim. The names and forms are those of containerd's
// shim.
func Write(dir string, o *Options) error {
	data, err := json.Marshal(o)
	if err != nil {
		return err
	}
	if err := bundle.WriteFile(dir, bundle.OptionsFile, data); err != nil {
		return err
	}
	return bundle.WriteFile(dir, bundle.RuntimeFile, []byte(o.BinaryName))
}

// Read reads what Write wrote, and is never nil. A missing or torn file holds the defaults: a delete goes on without.
func Read(dir string) (*Options, error) {
	o := new(Options)
	data, err := os.ReadFile(filepath.Join(dir, bundle.OptionsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return o, nil
	}
	if err == nil {
		err = json.Unmarshal(data, o)
	}
	if err != nil {
		return new(Options), fmt.Errorf("read %s: %w", bundle.OptionsFile, err)
	}
	if !filepath.IsAbs(o.Root) {
		o.Root = ""
	}
	return o, nil
}
