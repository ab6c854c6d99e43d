package container

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

// options are containerd.runc.v1.Options.
type options = runcoptions.Options

// decodeOptions reads what the daemon passed. None given: the defaults.
func decodeOptions(a *anypb.Any) (*options, error) {
	o := new(options)
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
	if o.BinaryName != "" {
		return nil, fmt.Errorf("option binary_name %q: running containers with another OCI runtime: %w", o.BinaryName, errdefs.ErrNotImplemented)
	}
	return o, nil
}

// writeOptions leaves the options in the bundle, for a delete after the shim. The names and forms are those of
// containerd's shim.
func writeOptions(dir string, o *options) error {
	data, err := json.Marshal(o)
	if err != nil {
		return err
	}
	if err := bundle.WriteFile(dir, bundle.OptionsFile, data); err != nil {
		return err
	}
	return bundle.WriteFile(dir, bundle.RuntimeFile, []byte(o.BinaryName))
}

// readOptions reads what writeOptions wrote. A missing or torn file holds the defaults: a delete goes on without.
func readOptions(dir string) (*options, error) {
	o := new(options)
	data, err := os.ReadFile(filepath.Join(dir, bundle.OptionsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return o, nil
	}
	if err == nil {
		err = json.Unmarshal(data, o)
	}
	if err != nil {
		return new(options), fmt.Errorf("read %s: %w", bundle.OptionsFile, err)
	}
	if !filepath.IsAbs(o.Root) {
		o.Root = ""
	}
	return o, nil
}
