// Package options reads containerd.runc.v1.Options, what an operator sets for the runtime: as the daemon passes them,
// and as a bundle keeps them for a delete after the shim.
package options

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/shimwright/shimwright/internal/bundle"
)

// Options are containerd.runc.v1.Options.
type Options = runcoptions.Options

// Decode reads what the daemon passed. None given: the defaults. ErrInvalidArgument: they are not options, or cannot be
// followed.
func Decode(a *anypb.Any) (*Options, error) {
	o := new(Options)
	if a == nil || a.TypeUrl == "" && len(a.Value) == 0 {
		return o, nil
	}
	if !a.MessageIs(o) {
		return nil, fmt.Errorf("options are a %q, not a %s: %w", a.TypeUrl, o.ProtoReflect().Descriptor().FullName(), errdefs.ErrInvalidArgument)
	}
	if err := proto.Unmarshal(a.Value, o); err != nil {
		return nil, fmt.Errorf("options: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if o.Root != "" && !filepath.IsAbs(o.Root) {
		return nil, fmt.Errorf("option root %q is not absolute: %w", o.Root, errdefs.ErrInvalidArgument)
	}
	return o, nil
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
