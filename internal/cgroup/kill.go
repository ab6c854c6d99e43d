package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Kill ends every process in the container's groups, frozen or not, and returns when none is left or ctx ends.
func (g Group) Kill(ctx context.Context) error {
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		n, err := g.Signal(syscall.SIGKILL)
		if err != nil || n == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d processes do not end: %w", n, ctx.Err())
		case <-time.After(pause):
		}
	}
}

// Signal sends sig to every process in the container's groups and tells how many it found. SIGKILL also thaws them, and
// reaches what they start meanwhile. Groups that the caller is in are refused: ErrFailedPrecondition.
func (g Group) Signal(sig syscall.Signal) (int, error) {
	pids, err := g.all()
	if err != nil || len(pids) == 0 {
		return 0, err
	}
	if slices.Contains(pids, os.Getpid()) {
		return 0, fmt.Errorf("cgroup %v holds this process too: %w", g, errdefs.ErrFailedPrecondition)
	}
	n := len(pids)
	if sig != syscall.SIGKILL {
		return n, g.signal(pids, sig)
	}
	defer g.Thaw()
	if dir, ok := g[""]; ok && write(dir, "cgroup.kill", "1") == nil && g.unified() {
		return n, nil
	}
	if dir, ok := g["freezer"]; ok {
		if write(dir, "freezer.state", "FROZEN") == nil { // what is frozen does not fork
			pids, err = g.all()
		}
	}
	return n, errors.Join(err, g.signal(pids, sig))
}

// Thaw lets the container's processes run again, those in frozen groups further down too. In v1 a frozen process does
// not even die.
func (g Group) Thaw() {
	file, thawed := "freezer.state", "THAWED"
	dir, ok := g["freezer"]
	if !ok {
		file, thawed = "cgroup.freeze", "0"
		dir = g[""]
	}
	if dir == "" {
		return
	}
	_ = walk(dir, func(dir string) error {
		_ = write(dir, file, thawed) // not there, or gone: nothing is frozen
		return nil
	})
}

// signal sends sig to those of pids that are still in the groups. A pid may be given to another process at any time:
// what is held is a pidfd, and a process counts if the groups list its pid after the pidfd was opened.
func (g Group) signal(pids []int, sig syscall.Signal) error {
	const atOnce = 256 // pidfds
	for batch := range slices.Chunk(pids, atOnce) {
		if err := g.signalBatch(batch, sig); err != nil {
			return err
		}
	}
	return nil
}

func (g Group) signalBatch(pids []int, sig syscall.Signal) error {
	fds := make(map[int]int, len(pids))
	defer func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}()
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		switch {
		case err == nil:
			fds[pid] = fd
		case !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EINVAL): // EINVAL: a thread, after an exit
			return os.NewSyscallError("pidfd_open", err)
		}
	}
	still, err := g.all()
	if err != nil {
		return err
	}
	for _, pid := range still {
		fd, ok := fds[pid]
		if !ok {
			continue
		}
		if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return os.NewSyscallError("pidfd_send_signal", err)
		}
	}
	return nil
}
