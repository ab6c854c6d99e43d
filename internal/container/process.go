package container

import (
	"fmt"
	"os"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/shimwright/shimwright/internal/engine"
	"github.com/shimwright/shimwright/task"
)

// newProcess makes libcontainer's process of an OCI one. ErrInvalidArgument: the spec cannot be run by anybody.
func newProcess(p *specs.Process) (*libcontainer.Process, error) {
	if err := engine.CheckProcess(p); err != nil {
		return nil, err
	}
	if err := checkScheduling(p); err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	lp := &libcontainer.Process{
		Args:            p.Args,
		Env:             p.Env,
		UID:             int(p.User.UID),
		GID:             int(p.User.GID),
		Cwd:             p.Cwd,
		Label:           p.SelinuxLabel,
		NoNewPrivileges: &p.NoNewPrivileges,
		AppArmorProfile: p.ApparmorProfile,
		Scheduler:       p.Scheduler,
		IOPriority:      p.IOPriority,
		LogLevel:        strconv.Itoa(int(logrus.GetLevel())),
	}
	for _, gid := range p.User.AdditionalGids {
		lp.AdditionalGroups = append(lp.AdditionalGroups, int(gid))
	}
	if size := p.ConsoleSize; size != nil {
		lp.ConsoleWidth, lp.ConsoleHeight = uint16(size.Width), uint16(size.Height)
	}
	if c := p.Capabilities; c != nil {
		lp.Capabilities = &configs.Capabilities{
			Bounding:    c.Bounding,
			Effective:   c.Effective,
			Inheritable: c.Inheritable,
			Permitted:   c.Permitted,
			Ambient:     c.Ambient,
		}
	}
	for _, l := range p.Rlimits {
		kind, ok := rlimits[l.Type]
		if !ok {
			return nil, fmt.Errorf("wrong rlimit value: %s: %w", l.Type, errdefs.ErrInvalidArgument)
		}
		lp.Rlimits = append(lp.Rlimits, configs.Rlimit{Type: kind, Hard: l.Hard, Soft: l.Soft})
	}
	affinity, err := configs.ConvertCPUAffinity(p.ExecCPUAffinity)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	lp.CPUAffinity = affinity
	return lp, nil
}

// checkScheduling refuses what the init would refuse when the container or the exec is half made.
func checkScheduling(p *specs.Process) error {
	if p.Scheduler != nil {
		if _, err := configs.ToSchedAttr(p.Scheduler); err != nil {
			return err
		}
	}
	if io := p.IOPriority; io != nil {
		switch io.Class {
		case specs.IOPRIO_CLASS_RT, specs.IOPRIO_CLASS_BE, specs.IOPRIO_CLASS_IDLE:
		default:
			return fmt.Errorf("invalid ioPriority.Class: %q", io.Class)
		}
		if io.Priority < 0 || io.Priority > 7 {
			return fmt.Errorf("invalid ioPriority.Priority: %d", io.Priority)
		}
	}
	return nil
}

// stdio are the ends of a process's streams while it is being started.
type stdio struct {
	io            *task.IO
	socket, child *os.File // with a terminal: where the pty's master comes out, and where it goes in
	master        chan master
}

// master is the terminal's, or why it has not come.
type master struct {
	*os.File
	err error
}

// connect gives p its streams: the files themselves, or a way to send a pty's master.
func connect(p *libcontainer.Process, io *task.IO) (*stdio, error) {
	s := &stdio{io: io}
	if !io.Terminal {
		p.Stdin, p.Stdout, p.Stderr = io.Stdin, io.Stdout, io.Stderr
		return s, nil
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	_ = unix.SetNonblock(pair[0], true) // for the poller: a close ends the wait
	s.socket, s.child = os.NewFile(uintptr(pair[0]), "console"), os.NewFile(uintptr(pair[1]), "console")
	p.ConsoleSocket = s.child
	s.master = make(chan master, 1)
	// During the start: the earlier the terminal is set up, the less of what the process says goes through as it is.
	go func() { // ends in close at the latest
		f, err := engine.ReceiveMaster(s.socket)
		s.master <- master{f, err}
	}()
	return s, nil
}

// finish hands the master of the terminal, if there is one, to whoever wants it. The process has been started.
func (s *stdio) finish() error {
	if s.socket == nil {
		return nil
	}
	_ = s.child.Close() // the process has it: if that ends, so does the wait
	m := <-s.master
	s.master <- master{err: os.ErrClosed} // for close
	if m.err != nil {
		return fmt.Errorf("receive the terminal: %w", m.err)
	}
	if err := s.io.SetConsole(m.File); err != nil {
		return fmt.Errorf("set console: %w", err)
	}
	return nil
}

// close frees what finish has not.
func (s *stdio) close() {
	if s.socket == nil {
		return
	}
	_ = s.socket.Close()
	_ = s.child.Close()
	if m := <-s.master; m.File != nil {
		_ = m.Close()
	}
}

// rlimits are the names of setrlimit(2).
var rlimits = map[string]int{
	"RLIMIT_AS":         unix.RLIMIT_AS,
	"RLIMIT_CORE":       unix.RLIMIT_CORE,
	"RLIMIT_CPU":        unix.RLIMIT_CPU,
	"RLIMIT_DATA":       unix.RLIMIT_DATA,
	"RLIMIT_FSIZE":      unix.RLIMIT_FSIZE,
	"RLIMIT_LOCKS":      unix.RLIMIT_LOCKS,
	"RLIMIT_MEMLOCK":    unix.RLIMIT_MEMLOCK,
	"RLIMIT_MSGQUEUE":   unix.RLIMIT_MSGQUEUE,
	"RLIMIT_NICE":       unix.RLIMIT_NICE,
	"RLIMIT_NOFILE":     unix.RLIMIT_NOFILE,
	"RLIMIT_NPROC":      unix.RLIMIT_NPROC,
	"RLIMIT_RSS":        unix.RLIMIT_RSS,
	"RLIMIT_RTPRIO":     unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME":     unix.RLIMIT_RTTIME,
	"RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
	"RLIMIT_STACK":      unix.RLIMIT_STACK,
}
