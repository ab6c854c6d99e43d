package spec_test

import (
	"errors"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
)

// dummy makes a network device on the host, and removes it if it is still there.
func dummy(name string) func(*env) {
	return func(e *env) {
		attributes := netlink.NewLinkAttrs()
		attributes.Name = name
		link := &netlink.Veth{LinkAttrs: attributes, PeerName: name + "p"}
		e.must(netlink.LinkAdd(link))
		e.Cleanup(func() {
			var gone netlink.LinkNotFoundError
			if left, err := netlink.LinkByName(name + "p"); err == nil {
				e.must(netlink.LinkDel(left))
			} else if !errors.As(err, &gone) {
				e.Error(err)
			}
		})
	}
}

// makesDevices is a condition: the kernel has pairs of network devices.
func makesDevices() bool {
	attributes := netlink.NewLinkAttrs()
	attributes.Name = "spectest9"
	link := &netlink.Veth{LinkAttrs: attributes, PeerName: "spectest9p"}
	return netlink.LinkAdd(link) == nil && netlink.LinkDel(link) == nil
}

func kernelCases() []testCase {
	return []testCase{{
		name:   "sysctl",
		fields: []string{"linux.sysctl"},
		set: func(_ *env, s *specs.Spec) {
			s.Linux.Sysctl = map[string]string{"kernel.msgmax": "12345", "net/ipv4/ip_forward": "1", "fs.mqueue.msg_max": "7"}
		},
		script: "cd /proc/sys; cat kernel/msgmax net/ipv4/ip_forward fs/mqueue/msg_max", want: "12345\n1\n7",
	}, {
		name:        "sysctl of the host",
		set:         func(_ *env, s *specs.Spec) { s.Linux.Sysctl = map[string]string{"vm.swappiness": "1"} },
		createFails: `sysctl "vm.swappiness" is not in a separate kernel namespace`, class: errdefs.IsInvalidArgument, by: inProcess,
	}, {
		name: "sysctl of the host's network",
		set: func(_ *env, s *specs.Spec) {
			without(s, specs.NetworkNamespace)
			s.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
		},
		createFails: `sysctl "net.ipv4.ip_forward" not allowed in host network namespace`, class: errdefs.IsInvalidArgument, by: inProcess,
	}, {
		name:   "personality",
		fields: []string{"linux.personality.domain"},
		set:    func(_ *env, s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32} },
		check: func(e *env, c *container) {
			e.equal(c.sh(e.T, "cat /proc/1/personality /proc/self/personality"), "00000008\n00000008\n")
		},
	}, {
		name:   "flags of the personality are left out, and that is logged",
		fields: []string{"linux.personality.flags"},
		set: func(_ *env, s *specs.Spec) {
			s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux, Flags: []specs.LinuxPersonalityFlag{"magic"}}
		},
		script: "true", log: "ignoring unsupported personality flags", by: inProcess,
	}, {
		name:        "an unknown personality",
		set:         func(_ *env, s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: "WINDOWS"} },
		createFails: "personality", class: errdefs.IsInvalidArgument, by: inProcess,
	}, {
		name: "memory policy", only: exists("/proc/self/numa_maps"),
		fields: []string{"linux.memoryPolicy"},
		set: func(_ *env, s *specs.Spec) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{
				Mode: specs.MpolInterleave, Nodes: "0", Flags: []specs.MemoryPolicyFlagType{specs.MpolFStaticNodes},
			}
		},
		check: func(e *env, c *container) {
			script := "head -n 1 /proc/self/numa_maps | cut -d' ' -f2"
			e.equal(c.sh(e.T, script), "interleave=static:0\n")
		},
	}, {
		name: "an unknown memory policy",
		set: func(_ *env, s *specs.Spec) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: "MPOL_MAGIC", Nodes: "0"}
		},
		createFails: "invalid memory policy mode", class: errdefs.IsInvalidArgument, by: inProcess,
	}, {
		name: "a memory policy without nodes",
		set: func(_ *env, s *specs.Spec) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind}
		},
		createFails: "memory policy mode requires at least one node", class: errdefs.IsInvalidArgument, by: inProcess,
	}, {
		name: "network device", only: makesDevices,
		fields:  []string{"linux.netDevices"},
		prepare: dummy("spectest0"),
		set: func(_ *env, s *specs.Spec) {
			s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"spectest0": {Name: "eth7"}}
		},
		script: "ls /sys/class/net", match: `(?m)^eth7$`,
	}, {
		name: "a network device that is missing",
		set: func(_ *env, s *specs.Spec) {
			s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"spectest1": {}}
		},
		createFails: "spectest1",
	}, {
		name: "a network device without a network namespace",
		set: func(_ *env, s *specs.Spec) {
			without(s, specs.NetworkNamespace)
			s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"spectest1": {}}
		},
		createFails: "unable to move network devices without a NET namespace", class: errdefs.IsInvalidArgument, by: inProcess,
	}, {
		name: "RDT without the processor's support", only: lacks("/sys/fs/resctrl"),
		fields: []string{"linux.intelRdt"},
		set: func(_ *env, s *specs.Spec) {
			s.Linux.IntelRdt = &specs.LinuxIntelRdt{
				ClosID: "guaranteed", Schemata: []string{"L3:0=f"}, L3CacheSchema: "L3:0=f", MemBwSchema: "MB:0=50", EnableMonitoring: true,
			}
		},
		createFails: "Intel RDT is not enabled",
	}, {
		name: "mount label without SELinux", only: lacks(selinux),
		fields:      []string{"linux.mountLabel"},
		set:         func(_ *env, s *specs.Spec) { s.Linux.MountLabel = "system_u:object_r:container_file_t:s0" },
		createFails: `context="system_u:object_r:container_file_t:s0"`,
	}, {
		name:   "an older version of the spec",
		fields: []string{"ociVersion"},
		set:    func(_ *env, s *specs.Spec) { s.Version = "1.0.0" },
		script: "true",
	}, {
		name:   "annotations",
		fields: []string{"annotations"},
		set:    func(_ *env, s *specs.Spec) { s.Annotations["org.example.key"] = "value" },
		script: "true",
	}}
}

func badCases() []testCase {
	return []testCase{{
		name: "no process", set: func(_ *env, s *specs.Spec) { s.Process = nil },
		createFails: "process property must not be empty", class: errdefs.IsInvalidArgument,
	}, {
		name: "no args", set: func(_ *env, s *specs.Spec) { s.Process.Args = nil },
		createFails: "args must not be empty", class: errdefs.IsInvalidArgument,
	}, {
		name: "no cwd", set: func(_ *env, s *specs.Spec) { s.Process.Cwd = "" },
		createFails: "Cwd property must not be empty", class: errdefs.IsInvalidArgument,
	}, {
		name: "relative cwd", set: func(_ *env, s *specs.Spec) { s.Process.Cwd = "tmp" },
		createFails: "Cwd must be an absolute path", class: errdefs.IsInvalidArgument,
	}, {
		name: "no root", set: func(_ *env, s *specs.Spec) { s.Root = nil },
		createFails: "root must be specified", class: errdefs.IsInvalidArgument, by: inProcess,
	}, {
		name: "no linux section", set: func(_ *env, s *specs.Spec) { s.Linux = nil },
		createFails: "linux property must not be empty", class: errdefs.IsInvalidArgument, by: inProcess,
	}, {
		name: "unknown rlimit",
		set: func(_ *env, s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_MAGIC", Hard: 1, Soft: 1}}
		},
		createFails: "RLIMIT_MAGIC", class: errdefs.IsInvalidArgument, by: inProcess,
	}, {
		name: "unknown scheduler", set: func(_ *env, s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: "SCHED_MAGIC"} },
		createFails: "SCHED_MAGIC", class: errdefs.IsInvalidArgument, by: inProcess,
	}, {
		name: "priority for a scheduler that has none",
		set: func(_ *env, s *specs.Spec) {
			s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Priority: 3}
		},
		createFails: "scheduler.priority can only be specified", class: errdefs.IsInvalidArgument, by: inProcess,
	}, {
		name: "unknown class of I/O",
		set: func(_ *env, s *specs.Spec) {
			s.Process.IOPriority = &specs.LinuxIOPriority{Class: "IOPRIO_CLASS_MAGIC"}
		},
		createFails: "invalid ioPriority.Class", class: errdefs.IsInvalidArgument, by: inProcess,
	}, {
		name: "CPU affinity that is no list",
		set: func(_ *env, s *specs.Spec) {
			s.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "first"}
		},
		createFails: "CPUAffinity", class: errdefs.IsInvalidArgument, by: inProcess,
	}, {
		name: "unknown root propagation", set: func(_ *env, s *specs.Spec) { s.Linux.RootfsPropagation = "magic" },
		createFails: "rootfsPropagation=magic is not supported", class: errdefs.IsInvalidArgument, by: inProcess,
	}}
}
