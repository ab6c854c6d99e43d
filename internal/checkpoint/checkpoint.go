// Package checkpoint is what engines share to write tasks to disk with criu and to restore them: containerd's options,
// the look at criu before it is needed, its log, and the streams of a task, which a restored one gets anew.
package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/shimwright/shimwright/internal/options"
	"github.com/shimwright/shimwright/task"
)

// Options are containerd.runc.v1.CheckpointOptions. Of a decoded one the paths are those to use, see Decode.
type Options = runcoptions.CheckpointOptions

// CgroupsModes are the values of the option cgroups_mode. Empty stands for criu's own choice, soft.
var CgroupsModes = []string{"", "soft", "full", "strict", "ignore"}

// Decode reads what a client asks for. image_path is then where the image goes: the request's path, for that is where
// containerd looks, else the option's, else the runtime's criu_image_path. work_path is where criu works and leaves its log:
// the option's, else the runtime's criu_work_path, else empty. ErrInvalidArgument: that cannot be done by anybody.
func Decode(r *task.CheckpointRequest, runtime *options.Options) (*Options, error) {
	o := new(Options)
	if a := r.Options; a != nil && (a.TypeUrl != "" || len(a.Value) > 0) {
		if !a.MessageIs(o) {
			return nil, fmt.Errorf("options are a %q, not a %s: %w", a.TypeUrl, o.ProtoReflect().Descriptor().FullName(), errdefs.ErrInvalidArgument)
		}
		if err := proto.Unmarshal(a.Value, o); err != nil {
			return nil, fmt.Errorf("options: %w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	o.ImagePath = first(r.Path, o.ImagePath, runtime.CriuImagePath)
	o.WorkPath = first(o.WorkPath, runtime.CriuWorkPath)
	switch {
	case o.ImagePath == "":
		return nil, fmt.Errorf("no path for the image: %w", errdefs.ErrInvalidArgument)
	case !filepath.IsAbs(o.ImagePath):
		return nil, fmt.Errorf("image path %q is not absolute: %w", o.ImagePath, errdefs.ErrInvalidArgument)
	case o.WorkPath != "" && !filepath.IsAbs(o.WorkPath):
		return nil, fmt.Errorf("work path %q is not absolute: %w", o.WorkPath, errdefs.ErrInvalidArgument)
	case !slices.Contains(CgroupsModes, o.CgroupsMode):
		return nil, fmt.Errorf("cgroups mode %q: want soft, full, strict or ignore: %w", o.CgroupsMode, errdefs.ErrInvalidArgument)
	}
	for _, ns := range o.EmptyNamespaces {
		if ns != string(specs.NetworkNamespace) {
			return nil, fmt.Errorf("namespace %q cannot be restored empty, only %s can: %w", ns, specs.NetworkNamespace, errdefs.ErrInvalidArgument)
		}
	}
	if o.ParentPath != "" {
		if filepath.IsAbs(o.ParentPath) { // criu makes a link of it, which has to survive the image's moving
			return nil, fmt.Errorf("parent path %q: want it relative to the image's: %w", o.ParentPath, errdefs.ErrInvalidArgument)
		}
		if err := isImage(filepath.Join(o.ImagePath, o.ParentPath)); err != nil {
			return nil, fmt.Errorf("parent image: %w", err)
		}
	}
	return o, nil
}

func first(paths ...string) string {
	for _, path := range paths {
		if path != "" {
			return filepath.Clean(path)
		}
	}
	return ""
}

// The file that criu writes last, the link to a parent image, and the file in which libcontainer notes the streams.
const (
	inventoryFile   = "inventory.img"
	parentLink      = "parent"
	DescriptorsFile = "descriptors.json"
)

// Image checks that a task can be restored from the image in dir, and links it with its parent if one is named and the
// image was parted from it. ErrNotFound, ErrInvalidArgument: there is no whole image.
func Image(dir, parent string) error {
	if err := isImage(dir); err != nil {
		return err
	}
	if parent == "" {
		return nil
	}
	if err := isImage(parent); err != nil {
		return fmt.Errorf("parent %w", err)
	}
	link := filepath.Join(dir, parentLink)
	switch there, err := os.Stat(link); {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return os.Symlink(parent, link)
	case err != nil:
		return err
	default:
		if want, err := os.Stat(parent); err != nil || !os.SameFile(there, want) {
			return fmt.Errorf("image %s has another parent than %s: %w", dir, parent, errdefs.ErrInvalidArgument)
		}
		return nil
	}
}

func isImage(dir string) error {
	st, err := os.Stat(dir)
	switch {
	case !filepath.IsAbs(dir):
		return fmt.Errorf("image path %q is not absolute: %w", dir, errdefs.ErrInvalidArgument)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("image: %w: %w", err, errdefs.ErrNotFound)
	case err != nil:
		return fmt.Errorf("image: %w", err)
	case !st.IsDir():
		return fmt.Errorf("image %s is not a directory: %w", dir, errdefs.ErrInvalidArgument)
	}
	for _, name := range []string{inventoryFile, DescriptorsFile} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("image %s is not whole: %w: %w", dir, err, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}
