package spec_test

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// namespaceFile is the name of a namespace in /proc/PID/ns.
var namespaceFile = map[specs.LinuxNamespaceType]string{
	specs.PIDNamespace: "pid", specs.NetworkNamespace: "net", specs.MountNamespace: "mnt", specs.IPCNamespace: "ipc",
	specs.UTSNamespace: "uts", specs.UserNamespace: "user", specs.CgroupNamespace: "cgroup", specs.TimeNamespace: "time",
}

// unshared starts a process with the namespaces of clone(2)'s flags, and with user ids 100000–165535 if one is a user
// namespace.
func unshared(flags uintptr) func(*env) {
	return func(e *env) {
		e.Helper()
		cmd := exec.Command("sleep", "100000")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags &^ unix.CLONE_NEWTIME, Pdeathsig: syscall.SIGKILL}
		if flags&unix.CLONE_NEWUSER != 0 {
			ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 65536}}
			cmd.SysProcAttr.UidMappings, cmd.SysProcAttr.GidMappings = ids, ids
			cmd.SysProcAttr.Credential = &syscall.Credential{}
		}
		started := make(chan error)
		ended := make(chan struct{})
		over := make(chan struct{})
		go func() { // a thread of its own: it dies with the process, and may have changed namespaces
			runtime.LockOSThread()
			defer close(ended)
			var err error
			if flags&unix.CLONE_NEWTIME != 0 {
				err = unix.Unshare(unix.CLONE_NEWTIME)
			}
			if err == nil {
				err = cmd.Start()
			}
			started <- err
			if err == nil {
				<-over
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			}
		}()
		err := <-started
		e.Cleanup(func() { close(over); <-ended })
		e.must(err)
		e.ns = cmd.Process.Pid
	}
}

// join makes the container join a namespace of the process that unshared started.
func join(kinds ...specs.LinuxNamespaceType) func(*env, *specs.Spec) {
	return func(e *env, s *specs.Spec) {
		for _, kind := range kinds {
			without(s, kind)
			path := fmt.Sprintf("/proc/%d/ns/%s", e.ns, namespaceFile[kind])
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
		}
	}
}

func without(s *specs.Spec, kind specs.LinuxNamespaceType) {
	s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
}

func private(s *specs.Spec, kind specs.LinuxNamespaceType) {
	without(s, kind)
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: kind})
}

// sameNamespace looks that the container and an exec are in the namespaces of process pid, or for other in none.
func sameNamespace(other bool, kinds ...specs.LinuxNamespaceType) func(*env, *container) {
	return func(e *env, c *container) {
		of := e.ns
		if of == 0 {
			of = os.Getpid()
		}
		for _, kind := range kinds {
			name := namespaceFile[kind]
			want, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", of, name))
			e.must(err)
			got, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", c.pid, name))
			e.must(err)
			if (got == want) == other {
				e.Errorf("%s: the container is in %s, the other process in %s", kind, got, want)
			}
			e.equal(c.sh(e.T, "readlink /proc/self/ns/"+name), got+"\n")
		}
	}
}

// userNamespace gives the container one of its own.
func userNamespace(s *specs.Spec) {
	private(s, specs.UserNamespace)
	ids := []specs.LinuxIDMapping{{HostID: 100000, Size: 1000}, {ContainerID: 1000, HostID: 200000, Size: 100}}
	s.Linux.UIDMappings, s.Linux.GIDMappings = ids, slices.Clone(ids)
}

func namespaceCases() []testCase {
	all := []specs.LinuxNamespaceType{
		specs.PIDNamespace, specs.NetworkNamespace, specs.MountNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace,
	}
	cases := []testCase{{
		name:   "of its own",
		fields: []string{"linux.namespaces[].type"},
		set:    func(_ *env, s *specs.Spec) { private(s, specs.CgroupNamespace) },
		check:  sameNamespace(true, all...),
	}, {
		name: "of the host",
		set: func(_ *env, s *specs.Spec) {
			s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}}
			s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Type == "sysfs" })
		},
		check: sameNamespace(false, specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace),
	}, {
		name:   "cgroup namespace of its own",
		set:    func(_ *env, s *specs.Spec) { private(s, specs.CgroupNamespace) },
		script: "cut -d: -f3 /proc/self/cgroup | sort -u", want: "/",
	}, {
		name: "user namespace of its own",
		fields: []string{
			"linux.uidMappings[].hostID", "linux.uidMappings[].size", "linux.gidMappings[].hostID", "linux.gidMappings[].size",
		},
		set: func(_ *env, s *specs.Spec) {
			userNamespace(s)
			s.Linux.UIDMappings, s.Linux.GIDMappings = s.Linux.UIDMappings[:1], s.Linux.GIDMappings[:1]
		},
		script: `cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; id -u; touch /file; echo x > /dev/null; stat -c %u /dev/pts`,
		want:   "0 100000 1000\n 0 100000 1000\n0\n0\ntouch: /file: Permission denied",
	}, {
		name:   "user namespace with more than one range",
		fields: []string{"linux.uidMappings[].containerID", "linux.gidMappings[].containerID"},
		set: func(_ *env, s *specs.Spec) {
			userNamespace(s)
			s.Linux.UIDMappings[0].ContainerID, s.Linux.GIDMappings[0].ContainerID = 0, 0
			s.Process.User.UID, s.Process.User.GID = 1007, 1008
		},
		check: func(e *env, c *container) {
			var st unix.Stat_t
			e.must(unix.Stat(fmt.Sprintf("/proc/%d", c.pid), &st))
			e.equal(fmt.Sprint(st.Uid, " ", st.Gid), "200007 200008")
			e.equal(c.sh(e.T, "id -u; id -g"), "1007\n1008\n")
		},
	}, {
		name: "user namespace, and a mount mapped into it", only: mapsOwners,
		prepare: func(e *env) {
			dir := e.tmpfs("fs")
			e.must(os.WriteFile(dir+"/file", nil, 0o644), os.Chown(dir+"/file", 3, 4))
		},
		set: func(e *env, s *specs.Spec) {
			userNamespace(s)
			s.Mounts = append(s.Mounts, mount("/run/data", "bind", e.path("fs"), "bind", "idmap"))
		},
		script: "stat -c %u:%g /run/data/file; touch /run/data/file; touch /run/data/new && stat -c %u:%g /run/data/new", want: "3:4\n0:0",
	}, {
		name: "user namespace and terminal",
		set: func(_ *env, s *specs.Spec) {
			userNamespace(s)
			s.Process.Terminal = true
		},
		script: "tty; stat -c %u $(tty)", want: "/dev/pts/0\n0",
	}, {
		name:        "user namespace without mappings",
		set:         func(_ *env, s *specs.Spec) { private(s, specs.UserNamespace) },
		createFails: "no uid mappings found", class: errdefs.IsInvalidArgument, by: inProcess,
	}, {
		name: "mappings without a user namespace are of no use, which is logged",
		set: func(_ *env, s *specs.Spec) {
			userNamespace(s)
			without(s, specs.UserNamespace)
		},
		script: "true", log: "linux.uidMappings", by: inProcess,
	}, {
		name: "a namespace twice",
		set: func(_ *env, s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, s.Linux.Namespaces[0])
		},
		createFails: "duplicated ns", class: errdefs.IsInvalidArgument, by: inProcess,
	}, {
		name: "a namespace that is missing",
		set: func(e *env, s *specs.Spec) {
			without(s, specs.NetworkNamespace)
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: e.path("missing")})
		},
		createFails: "no such file or directory",
	}, {
		name: "a namespace of another kind",
		set: func(_ *env, s *specs.Spec) {
			without(s, specs.NetworkNamespace)
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/proc/self/ns/ipc"})
		},
		createFails: "setns",
	}, {
		name: "host name without a UTS namespace",
		set: func(_ *env, s *specs.Spec) {
			without(s, specs.UTSNamespace)
			s.Hostname = "inside"
		},
		createFails: "unable to set hostname without a private UTS namespace", class: errdefs.IsInvalidArgument, by: inProcess,
	}, {
		name: "time namespace", only: exists("/proc/self/ns/time"),
		fields: []string{"linux.timeOffsets"},
		set: func(_ *env, s *specs.Spec) {
			private(s, specs.TimeNamespace)
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{
				"boottime": {Secs: 100_000_000, Nanosecs: 5}, "monotonic": {Secs: 200_000_000, Nanosecs: 6},
			}
		},
		check: func(e *env, c *container) {
			script := "tr -s ' ' < /proc/self/timens_offsets; [ $(cut -d. -f1 /proc/uptime) -gt 100000000 ] && echo later"
			e.equal(c.sh(e.T, script), "monotonic 200000000 6\nboottime 100000000 5\nlater\n")
		},
	}, {
		name: "time offsets without a namespace",
		set: func(_ *env, s *specs.Spec) {
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1}}
		},
		createFails: "time namespace offsets specified, but time namespace isn't enabled", class: errdefs.IsInvalidArgument, by: inProcess,
	}, {
		name: "an unknown kind of namespace",
		set: func(_ *env, s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "magic"})
		},
		createFails: "namespace", class: errdefs.IsInvalidArgument,
	}, {
		name:    "joined: those of a pod",
		fields:  []string{"linux.namespaces"},
		prepare: unshared(unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWPID),
		set:     join(specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.PIDNamespace),
		check:   sameNamespace(false, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.PIDNamespace),
	}, {
		name:    "joined: user and those it owns",
		prepare: unshared(unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS),
		set:     join(specs.UserNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace),
		check:   sameNamespace(false, specs.UserNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace),
	}, {
		name:    "joined: user, with other mappings",
		prepare: unshared(unix.CLONE_NEWUSER),
		set: func(e *env, s *specs.Spec) {
			userNamespace(s)
			join(specs.UserNamespace)(e, s)
		},
		createFails: "non-matching mapping", class: errdefs.IsInvalidArgument, by: inProcess,
	}, {
		name:    "joined: user, with the same mappings, which is logged",
		prepare: unshared(unix.CLONE_NEWUSER),
		set: func(e *env, s *specs.Spec) {
			join(specs.UserNamespace)(e, s)
			s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: 100000, Size: 65536}}
			s.Linux.GIDMappings = s.Linux.UIDMappings
		},
		script: "id -u", want: "0", log: "both a userns path to join and a matching userns mapping", by: inProcess,
	}, {
		name: "joined: time", only: exists("/proc/self/ns/time"),
		prepare: unshared(unix.CLONE_NEWTIME),
		set:     join(specs.TimeNamespace),
		check:   sameNamespace(false, specs.TimeNamespace),
	}}
	for kind, flag := range map[specs.LinuxNamespaceType]uintptr{specs.MountNamespace: unix.CLONE_NEWNS, specs.CgroupNamespace: unix.CLONE_NEWCGROUP} {
		cases = append(cases, testCase{
			name: "joined: " + string(kind), prepare: unshared(flag), set: join(kind), check: sameNamespace(false, kind),
		})
	}
	slices.SortStableFunc(cases, func(a, b testCase) int { return strings.Compare(a.name, b.name) })
	return cases
}
