package spec_test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// filter is a profile that allows what its rules do not forbid.
func filter(rules ...specs.LinuxSyscall) func(*env, *specs.Spec) {
	return func(_ *env, s *specs.Spec) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: rules}
	}
}

// mkdirs are the calls behind mkdir(1).
var mkdirs = []string{"mkdir", "mkdirat"}

// linux32 is a program under another personality, of which the call's argument tells.
const linux32 = "linux32 cat /proc/self/personality 2>&1 | sed 's/.*: //'"

func onAMD64() bool { return runtime.GOARCH == "amd64" }

func seccompCases() []testCase {
	return []testCase{{
		name:   "calls that are refused",
		fields: []string{"linux.seccomp.defaultAction", "linux.seccomp.syscalls[].names", "linux.seccomp.syscalls[].action", "linux.seccomp.syscalls[].errnoRet"},
		set: filter(
			specs.LinuxSyscall{Names: mkdirs, Action: specs.ActErrno, ErrnoRet: new(uint(unix.EDQUOT))},
			specs.LinuxSyscall{Names: []string{"rmdir"}, Action: specs.ActErrno},
		),
		script: "mkdir /run/x; rmdir /tmp; grep Seccomp: /proc/self/status",
		want:   "Seccomp:\t2\nmkdir: can't create directory '/run/x': Disk quota exceeded\nrmdir: '/tmp': Operation not permitted",
	}, {
		name: "calls that are refused to an exec",
		set:  filter(specs.LinuxSyscall{Names: mkdirs, Action: specs.ActErrno}),
		check: func(e *env, c *container) {
			e.equal(c.sh(e.T, "mkdir /run/x 2>&1 || true"), "mkdir: can't create directory '/run/x': Operation not permitted\n")
		},
	}, {
		name: "without new privileges, and with them",
		set: func(e *env, s *specs.Spec) {
			s.Process.NoNewPrivileges = false
			filter(specs.LinuxSyscall{Names: mkdirs, Action: specs.ActErrno})(e, s)
		},
		check: func(e *env, c *container) {
			e.equal(c.sh(e.T, "mkdir /run/x 2>&1 | sed 's/.*: //'"), "Operation not permitted\n")
		},
	}, {
		name:   "what is not listed is refused with another number",
		fields: []string{"linux.seccomp.defaultErrnoRet"},
		set: func(_ *env, s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{
				DefaultAction: specs.ActErrno, DefaultErrnoRet: new(uint(unix.EXFULL)),
				Syscalls: []specs.LinuxSyscall{{Action: specs.ActAllow, Names: strings.Fields(harmless)}},
			}
		},
		script: "mkdir /run/x 2>&1 | sed 's/.*: //'", want: "Exchange full",
	}, {
		name: "a call that kills", set: filter(specs.LinuxSyscall{Names: mkdirs, Action: specs.ActKillProcess}),
		script: "exec mkdir /run/x", status: 128 + int(unix.SIGSYS),
	}, {
		name: "arguments", only: onAMD64,
		fields: []string{"linux.seccomp.syscalls[].args[].value", "linux.seccomp.syscalls[].args[].op"},
		set: filter(specs.LinuxSyscall{
			Names: []string{"personality"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 0, Value: 8, Op: specs.OpEqualTo}},
		}),
		script: linux32, want: "Operation not permitted",
	}, {
		name: "other arguments", only: onAMD64,
		set: filter(specs.LinuxSyscall{
			Names: []string{"personality"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 0, Value: 9, Op: specs.OpEqualTo}},
		}),
		script: linux32, want: "00000008",
	}, {
		name:   "arguments under a mask",
		fields: []string{"linux.seccomp.syscalls[].args[].index", "linux.seccomp.syscalls[].args[].valueTwo"},
		set: filter(specs.LinuxSyscall{ // chmod's mode, with the set-user-id bit
			Names: []string{"chmod"}, Action: specs.ActErrno,
			Args: []specs.LinuxSeccompArg{{Index: 1, Value: 0o4000, ValueTwo: 0o4000, Op: specs.OpMaskedEqual}},
		}, specs.LinuxSyscall{
			Names: []string{"fchmodat"}, Action: specs.ActErrno,
			Args: []specs.LinuxSeccompArg{{Index: 2, Value: 0o4000, ValueTwo: 0o4000, Op: specs.OpMaskedEqual}},
		}),
		script: "touch /run/x; chmod 711 /run/x && chmod 4711 /run/x", want: "chmod: /run/x: Operation not permitted", status: 1,
	}, {
		name: "architectures and flags", only: onAMD64,
		fields: []string{"linux.seccomp.architectures", "linux.seccomp.flags"},
		set: func(e *env, s *specs.Spec) {
			filter(specs.LinuxSyscall{Names: mkdirs, Action: specs.ActErrno})(e, s)
			s.Linux.Seccomp.Architectures = []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}
			s.Linux.Seccomp.Flags = []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow}
		},
		script: "mkdir /run/x 2>&1 | sed 's/.*: //'", want: "Operation not permitted",
	}, {
		name: "an unknown architecture",
		set: func(e *env, s *specs.Spec) {
			filter()(e, s)
			s.Linux.Seccomp.Architectures = []specs.Arch{"SCMP_ARCH_VAX"}
		},
		createFails: "SCMP_ARCH_VAX", class: errdefs.IsInvalidArgument, by: inProcess,
	}, {
		name: "an unknown flag",
		set: func(e *env, s *specs.Spec) {
			filter()(e, s)
			s.Linux.Seccomp.Flags = []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_MAGIC"}
		},
		createFails: "SECCOMP_FILTER_FLAG_MAGIC", class: errdefs.IsInvalidArgument, by: inProcess,
	}, {
		name: "an unknown action",
		set:  filter(specs.LinuxSyscall{Names: mkdirs, Action: "SCMP_ACT_MAGIC"}), createFails: "SCMP_ACT_MAGIC", class: errdefs.IsInvalidArgument, by: inProcess,
	}, {
		name:        "an unknown comparison",
		set:         filter(specs.LinuxSyscall{Names: mkdirs, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Op: "SCMP_CMP_MAGIC"}}}),
		createFails: "SCMP_CMP_MAGIC", class: errdefs.IsInvalidArgument, by: inProcess,
	}, {
		name:    "calls that somebody else answers",
		fields:  []string{"linux.seccomp.listenerPath", "linux.seccomp.listenerMetadata"},
		prepare: (*env).answerMkdir,
		set: func(e *env, s *specs.Spec) {
			filter(specs.LinuxSyscall{Names: mkdirs, Action: specs.ActNotify})(e, s)
			s.Linux.Seccomp.ListenerPath, s.Linux.Seccomp.ListenerMetadata = e.path("listener"), "of the test"
			s.Annotations["org.example.key"] = "value"
		},
		script: "mkdir /run/x",
		check:  (*env).answered,
	}, {
		name: "calls that nobody answers",
		set: func(e *env, s *specs.Spec) {
			filter(specs.LinuxSyscall{Names: mkdirs, Action: specs.ActNotify})(e, s)
			s.Linux.Seccomp.ListenerPath = e.path("nobody")
		},
		createFails: "nobody",
	}}
}

// harmless is what a shell and an init need.
const harmless = `read write close fstat lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn ioctl
	access pipe pipe2 dup dup2 dup3 getpid getppid getpgrp fork vfork clone clone3 execve execveat exit exit_group wait4 fcntl
	getdents64 getcwd chdir rename unlink readlink readlinkat umask gettimeofday getuid getgid geteuid getegid setuid setgid
	setgroups getgroups setresuid setresgid arch_prctl set_tid_address set_robust_list rseq prlimit64 getrandom newfstatat stat
	lstat open openat openat2 statx futex sched_yield sched_getaffinity sigaltstack madvise nanosleep clock_nanosleep
	clock_gettime tgkill epoll_ctl epoll_pwait epoll_create1 eventfd2 close_range capset capget prctl fstatfs statfs faccessat
	faccessat2 uname poll ppoll pselect6 select sendfile kill tkill gettid setsid restart_syscall getpgid setpgid ugetrlimit
	getrlimit mremap writev readv pread64 pwrite64 seccomp timer_create timer_settime timer_delete setitimer getitimer`

// notified is what a listener got.
type notified struct {
	state specs.ContainerProcessState
	err   error
}

// answerMkdir answers each mkdir with an error of its own: ENOTUNIQ.
func (e *env) answerMkdir() {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: e.path("listener"), Net: "unix"})
	e.must(err)
	e.listened = make(chan notified, 10)
	var answers sync.WaitGroup
	done := make(chan struct{})
	go func() { // ends with the listener
		defer close(done)
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			answers.Go(func() {
				fd, state, err := receive(conn)
				conn.Close()
				if err == nil {
					err = answerOne(fd)
					unix.Close(fd)
				}
				e.listened <- notified{state, err}
			})
		}
	}()
	e.Cleanup(func() { l.Close(); <-done; answers.Wait() })
}

// receive takes a filter's descriptor and what is said with it.
func receive(conn *net.UnixConn) (fd int, state specs.ContainerProcessState, err error) {
	text, oob := make([]byte, 1<<16), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := conn.ReadMsgUnix(text, oob)
	if err != nil {
		return -1, state, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		return -1, state, fmt.Errorf("%d messages: %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, state, fmt.Errorf("%d descriptors: %w", len(fds), err)
	}
	return fds[0], state, json.Unmarshal(text[:n], &state)
}

// answerOne waits for a call of a filter and answers it (seccomp_unotify(2)).
func answerOne(fd int) error {
	const (
		receive = 0xc0502100 // SECCOMP_IOCTL_NOTIF_RECV
		send    = 0xc0182101 // SECCOMP_IOCTL_NOTIF_SEND
	)
	for deadline := time.Now().Add(patience); ; {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(poll, 100); err != nil && err != unix.EINTR {
			return os.NewSyscallError("poll", err)
		} else if n > 0 {
			break
		}
		if time.Now().After(deadline) {
			return os.ErrDeadlineExceeded
		}
	}
	var call struct {
		id         uint64
		pid, flags uint32
		data       [64]byte
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), receive, uintptr(unsafe.Pointer(&call))); errno != 0 {
		return os.NewSyscallError("receive", errno)
	}
	answer := struct {
		id    uint64
		value int64
		errno int32
		flags uint32
	}{id: call.id, errno: -int32(unix.ENOTUNIQ)}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), send, uintptr(unsafe.Pointer(&answer))); errno != 0 {
		return os.NewSyscallError("send", errno)
	}
	return nil
}

// answered looks at what the listener was told, of the container and of an exec.
func (e *env) answered(c *container) {
	first := <-e.listened
	e.equal(c.sh(e.T, "mkdir /run/x 2>&1 | sed 's/.*: //'"), "Name not unique on network\n")
	second := <-e.listened
	e.must(first.err, second.err)
	for _, s := range []specs.ContainerProcessState{first.state, second.state} {
		if s.Metadata != "of the test" || s.State.ID != c.ID() || s.State.Pid != c.pid || s.State.Bundle != c.Bundle() ||
			s.State.Annotations["org.example.key"] != "value" {
			e.Errorf("the listener was told %+v", s)
		}
	}
	if s := first.state; s.Pid != c.pid || s.State.Status != specs.StateCreating {
		e.Errorf("of the container it was told %+v", s)
	}
	if s := second.state; s.Pid == c.pid || s.Pid == 0 || s.State.Status != specs.StateRunning {
		e.Errorf("of the exec it was told %+v", s)
	}
}
