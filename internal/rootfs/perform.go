package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	confine "github.com/containerd/continuity/fs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// perform mounts in path. If it fails, some of it may be mounted there.
func (p *plan) perform(ctx context.Context, path string) error {
	if !p.stage {
		for i := range p.steps {
			if _, err := p.steps[i].perform(ctx, path, path, nil, nil); err != nil {
				return fmt.Errorf("%s: %w", p.steps[i].label, err)
			}
		}
		return nil
	}
	return p.onStage(ctx, path)
}

// onStage mounts on a file system of its own in path, takes a copy of the last tree, clears the stage, and puts the copy
// there. The kernel keeps what the copy is built upon, and frees it with the copy.
func (p *plan) onStage(ctx context.Context, path string) error {
	if err := unix.Mount("stage", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount a stage: %w", err)
	}
	if err := unix.Mount("", path, "", unix.MS_PRIVATE, ""); err != nil { // nobody else sees what is on it
		return fmt.Errorf("mount a stage: %w", err)
	}
	var loops devices // attached until a mount has them
	defer loops.Close()
	var earlier []made
	root := filepath.Join(path, "rootfs")
	if err := os.Mkdir(root, 0o700); err != nil {
		return err
	}
	for i := range p.steps {
		s := &p.steps[i]
		at := root
		if i < p.first {
			at = filepath.Join(path, strconv.Itoa(i))
			if err := os.Mkdir(at, 0o700); err != nil {
				return err
			}
		}
		m, err := s.perform(ctx, at, filepath.Join(path, fmt.Sprintf("ids%d", i)), earlier, &loops)
		if err != nil {
			return fmt.Errorf("%s: %w", s.label, err)
		}
		earlier = append(earlier, m)
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, root, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("take a copy of the tree: %w", err)
	}
	defer unix.Close(tree)
	// Where mounts are shared what goes from the stage would go from the copy as well.
	if err := unix.Mount("", path, "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("clear the stage: %w", err)
	}
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("clear the stage: %w", err)
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("put the tree in place: %w", err)
	}
	return nil
}

// perform makes one mount at at. scratch is a directory to make and use on the way, which is the stage's.
func (s *step) perform(ctx context.Context, at, scratch string, earlier []made, loops *devices) (made, error) {
	m := mount.Mount{Type: s.kind, Source: s.source.fill(earlier)}
	target := s.target.fill(earlier)
	for _, o := range s.options {
		m.Options = append(m.Options, o.fill(earlier))
	}
	done := made{source: m.Source, target: target, at: at}
	if err := ctx.Err(); err != nil {
		return done, context.Cause(ctx)
	}
	for _, d := range s.dirs {
		if err := d.make(earlier); err != nil {
			return done, err
		}
	}
	if s.image != nil {
		if err := s.image.make(ctx, m.Source); err != nil {
			return done, err
		}
	}
	if s.kind == "loop" {
		var err error
		done.at, err = loops.attach(m.Source, slices.Contains(m.Options, "ro"))
		return done, err
	}
	at, err := confine.RootPath(at, target)
	if err != nil {
		return done, fmt.Errorf("target %s: %w", target, err)
	}
	if s.ids != nil {
		return done, s.ids.mount(&m, at, scratch)
	}
	return done, mountAt(&m, at)
}

// mountAt mounts m as the daemon would.
func mountAt(m *mount.Mount, at string) error {
	if m.Type == "erofs" {
		return mountErofs(m, at)
	}
	err := m.Mount(at)
	switch {
	case err != nil && m.Type == "overlay" && long(m.Options):
		return mountLong(m, at, err)
	case err == nil && (slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")):
		return separate(at)
	}
	return err
}

// separate takes the copies that a bind has made, at at and below, from the peer groups of their originals. Else, where
// mounts are shared, what is mounted or unmounted in the rootfs would be in the source too. What happens to the originals
// still reaches the copies, and what is shared stays so, with copies of its own.
func separate(at string) error {
	at, err := filepath.EvalSymlinks(at)
	if err != nil {
		return err
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(at))
	if err != nil {
		return err
	}
	for _, m := range mounts { // upon each other: what is mounted on a shared one is shared
		if err == nil && strings.Contains(m.Optional, "shared:") {
			err = errors.Join(unix.Mount("", m.Mountpoint, "", unix.MS_SLAVE, ""), unix.Mount("", m.Mountpoint, "", unix.MS_SHARED, ""))
		}
	}
	return err
}

// mountErofs mounts image files themselves where the kernel can (6.12), else through loop devices.
func mountErofs(m *mount.Mount, at string) error {
	m.Options = slices.DeleteFunc(m.Options, func(o string) bool { return o == "loop" })
	try := func() error {
		err := m.Mount(at)
		if err != nil && !errors.Is(err, unix.ENOTBLK) && long(m.Options) {
			return mountLong(m, at, err)
		}
		return err
	}
	if err := try(); !errors.Is(err, unix.ENOTBLK) {
		return err
	}
	var loops devices
	defer loops.Close()
	if err := loops.attachImages(m); err != nil {
		return err
	}
	return try()
}

// attachImages puts loop devices in place of an erofs mount's image files.
func (d *devices) attachImages(m *mount.Mount) (err error) {
	if m.Source, err = d.attach(m.Source, true); err != nil {
		return err
	}
	for i, o := range m.Options {
		if path, ok := strings.CutPrefix(o, "device="); ok {
			if path, err = d.attach(path, true); err != nil {
				return err
			}
			m.Options[i] = "device=" + path
		}
	}
	return nil
}

// devices are loop devices. The kernel frees each when it is closed and no mount has it.
type devices []io.Closer

func (d *devices) attach(file string, readonly bool) (device string, err error) {
	f, err := mount.SetupLoop(file, mount.LoopParams{Readonly: readonly, Autoclear: true})
	if err != nil {
		return "", err
	}
	*d = append(*d, f)
	return f.Name(), nil
}

func (d *devices) Close() error {
	for _, f := range *d {
		f.Close()
	}
	return nil
}
