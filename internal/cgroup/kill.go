package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
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
	if sig != syscall.SIGKILL {
		return len(pids), g.signal(pids, sig)
	}
	defer g.Thaw()
	if dir, ok := g[""]; ok && write(dir, "cgroup.kill", "1") == nil && g.unified() {
		return len(pids), nil
	}
	g.freeze()
	return g.killAll(pids)
}

// killAll kills pids, and what else is found in the groups until there is nothing new. It tells how many that were.
func (g Group) killAll(pids []int) (int, error) {
	const rounds = 100 // against a container that starts processes faster than they are found
	killed := make(map[int]bool)
	for range rounds {
		pids = slices.DeleteFunc(pids, func(pid int) bool { return killed[pid] })
		if len(pids) == 0 {
			break
		}
		if err := g.signal(pids, syscall.SIGKILL); err != nil {
			return len(killed), err
		}
		for _, pid := range pids {
			killed[pid] = true
		}
		var err error
		if pids, err = g.all(); err != nil { // there may be more than before the freeze
			return len(killed), err
		}
	}
	return len(killed), nil
}

// freeze makes the groups stand still in v1, where that is possible: what is frozen starts nothing.
func (g Group) freeze() {
	dir, ok := g["freezer"]
	if !ok || write(dir, "freezer.state", "FROZEN") != nil {
		return
	}
	const patience = 500 * time.Millisecond // a process in vfork, say, cannot be frozen
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if state, err := read(dir, "freezer.state"); err != nil || strings.TrimSpace(string(state)) == "FROZEN" {
			return
		}
	}
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
	for len(pids) > 0 {
		n, err := g.signalBatch(pids[:min(len(pids), pidfds())], sig)
		if err != nil {
			return err
		}
		pids = pids[n:]
	}
	return nil
}

// pidfds is how many may be open at once. The groups are listed again for each batch: many small ones would take time
// that grows with the square of the processes.
func pidfds() int {
	const least, most = 256, 16384
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return least
	}
	return int(max(least, min(most, limit.Cur/2)))
}

// signalBatch signals the first n of pids: all of them, if there are descriptors for them.
func (g Group) signalBatch(pids []int, sig syscall.Signal) (n int, err error) {
	fds := make(map[int]int, len(pids))
	defer func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}()
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.EMFILE) && len(fds) > 1 {
			// Others use them too: one is left to list the groups.
			spared := false
			for !spared {
				n--
				if fd, spared = fds[pids[n]]; spared {
					_ = unix.Close(fd)
					delete(fds, pids[n])
				}
			}
			break
		}
		switch {
		case err == nil:
			fds[pid] = fd
		case !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EINVAL): // EINVAL: a thread, after an exit
			return 0, os.NewSyscallError("pidfd_open", err)
		}
		n++
	}
	still, err := g.all()
	if err != nil {
		return 0, err
	}
	for _, pid := range still {
		fd, ok := fds[pid]
		if !ok {
			continue
		}
		if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return 0, os.NewSyscallError("pidfd_send_signal", err)
		}
	}
	return n, nil
}
