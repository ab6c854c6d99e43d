package spec_test

import (
	"io/fs"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Nobody has a driver for this device (major 240 is for local use): without a rule for it opening it is not permitted,
// with one there is no such device.
const localMajor = 240

const (
	openLocal = "mknod /run/local c 240 9; (: < /run/local) 2>&1 | sed 's/.*: //'"
	readLocal = "No such device or address"
	denied    = "Operation not permitted"
)

func deviceCases() []testCase {
	return []testCase{{
		name: "those that every container has",
		script: `for d in null zero full random urandom tty; do stat -c '%n %a %t:%T' /dev/$d; done; echo x > /dev/null; head -c 4 /dev/zero | wc -c
			ls -l /dev/fd /dev/stdin /dev/stdout /dev/stderr /dev/ptmx | sed 's/.*-> //'`,
		want: "/dev/null 666 1:3\n/dev/zero 666 1:5\n/dev/full 666 1:7\n/dev/random 666 1:8\n/dev/urandom 666 1:9\n/dev/tty 666 5:0\n4\n" +
			"/proc/self/fd\npts/ptmx\n/proc/self/fd/2\n/proc/self/fd/0\n/proc/self/fd/1",
	}, {
		name:   "nodes",
		fields: []string{"linux.devices"},
		set: func(_ *env, s *specs.Spec) {
			device := func(path, kind string, major, minor int64, mode fs.FileMode, uid, gid uint32) specs.LinuxDevice {
				return specs.LinuxDevice{Path: path, Type: kind, Major: major, Minor: minor, FileMode: &mode, UID: &uid, GID: &gid}
			}
			s.Linux.Devices = []specs.LinuxDevice{
				device("/dev/char", "c", 1, 3, 0o640, 1, 2),
				device("/dev/dir/block", "b", 7, 200, 0o600, 3, 4),
				device("/dev/unbuffered", "u", 1, 5, 0o604, 5, 6),
				device("/dev/pipe", "p", 0, 0, 0o622, 7, 8),
				{Path: "/dev/plain", Type: "c", Major: 1, Minor: 5},
				device("/dev/null", "c", 1, 3, 0o600, 9, 10), // instead of the usual one, with whose rule it goes
			}
			s.Linux.Resources.Devices = append(s.Linux.Resources.Devices,
				specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: new(int64(1)), Minor: new(int64(3)), Access: "rwm"})
		},
		script: "cd /dev; stat -c '%n %F %t:%T %a %u %g' char dir/block unbuffered pipe plain null",
		want: "char character special file 1:3 640 1 2\ndir/block block special file 7:c8 600 3 4\n" +
			"unbuffered character special file 1:5 604 5 6\npipe fifo 0:0 622 7 8\nplain character special file 1:5 666 0 0\n" +
			"null character special file 1:3 600 9 10",
	}, {
		name: "nodes in a user namespace",
		set: func(_ *env, s *specs.Spec) {
			userNamespace(s)
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/nought", Type: "c", Major: 1, Minor: 5}}
		},
		prepare:     nil,
		createFails: "nought", // there is none on the host to bind
	}, {
		name: "a node of an unknown type",
		set: func(_ *env, s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x", Type: "x"}}
		},
		createFails: "invalid device type", class: errdefs.IsInvalidArgument, by: inProcess,
	}, {
		name:   "without a rule",
		script: openLocal, want: denied,
	}, {
		name:   "a rule for one device",
		fields: []string{"linux.resources.devices"},
		set: func(_ *env, s *specs.Spec) {
			s.Linux.Resources.Devices = append(s.Linux.Resources.Devices,
				specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: new(int64(localMajor)), Minor: new(int64(9)), Access: "r"})
		},
		script: openLocal + "; (: > /run/local) 2>&1 | sed 's/.*: //'", want: readLocal + "\n" + denied,
	}, {
		name: "a rule for all devices of a type",
		set: func(_ *env, s *specs.Spec) {
			s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Access: "rwm"})
		},
		script: openLocal, want: readLocal,
	}, {
		name: "everything allowed, one denied",
		set: func(_ *env, s *specs.Spec) {
			s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{
				{Allow: true, Access: "rwm"},
				{Type: "c", Major: new(int64(localMajor)), Minor: new(int64(9)), Access: "rw"},
			}
		},
		script: openLocal + "; mknod /run/other c 240 8; (: < /run/other) 2>&1 | sed 's/.*: //'", want: denied + "\n" + readLocal,
	}, {
		name: "an update leaves them alone",
		set: func(_ *env, s *specs.Spec) {
			s.Linux.Resources.Devices = append(s.Linux.Resources.Devices,
				specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: new(int64(localMajor)), Access: "rwm"})
		},
		check: func(e *env, c *container) {
			e.update(c, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64(50))}})
			e.equal(c.sh(e.T, openLocal), readLocal+"\n")
		},
	}, {
		name: "a rule without access",
		set: func(_ *env, s *specs.Spec) {
			s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true}}
		},
		createFails: "access", class: errdefs.IsInvalidArgument, by: inProcess,
	}, {
		name: "a rule for an unknown type",
		set: func(_ *env, s *specs.Spec) {
			s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Type: "x", Access: "r"}}
		},
		createFails: "invalid cgroup device type", class: errdefs.IsInvalidArgument, by: inProcess,
	}}
}
