// Package daemon makes a shim's serving process out of its start command: a re-exec that inherits the listeners and
// tells when it is ready, and what that process does to itself first.
package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The descriptors that the serving process inherits.
const (
	SocketFD = 3 // the listener
	DebugFD  = 4 // the debug listener, with -debug
)

// ready is what the serving process writes to its stdout when it serves. Anything else there, or on stderr, is why not.
const ready = "ready\n"

// readyTimeout bounds the wait for it.
const readyTimeout = 10 * time.Second

// Spawn runs this binary again with args, listeners as descriptor 3 and 4, in a process group of its own, and returns
// its process id when it serves; kill ends it. If it does not serve, its group is gone when Spawn returns, and the error says what it said.
func Spawn(ctx context.Context, args, env []string, listeners ...*os.File) (pid int, kill func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, nil, fmt.Errorf("find own binary: %w", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return 0, nil, err
	}
	defer r.Close()
	cmd := exec.Command(self, args...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = env
	cmd.Stdout, cmd.Stderr = w, w
	cmd.ExtraFiles = listeners
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return 0, nil, fmt.Errorf("start the serving process: %w", err)
	}
	kill = func() {
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		_ = cmd.Wait()
	}
	said, err := hear(ctx, r)
	if err == nil && string(said) == ready {
		return cmd.Process.Pid, kill, nil
	}
	kill()
	said = bytes.TrimSpace(said)
	switch {
	case len(said) > 0:
		return 0, nil, fmt.Errorf("serving process: %s", said)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return 0, nil, fmt.Errorf("serving process is not ready after %v", readyTimeout)
	default:
		return 0, nil, fmt.Errorf("serving process ended before it was ready: %v", cmd.ProcessState)
	}
}

// hear reads what the serving process says until that is ready, or its end. A child of its may keep the pipe open.
func hear(ctx context.Context, r *os.File) (said []byte, err error) {
	_ = r.SetReadDeadline(time.Now().Add(readyTimeout))
	stop := context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 4<<10)
	for len(said) < 64<<10 && string(said) != ready {
		n, err := r.Read(buf)
		said = append(said, buf[:n]...)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return said, err
		}
	}
	return said, nil
}

// SurviveBrokenPipe makes a write to a closed stdout or stderr an error, where the Go runtime would end the process and
// leave what it holds. It is a handler, and so not inherited by anybody.
func SurviveBrokenPipe() { signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE) }

// Ready tells the start command that this process serves, and lets go of its stdin and stdout. An error: nobody waits
// for it any more.
func Ready() error {
	SurviveBrokenPipe()
	if _, err := os.Stdout.WriteString(ready); err != nil {
		return fmt.Errorf("tell readiness: %w", err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	return errors.Join(unix.Dup3(int(null.Fd()), 0, 0), unix.Dup3(int(null.Fd()), 1, 0))
}

// SealDescriptors keeps everything that this process inherited, listeners and a careless daemon's files alike, from
// being inherited any further.
func SealDescriptors() error {
	return os.NewSyscallError("close_range", unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC))
}

// Inherited is listener fd of the serving process; nil if there is none.
func Inherited(fd int) *os.File {
	if !Listens(fd) {
		return nil
	}
	return os.NewFile(uintptr(fd), "listener")
}

// Subreaper makes this process adopt the orphans among its descendants.
func Subreaper() error {
	return os.NewSyscallError("prctl", unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
}

// YieldToDaemon raises this process's OOM score to one above the daemon's, which it inherited, so that the kernel takes the
// shim first.
func YieldToDaemon() error {
	const file, most = "/proc/self/oom_score_adj", 1000
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return err
	}
	if score >= most {
		return nil
	}
	return os.WriteFile(file, strconv.AppendInt(nil, int64(score)+1, 10), 0)
}

// ShareCores gives this process's group, and what it starts from now on, a core-scheduling cookie of its own:
// other tenants' threads do not run beside theirs on one core (Documentation/admin-guide/hw-vuln/core-scheduling.rst).
func ShareCores() error {
	err := unix.Prctl(unix.PR_SCHED_CORE, unix.PR_SCHED_CORE_CREATE, 0, unix.PR_SCHED_CORE_SCOPE_PROCESS_GROUP, 0)
	if err != nil {
		return fmt.Errorf("core scheduling: the kernel or the processor has none; unset SCHED_CORE: %w", os.NewSyscallError("prctl", err))
	}
	return nil
}

// Listens tells whether descriptor fd is a listening socket.
func Listens(fd int) bool {
	listening, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	return err == nil && listening == 1
}
