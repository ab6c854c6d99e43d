package spec_test

import (
	"fmt"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func rootCases() []testCase {
	return []testCase{{
		name:   "read-only root",
		fields: []string{"root.path", "root.readonly"},
		set:    func(_ *env, s *specs.Spec) { s.Root.Readonly = true },
		script: "touch /file || touch /run/file && echo only /run", want: "only /run\ntouch: /file: Read-only file system",
	}, {
		name:   "writable root",
		script: "touch /file && rm /file",
	}, {
		name:        "root is a symbolic link",
		prepare:     func(e *env) { e.must(os.Symlink(e.h.rootfs, e.path("link"))) },
		set:         func(e *env, s *specs.Spec) { s.Root.Path = e.path("link") },
		createFails: "invalid rootfs: not an absolute path, or a symlink", class: errdefs.IsInvalidArgument, by: inProcess,
	}, {
		name:        "root is missing",
		set:         func(e *env, s *specs.Spec) { s.Root.Path = e.path("missing") },
		createFails: "missing",
	}, {
		name:   "host name and domain name",
		fields: []string{"hostname", "domainname"},
		set:    func(_ *env, s *specs.Spec) { s.Hostname, s.Domainname = "inside", "example.org" },
		script: "hostname; cat /proc/sys/kernel/domainname", want: "inside\nexample.org",
	}, {
		name:   "masked paths",
		fields: []string{"linux.maskedPaths"},
		set: func(_ *env, s *specs.Spec) {
			s.Linux.MaskedPaths = []string{"/etc/passwd", "/sys/kernel", "/proc/cpuinfo", "/missing"}
		},
		script: "wc -c < /etc/passwd; ls /sys/kernel | wc -l; touch /sys/kernel/x; stat -c %t:%T /proc/cpuinfo",
		want:   "0\n0\n1:3\ntouch: /sys/kernel/x: Read-only file system",
	}, {
		name:   "read-only paths",
		fields: []string{"linux.readonlyPaths"},
		set: func(_ *env, s *specs.Spec) {
			s.Linux.ReadonlyPaths = []string{"/proc/sys", "/etc", "/missing"}
		},
		script: "touch /etc/x; echo 1 > /proc/sys/kernel/msgmax",
		want:   "touch: /etc/x: Read-only file system\nsh: can't create /proc/sys/kernel/msgmax: Read-only file system", status: 1,
	}, {
		name:   "root propagation: shared",
		fields: []string{"linux.rootfsPropagation"},
		set:    func(_ *env, s *specs.Spec) { s.Linux.RootfsPropagation = "shared" },
		script: propagationOf("/"), match: `^shared:\d+\n$`,
	}, {
		name:   "root propagation: private",
		set:    func(_ *env, s *specs.Spec) { s.Linux.RootfsPropagation = "private" },
		script: propagationOf("/"), want: "-",
	}, {
		name:   "root propagation: unbindable",
		set:    func(_ *env, s *specs.Spec) { s.Linux.RootfsPropagation = "unbindable" },
		script: propagationOf("/"), want: "unbindable",
	}}
}

// propagationOf prints the optional field of a mount in the container.
func propagationOf(point string) string {
	return fmt.Sprintf(`awk '$5 == "%s" { print $7 }' /proc/self/mountinfo`, point)
}

// optionsOf prints the mount's own options.
func optionsOf(point string) string {
	return fmt.Sprintf(`awk '$5 == "%s" { print $6 }' /proc/self/mountinfo`, point)
}

func mount(destination, kind, source string, options ...string) specs.Mount {
	return specs.Mount{Destination: destination, Type: kind, Source: source, Options: options}
}

// mounts are the case's own, behind the usual ones.
func mounts(list func(e *env) []specs.Mount) func(*env, *specs.Spec) {
	return func(e *env, s *specs.Spec) { s.Mounts = append(s.Mounts, list(e)...) }
}

// binds bind the case's directory to /data.
func binds(options ...string) func(*env, *specs.Spec) {
	return mounts(func(e *env) []specs.Mount {
		return []specs.Mount{mount("/data", "bind", e.dir, append([]string{"bind"}, options...)...)}
	})
}

// tmpfs mounts one on a directory of the case's, on the host.
func (e *env) tmpfs(name string) string {
	e.Helper()
	dir := e.path(name)
	e.must(os.Mkdir(dir, 0o755), unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"))
	e.Cleanup(func() { e.must(unix.Unmount(dir, 0)) })
	return dir
}

// mapsOwners is a condition: the kernel can map the owners of files on a tmpfs.
func mapsOwners() bool {
	var uts unix.Utsname
	var major, minor int
	_ = unix.Uname(&uts)
	_, _ = fmt.Sscanf(unix.ByteSliceToString(uts.Release[:]), "%d.%d", &major, &minor)
	return major > 6 || major == 6 && minor >= 3
}

// flagCases are the options of a mount that are flags of mount(2): as they are said, and as mountinfo shows them.
func flagCases() []testCase {
	flags := []struct{ options, shown string }{
		{"ro", "ro,relatime"},
		{"rw,nosuid,nodev,noexec", "rw,nosuid,nodev,noexec,relatime"},
		{"ro,rw,nosuid,suid,nodev,dev,noexec,exec", "rw,relatime"},
		{"noatime", "rw,noatime"},
		{"noatime,atime", "rw,relatime"},
		{"nodiratime", "rw,nodiratime,relatime"},
		{"nodiratime,diratime", "rw,relatime"},
		{"strictatime", "rw"},
		{"relatime", "rw,relatime"},
		{"nosymfollow", "rw,relatime,nosymfollow"},
		{"nosymfollow,symfollow", "rw,relatime"},
		{"async,atime,dev,diratime,exec,loud,noiversion,nolazytime,nomand,norelatime,nostrictatime,rw,suid,symfollow", "rw,relatime"},
	}
	var cases []testCase
	for _, f := range flags {
		cases = append(cases, testCase{
			name: "tmpfs " + f.options,
			set: mounts(func(*env) []specs.Mount {
				return []specs.Mount{mount("/data", "tmpfs", "tmpfs", strings.Split(f.options, ",")...)}
			}),
			script: optionsOf("/data"), want: f.shown,
		}, testCase{
			name:    "bind " + f.options,
			prepare: func(e *env) { e.tmpfs("fs") },
			set: mounts(func(e *env) []specs.Mount {
				return []specs.Mount{mount("/data", "", e.path("fs"), append([]string{"bind"}, strings.Split(f.options, ",")...)...)}
			}),
			script: optionsOf("/data"), want: f.shown,
		})
	}
	return cases
}

func mountCases() []testCase {
	ids := func(container, host uint32) []specs.LinuxIDMapping {
		return []specs.LinuxIDMapping{{ContainerID: container, HostID: host, Size: 10}}
	}
	// mapped is a mount whose owners are mapped, on a file system that can do it.
	mapped := func(option ...string) func(*env, *specs.Spec) {
		return mounts(func(e *env) []specs.Mount {
			m := mount("/data", "bind", e.path("fs"), append([]string{"rbind"}, option...)...)
			m.UIDMappings, m.GIDMappings = ids(0, 1000), ids(0, 2000)
			return []specs.Mount{m}
		})
	}
	own := func(e *env) {
		dir := e.tmpfs("fs")
		e.must(os.WriteFile(dir+"/file", nil, 0o644), os.Chown(dir+"/file", 3, 4))
		e.must(os.Mkdir(dir+"/sub", 0o755), unix.Mount("tmpfs", dir+"/sub", "tmpfs", 0, "mode=755"))
		e.Cleanup(func() { e.must(unix.Unmount(dir+"/sub", 0)) })
		e.must(os.WriteFile(dir+"/sub/file", nil, 0o644), os.Chown(dir+"/sub/file", 3, 4))
	}
	return append(flagCases(), []testCase{{
		name:    "bind of a directory",
		fields:  []string{"mounts[].destination", "mounts[].type", "mounts[].source", "mounts[].options"},
		prepare: func(e *env) { e.must(os.WriteFile(e.path("file"), []byte("content"), 0o644)) },
		set:     binds(),
		script:  "cat /data/file; touch /data/new",
		want:    "content",
	}, {
		name:   "read-only bind",
		set:    binds("ro"),
		script: "touch /data/new", want: "touch: /data/new: Read-only file system", status: 1,
	}, {
		name:    "bind of a file, whose place is made",
		prepare: func(e *env) { e.must(os.WriteFile(e.path("file"), []byte("content"), 0o644)) },
		set: mounts(func(e *env) []specs.Mount {
			return []specs.Mount{mount("/run/deep/in/file", "bind", e.path("file"), "bind")}
		}),
		script: "cat /run/deep/in/file", want: "content",
	}, {
		name: "bind of what is missing",
		set: mounts(func(e *env) []specs.Mount {
			return []specs.Mount{mount("/data", "bind", e.path("missing"), "bind")}
		}),
		createFails: "no such file or directory",
	}, {
		name: "mount onto a link stays inside",
		prepare: func(e *env) {
			e.must(os.WriteFile(e.path("file"), []byte("content"), 0o644), os.RemoveAll(e.h.rootfs+"/link"),
				os.Symlink("/../../../../../../run/target", e.h.rootfs+"/link"))
		},
		set: mounts(func(e *env) []specs.Mount {
			return []specs.Mount{mount("/link", "bind", e.path("file"), "bind")}
		}),
		script: "cat /run/target", want: "content",
	}, {
		name:    "recursive bind, recursively read-only",
		prepare: own,
		set: mounts(func(e *env) []specs.Mount {
			return []specs.Mount{mount("/data", "bind", e.path("fs"), "rbind", "rro", "rnosuid", "rnodev", "rnoexec", "rnoatime", "rnodiratime", "rnosymfollow")}
		}),
		script: optionsOf("/data") + ";" + optionsOf("/data/sub"),
		want:   "ro,nosuid,nodev,noexec,noatime,nodiratime,nosymfollow\nro,nosuid,nodev,noexec,noatime,nodiratime,nosymfollow",
	}, {
		name:    "recursive bind, recursively as free as can be",
		prepare: own,
		set: mounts(func(e *env) []specs.Mount {
			return []specs.Mount{mount("/data", "bind", e.path("fs"), "rbind", "rrw", "rsuid", "rdev", "rexec", "rrelatime", "rdiratime", "rsymfollow")}
		}),
		script: optionsOf("/data") + ";" + optionsOf("/data/sub"), want: "rw,relatime\nrw,relatime",
	}, {
		name: "options of the whole file system",
		set: mounts(func(*env) []specs.Mount {
			return []specs.Mount{mount("/data", "tmpfs", "tmpfs", "sync", "dirsync", "lazytime", "silent")}
		}),
		script: `awk '$5 == "/data" { print $NF }' /proc/self/mountinfo`, match: `^rw,sync,dirsync,lazytime`,
	}, {
		name:    "recursive bind, read-only at the top",
		prepare: own,
		set: mounts(func(e *env) []specs.Mount {
			return []specs.Mount{mount("/data", "bind", e.path("fs"), "rbind", "ro")}
		}),
		script: "touch /data/sub/x && touch /data/x", want: "touch: /data/x: Read-only file system", status: 1,
	}, {
		name:    "propagation of a mount",
		prepare: func(e *env) { e.tmpfs("fs") },
		set: mounts(func(e *env) []specs.Mount {
			return []specs.Mount{
				mount("/run/a", "bind", e.path("fs"), "bind", "shared"),
				mount("/run/b", "bind", e.path("fs"), "bind", "private"),
				mount("/run/c", "bind", e.path("fs"), "bind", "unbindable"),
				mount("/run/d", "bind", e.path("fs"), "rbind", "rshared", "rslave"),
			}
		}),
		script: propagationOf("/run/a") + ";" + propagationOf("/run/b") + ";" + propagationOf("/run/c") + ";" + propagationOf("/run/d"),
		match:  `^shared:\d+\n-\nunbindable\n(master:\d+|-)\n$`,
	}, {
		name: "options of a file system",
		set: mounts(func(*env) []specs.Mount {
			return []specs.Mount{mount("/data", "tmpfs", "tmpfs", "size=64k", "mode=701", "uid=3", "gid=4")}
		}),
		script: "stat -c '%a %u %g' /data; df -k /data | awk 'NR == 2 { print $2 }'", want: "701 3 4\n64",
	}, {
		name: "tmpfs with what was there",
		prepare: func(e *env) {
			e.must(os.MkdirAll(e.h.rootfs+"/copied/dir", 0o755), os.WriteFile(e.h.rootfs+"/copied/dir/file", []byte("content"), 0o640))
		},
		set: mounts(func(*env) []specs.Mount {
			return []specs.Mount{mount("/copied", "tmpfs", "tmpfs", "tmpcopyup")}
		}),
		script: "cat /copied/dir/file; stat -c %a /copied/dir/file; touch /copied/new", want: "content640",
	}, {
		name:   "message queues",
		script: "stat -f -c %t /dev/mqueue", want: "19800202",
	}, {
		name: "cgroup",
		set: mounts(func(*env) []specs.Mount {
			return []specs.Mount{mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro")}
		}),
		// On cgroup v1 it is each controller's that is read-only.
		script: `awk '$5 ~ "^/sys/fs/cgroup(/pids)?$" { print $6 }' /proc/self/mountinfo | tail -n 1
			for f in /sys/fs/cgroup/pids/cgroup.procs /sys/fs/cgroup/cgroup.procs; do [ -e $f ] && grep -c . $f; done; true`,
		match: `^ro,.*\n[1-9]\d*\n$`,
	}, {
		name: "owners of a mount are mapped", only: mapsOwners,
		fields: []string{
			"mounts[].uidMappings[].hostID", "mounts[].uidMappings[].size", "mounts[].gidMappings[].hostID", "mounts[].gidMappings[].size",
		},
		prepare: own,
		set:     mapped(),
		script:  "stat -c %u:%g /data/file; stat -c %u:%g /data/sub/file",
		want:    "1003:2004\n3:4",
	}, {
		name: "owners of a mount and of those in it are mapped", only: mapsOwners,
		prepare: own,
		set:     mapped("ridmap"),
		script:  "stat -c %u:%g /data/file; stat -c %u:%g /data/sub/file",
		want:    "1003:2004\n1003:2004",
	}, {
		name: "owners of a mount are mapped from others than 0", only: mapsOwners,
		fields:  []string{"mounts[].uidMappings", "mounts[].gidMappings"},
		prepare: own,
		set: mounts(func(e *env) []specs.Mount {
			m := mount("/data", "bind", e.path("fs"), "bind")
			m.UIDMappings, m.GIDMappings = ids(3, 1000), ids(4, 2000)
			return []specs.Mount{m}
		}),
		script: "stat -c %u:%g /data/file", want: "1000:2000",
	}, {
		name: "mapped owners of what is no bind",
		set: mounts(func(*env) []specs.Mount {
			m := mount("/data", "tmpfs", "tmpfs")
			m.UIDMappings, m.GIDMappings = ids(0, 1000), ids(0, 1000)
			return []specs.Mount{m}
		}),
		createFails: "id-mapped mounts are only supported for bind-mounts", class: errdefs.IsInvalidArgument,
	}, {
		name:        "an option that a bind cannot have",
		set:         binds("size=64k"),
		createFails: "bind mounts cannot have any filesystem-specific options applied", class: errdefs.IsInvalidArgument,
	}, {
		name: "an option that the file system does not know",
		set: mounts(func(*env) []specs.Mount {
			return []specs.Mount{mount("/data", "tmpfs", "tmpfs", "magic")}
		}),
		createFails: "invalid argument",
	}, {
		name: "a file system that nobody knows",
		set: mounts(func(*env) []specs.Mount {
			return []specs.Mount{mount("/data", "magicfs", "magic")}
		}),
		createFails: "no such device",
	}, {
		name: "a relative destination works, and is logged",
		set: mounts(func(*env) []specs.Mount {
			return []specs.Mount{mount("data", "tmpfs", "tmpfs")}
		}),
		script: "stat -f -c %t /data", want: "1021994", log: "not absolute", by: inProcess,
	}}...)
}
