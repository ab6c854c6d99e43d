package engine

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shimwright/shimwright/internal/bundle"
	"github.com/shimwright/shimwright/internal/cgroup"
	"github.com/shimwright/shimwright/task"
)

// Survivor is the pid that the bundle notes of a container's init, with its start time, if that still runs; else 0. A
// process that began before the note was written, with the pid that the note says, is the one that was meant.
func Survivor(dir string) (pid int, started uint64) {
	pid, err := bundle.ReadPID(dir)
	if err != nil {
		return 0, 0
	}
	note, err := os.Stat(filepath.Join(dir, bundle.InitPIDFile))
	if err != nil {
		return 0, 0
	}
	started, alive := Started(pid)
	if !alive {
		return 0, 0
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0, 0
	}
	const ticks = 100 // a second, USER_HZ
	age := time.Duration(now.Nano()) - time.Duration(started)*(time.Second/ticks)
	if time.Now().Add(-age).After(note.ModTime().Add(time.Second)) {
		return 0, 0
	}
	return pid, started
}

// Started is when process pid was started, in ticks since the machine was, as long as it is alive: with the pid that
// tells it from every other process (proc(5), /proc/pid/stat).
func Started(pid int) (ticks uint64, alive bool) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false
	}
	// The name is in brackets and may hold anything; the state is the third field, the time the 22nd.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return 0, false
	}
	ticks, err = strconv.ParseUint(fields[19], 10, 64)
	return ticks, err == nil
}

// Kill kills process pid, unless it has ended and its pid is another's, and waits for its end. It is not our child.
func Kill(ctx context.Context, pid int, started uint64, group cgroup.Group) (task.Exit, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return task.Exit{}, nil
	}
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	defer pidfd.Close()
	if began, alive := Started(pid); !alive || began != started {
		return task.Exit{}, nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		return task.Exit{}, nil
	}
	for { // a criu that outlives its shim freezes the group when it likes
		group.Thaw()
		moment, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		err := readable(moment, pidfd)
		cancel()
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return task.Exit{}, fmt.Errorf("wait for process %d: %w", pid, err)
		}
	}
	return task.Exit{Status: 128 + int(unix.SIGKILL), At: time.Now()}, nil
}

// readable waits until pidfd's process has ended.
func readable(ctx context.Context, pidfd *os.File) error {
	if deadline, ok := ctx.Deadline(); ok {
		_ = pidfd.SetReadDeadline(deadline)
	}
	conn, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	return conn.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return err == nil && n > 0
	})
}
