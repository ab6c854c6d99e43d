package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Desk is a directory in a bundle for the time of a checkpoint or restore.
type Desk struct {
	bundle string
	Dir    string
	Work   string // where criu works; Dir itself if nobody asked for another one
}

const deskDir = "criu-work"

// NewDesk makes the directory. Empty work: criu works in it too.
func NewDesk(bundle, work string) (*Desk, error) {
	d := &Desk{bundle: bundle, Dir: filepath.Join(bundle, deskDir), Work: work}
	if err := RemoveAll(d.Dir); err != nil {
		return nil, err
	}
	if err := os.Mkdir(d.Dir, 0o700); err != nil {
		return nil, err
	}
	if work == "" {
		d.Work = d.Dir
		return d, nil
	}
	if _, err := MakeDir(work); err != nil {
		d.Clear()
		return nil, fmt.Errorf("work path: %w", err)
	}
	return d, nil
}

// Clear removes the directory, and what criu has mounted in it.
func (d *Desk) Clear() { _ = RemoveAll(d.Dir) }

// Keep saves a log of criu's from being cleared away, and returns where it is.
func (d *Desk) Keep(log, as string) string {
	path := filepath.Join(d.Work, log)
	if d.Work != d.Dir {
		return path
	}
	kept := filepath.Join(d.bundle, as)
	if os.Rename(path, kept) != nil {
		return path
	}
	return kept
}

// Configure writes a configuration file for criu, and returns where it is.
func (d *Desk) Configure(config []byte) (path string, err error) {
	path = filepath.Join(d.Dir, "criu.conf")
	return path, os.WriteFile(path, config, 0o600)
}

// Clean removes what a checkpoint or restore that was killed has left in a bundle and in the directory of a state: a
// removal of these before would go through the mounts that criu has made there.
func Clean(bundle, state string) error {
	return errors.Join(RemoveAll(filepath.Join(state, "criu-root")), RemoveAll(filepath.Join(bundle, deskDir)))
}

// MakeDir makes dir if it is not there; undo takes that back. ErrInvalidArgument: it cannot be a directory.
func MakeDir(dir string) (undo func(), err error) {
	undo = func() {}
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		undo = func() { _ = os.RemoveAll(dir) }
	}
	err = os.MkdirAll(dir, 0o700)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.EROFS) {
		err = fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return undo, err
}
