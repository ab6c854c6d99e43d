package manager

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/shimwright/shimwright/internal/bundle"
	"github.com/shimwright/shimwright/internal/rootfs"
)

func (m *Manager) bundle(namespace, id string) string {
	return filepath.Join(m.config.State, tasksDir, namespace, id)
}

// makeBundle makes the bundle of a container, with a link to its work directory. On error nothing is left.
// ErrAlreadyExists: there is one.
func (m *Manager) makeBundle(namespace, id string, spec *specs.Spec) (err error) {
	dir := m.bundle(namespace, id)
	work := filepath.Join(m.config.Root, tasksDir, namespace, id)
	for _, path := range []string{dir, work} {
		if err := mkdirAll(filepath.Dir(path)); err != nil {
			return err
		}
	}
	if err := mkdir(dir, 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			err = fmt.Errorf("container %s in namespace %s: %w", id, namespace, errdefs.ErrAlreadyExists)
		}
		return err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
			os.RemoveAll(work)
		}
	}()
	// The root of a user namespace owns nothing here, but must get through to its root file system.
	if gid := rootGID(spec); gid != 0 {
		if err := os.Chown(dir, -1, gid); err != nil {
			return err
		}
		if err := os.Chmod(dir, 0o710); err != nil {
			return err
		}
	}
	if err := mkdir(filepath.Join(dir, bundle.RootfsDir), 0o711); err != nil {
		return err
	}
	if err := os.RemoveAll(work); err != nil { // of a container before the last reboot
		return err
	}
	if err := mkdir(work, 0o711); err != nil {
		return err
	}
	if err := os.Symlink(work, filepath.Join(dir, bundle.WorkLink)); err != nil {
		return err
	}
	if spec == nil {
		return nil
	}
	config, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("spec: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return bundle.WriteFile(dir, bundle.ConfigFile, config)
}

// mkdir makes dir with exactly perm, whatever the umask.
func mkdir(dir string, perm fs.FileMode) error {
	if err := os.Mkdir(dir, perm); err != nil {
		return err
	}
	return os.Chmod(dir, perm)
}

// mkdirAll makes what is missing of dir so that a container's root, who may be another user, can pass through.
func mkdirAll(dir string) error {
	err := mkdir(dir, 0o711)
	if errors.Is(err, fs.ErrNotExist) {
		if err = mkdirAll(filepath.Dir(dir)); err == nil {
			err = mkdir(dir, 0o711)
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// rootGID is the group on the host that root's group in the container is.
func rootGID(spec *specs.Spec) int {
	if spec == nil || spec.Linux == nil {
		return 0
	}
	for _, mapping := range spec.Linux.GIDMappings {
		if mapping.ContainerID == 0 {
			return int(mapping.HostID)
		}
	}
	return 0
}

// removeBundle unmounts and removes the bundle dir and its work directory. None there: no error. It is all or nothing
// for onlookers, and never reaches into something that is still mounted.
func removeBundle(dir string) error {
	if err := rootfs.Unmount(dir); err != nil {
		return err
	}
	// Not with what is in it: it should be empty by now.
	if err := os.Remove(filepath.Join(dir, bundle.RootfsDir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	work, linked := os.Readlink(filepath.Join(dir, bundle.WorkLink))
	err := removeAtOnce(dir)
	if linked == nil {
		err = errors.Join(err, removeAtOnce(work))
	}
	return err
}

// removeAtOnce hides a directory, then removes it. Load removes what was hidden and is still there.
func removeAtOnce(dir string) error {
	hidden := filepath.Join(filepath.Dir(dir), "."+filepath.Base(dir))
	if err := os.RemoveAll(hidden); err != nil {
		return err
	}
	if err := os.Rename(dir, hidden); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return os.RemoveAll(hidden)
}
