package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Join moves this process into the existing cgroup at path, counted from the root of the hierarchy: of cgroup v2's, and
// of each of v1 that has it. What the process starts from then on is in it too. ErrInvalidArgument: path leads out of the
// hierarchies; ErrNotFound: none has it; ErrFailedPrecondition: it takes no process as it is.
func Join(path string) error { return join(mountpoint, path) }

func join(mountpoint, path string) error {
	if path == "" || slices.Contains(strings.Split(path, "/"), "..") || strings.ContainsRune(path, 0) {
		return fmt.Errorf("cgroup %q: want a path from the hierarchy's root on, without ..: %w", path, errdefs.ErrInvalidArgument)
	}
	dirs := []string{filepath.Join(mountpoint, path)}
	if _, err := os.Stat(filepath.Join(mountpoint, procs)); err != nil { // v1: a directory for each hierarchy
		hierarchies, err := os.ReadDir(mountpoint)
		if err != nil {
			return fmt.Errorf("cgroup %q: %w", path, err)
		}
		dirs = nil
		for _, h := range hierarchies {
			if h.IsDir() { // the others are links to these
				dirs = append(dirs, filepath.Join(mountpoint, h.Name(), path))
			}
		}
	}
	joined := false
	for _, dir := range dirs {
		file, err := os.OpenFile(filepath.Join(dir, procs), os.O_WRONLY, 0)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			_, err = file.WriteString("0") // the writer
			err = errors.Join(err, file.Close())
		}
		if err != nil {
			return fmt.Errorf("cgroup %q: %w", path, explain(err))
		}
		joined = true
	}
	if !joined {
		return fmt.Errorf("cgroup %q: no hierarchy at %s has it; make it first: %w", path, mountpoint, errdefs.ErrNotFound)
	}
	return nil
}

// procs is the file that lists a group's processes, and takes more.
const procs = "cgroup.procs"

// explain says what the kernel means when a group takes no process.
func explain(err error) error {
	for _, cause := range []struct {
		errno syscall.Errno
		means string
	}{
		{unix.EOPNOTSUPP, "it is threaded, or invalid because of a threaded one above"},
		{unix.EBUSY, "it passes controllers on to groups below it, and so takes no process itself; name one of those"},
		{unix.ENOSPC, "its cpuset has no cpus or mems; set them first"},
	} {
		if errors.Is(err, cause.errno) {
			return fmt.Errorf("%w: %s: %w", err, cause.means, errdefs.ErrFailedPrecondition)
		}
	}
	return err
}
