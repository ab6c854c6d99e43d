package spec_test

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// stat prints fields of the shell's own /proc/PID/stat.
func stat(fields ...int) string {
	var b strings.Builder
	b.WriteString("read line < /proc/$$/stat; set -- $line; echo")
	for _, f := range fields {
		fmt.Fprintf(&b, " ${%d}", f)
	}
	return b.String()
}

// Fields of /proc/PID/stat (proc(5)).
const (
	statNice     = 19
	statPriority = 40
	statPolicy   = 41
)

// mayRaise tells whether this process may raise limits and lower OOM scores.
func mayRaise() bool { return hasCap(unix.CAP_SYS_RESOURCE) }

func mayNotRaise() bool { return !mayRaise() }

func hasCap(n int) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&header, &data[0]) == nil && data[n/32].Effective&(1<<(n%32)) != 0
}

// exists is a condition: the machine has the file.
func exists(path string) func() bool {
	return func() bool { _, err := os.Stat(path); return err == nil }
}

func lacks(path string) func() bool {
	return func() bool { return !exists(path)() }
}

const (
	apparmor = "/sys/kernel/security/apparmor"
	selinux  = "/sys/fs/selinux/enforce"
)

// rlimits are lower than any machine's, because raising needs a privilege.
var rlimits = map[string]struct {
	name  string // in /proc/self/limits
	value uint64
}{
	"RLIMIT_AS":         {"Max address space", 1 << 40},
	"RLIMIT_CORE":       {"Max core file size", 0},
	"RLIMIT_CPU":        {"Max cpu time", 1000},
	"RLIMIT_DATA":       {"Max data size", 1 << 39},
	"RLIMIT_FSIZE":      {"Max file size", 1 << 30},
	"RLIMIT_LOCKS":      {"Max file locks", 100},
	"RLIMIT_MEMLOCK":    {"Max locked memory", 1 << 14},
	"RLIMIT_MSGQUEUE":   {"Max msgqueue size", 4096},
	"RLIMIT_NICE":       {"Max nice priority", 0},
	"RLIMIT_NOFILE":     {"Max open files", 512},
	"RLIMIT_NPROC":      {"Max processes", 1000},
	"RLIMIT_RSS":        {"Max resident set", 1 << 38},
	"RLIMIT_RTPRIO":     {"Max realtime priority", 0},
	"RLIMIT_RTTIME":     {"Max realtime timeout", 1000000},
	"RLIMIT_SIGPENDING": {"Max pending signals", 90},
	"RLIMIT_STACK":      {"Max stack size", 1 << 22},
}

func processCases() []testCase {
	lastCPU := fmt.Sprint(runtime.NumCPU() - 1)
	return []testCase{{
		name:   "args, env and cwd",
		fields: []string{"process.args", "process.env", "process.cwd"},
		set: func(_ *env, s *specs.Spec) {
			s.Process.Args = []string{"sh", "-c", "pwd; echo $GREETING $# $1", "name", "two words"}
			s.Process.Env = append(s.Process.Env, "GREETING=good day")
			s.Process.Cwd = "/tmp"
		},
		want: "/tmp\ngood day 1 two words",
	}, {
		name: "cwd is made if it is missing",
		set:  func(_ *env, s *specs.Spec) { s.Process.Cwd = "/run/made/for/it" }, script: "pwd", want: "/run/made/for/it",
	}, {
		name: "HOME is the user's in /etc/passwd",
		set:  func(_ *env, s *specs.Spec) { s.Process.User.UID = 65534 }, script: "echo $HOME", want: "/",
	}, {
		name:   "user and groups",
		fields: []string{"process.user.uid", "process.user.gid", "process.user.additionalGids"},
		set: func(_ *env, s *specs.Spec) {
			s.Process.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{5, 3000000}}
		},
		script: "id -u; id -g; id -G", want: "1000\n1001\n1001 5 3000000",
	}, {
		name:   "umask",
		fields: []string{"process.user.umask"},
		set:    func(_ *env, s *specs.Spec) { s.Process.User.Umask = new(uint32(0o27)) },
		script: "umask", want: "0027",
	}, {
		name: "umask without a wish",
		// of the shim's there is nothing to be seen
		script: "umask", want: "0022",
	}, {
		name:   "umask of an exec",
		set:    func(_ *env, s *specs.Spec) { s.Process.User.Umask = new(uint32(0o27)) },
		check:  func(e *env, c *container) { e.equal(c.sh(e.T, "umask"), "0027\n") },
		fields: []string{"process.user.umask"},
	}, {
		name:   "terminal and its size",
		fields: []string{"process.terminal", "process.consoleSize"},
		set: func(_ *env, s *specs.Spec) {
			s.Process.Terminal = true
			s.Process.ConsoleSize = &specs.Box{Height: 17, Width: 91}
		},
		script: "tty; stty size; stat -c '%t %T' /dev/console", want: "/dev/pts/0\n17 91\n88 0",
	}, {
		name:  "terminal and its size for an exec",
		check: execTerminal,
	}, {
		name: "capabilities",
		fields: []string{
			"process.capabilities.bounding", "process.capabilities.effective", "process.capabilities.permitted",
			"process.capabilities.inheritable", "process.capabilities.ambient",
		},
		set: func(_ *env, s *specs.Spec) {
			chown, bind, kill := "CAP_CHOWN", "CAP_NET_BIND_SERVICE", "CAP_KILL" // 0, 10, 5
			s.Process.User.UID = 1000
			s.Process.Capabilities = &specs.LinuxCapabilities{
				Bounding: []string{chown, bind, kill}, Effective: []string{bind}, Permitted: []string{bind, kill},
				Inheritable: []string{bind, kill}, Ambient: []string{bind},
			}
		},
		script: "grep ^Cap /proc/self/status | tr -d '\\t'",
		want:   "CapInh:0000000000000420\nCapPrm:0000000000000400\nCapEff:0000000000000400\nCapBnd:0000000000000421\nCapAmb:0000000000000400",
	}, {
		name:   "no capabilities",
		set:    func(_ *env, s *specs.Spec) { s.Process.Capabilities = &specs.LinuxCapabilities{} },
		script: "grep -c '^Cap.*0000000000000000$' /proc/self/status", want: "5",
	}, {
		name: "capabilities of an exec are its own",
		check: func(e *env, c *container) {
			p := *c.spec.Process
			p.Args = []string{"grep", "^CapEff", "/proc/self/status"}
			p.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN"}, Effective: []string{"CAP_CHOWN"}, Permitted: []string{"CAP_CHOWN"}}
			e.execs(c, &p, "CapEff:\t0000000000000001\n", 0)
		},
	}, {
		name: "an unknown capability is left out and logged",
		set: func(_ *env, s *specs.Spec) {
			s.Process.Capabilities.Bounding = append(s.Process.Capabilities.Bounding, "CAP_MAGIC")
		},
		script: "true", log: "CAP_MAGIC", by: inProcess,
	}, {
		name:   "rlimits",
		fields: []string{"process.rlimits"},
		set: func(_ *env, s *specs.Spec) {
			s.Process.Rlimits = nil
			for kind, limit := range rlimits {
				s.Process.Rlimits = append(s.Process.Rlimits, specs.POSIXRlimit{Type: kind, Hard: limit.value, Soft: limit.value / 2})
			}
			slices.SortFunc(s.Process.Rlimits, func(a, b specs.POSIXRlimit) int { return strings.Compare(a.Type, b.Type) })
		},
		check: func(e *env, c *container) {
			data, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", c.pid))
			e.must(err)
			for kind, limit := range rlimits {
				got := ""
				for line := range strings.Lines(string(data)) {
					if rest, ok := strings.CutPrefix(line, limit.name); ok {
						got = strings.Join(strings.Fields(rest)[:2], " ")
					}
				}
				if want := fmt.Sprint(limit.value/2, " ", limit.value); got != want {
					e.Errorf("%s: got %s, want %s", kind, got, want)
				}
			}
			e.equal(c.sh(e.T, "ulimit -Sn; ulimit -Hn"), "256\n512\n")
		},
	}, {
		name: "a raised rlimit is refused", only: mayNotRaise,
		set: func(_ *env, s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NICE", Hard: 30, Soft: 30}}
		},
		createFails: "operation not permitted",
	}, {
		name:   "no new privileges",
		fields: []string{"process.noNewPrivileges"},
		set:    func(_ *env, s *specs.Spec) { s.Process.NoNewPrivileges = true },
		script: "grep NoNewPrivs /proc/self/status", want: "NoNewPrivs:\t1",
	}, {
		name:   "new privileges",
		set:    func(_ *env, s *specs.Spec) { s.Process.NoNewPrivileges = false },
		script: "grep NoNewPrivs /proc/self/status", want: "NoNewPrivs:\t0",
	}, {
		name: "AppArmor is missing", only: lacks(apparmor),
		fields:      []string{"process.apparmorProfile"},
		set:         func(_ *env, s *specs.Spec) { s.Process.ApparmorProfile = "strict" },
		createFails: "apparmor",
	}, {
		name: "AppArmor profile", only: exists(apparmor),
		set:    func(_ *env, s *specs.Spec) { s.Process.ApparmorProfile = "unconfined" },
		script: "cat /proc/self/attr/current", want: "unconfined",
	}, {
		name: "SELinux is missing", only: lacks(selinux),
		fields:      []string{"process.selinuxLabel"},
		set:         func(_ *env, s *specs.Spec) { s.Process.SelinuxLabel = "system_u:system_r:container_t:s0" },
		createFails: "selinux label is specified in config, but selinux is disabled or not supported",
	}, {
		name:   "higher OOM score",
		fields: []string{"process.oomScoreAdj"},
		set:    func(_ *env, s *specs.Spec) { s.Process.OOMScoreAdj = new(500) },
		check: func(e *env, c *container) { // an exec has the container's
			e.equal(c.sh(e.T, "cat /proc/1/oom_score_adj /proc/self/oom_score_adj"), "500\n500\n")
		},
	}, {
		name: "lower OOM score", only: mayRaise,
		set:    func(_ *env, s *specs.Spec) { s.Process.OOMScoreAdj = new(-500) },
		script: "cat /proc/self/oom_score_adj", want: "-500",
	}, {
		name: "lower OOM score without the privilege", only: mayNotRaise,
		set:         func(_ *env, s *specs.Spec) { s.Process.OOMScoreAdj = new(-999) },
		createFails: "oom_score_adj",
	}, {
		name:   "scheduler: batch",
		fields: []string{"process.scheduler.policy", "process.scheduler.nice"},
		set: func(_ *env, s *specs.Spec) {
			s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 7}
		},
		script: stat(statPolicy, statNice), want: "3 7",
	}, {
		name: "scheduler: real time", only: exists(realTime),
		fields: []string{"process.scheduler.priority", "process.scheduler.flags"},
		set: func(_ *env, s *specs.Spec) {
			s.Process.Scheduler = &specs.Scheduler{
				Policy: specs.SchedRR, Priority: 9, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork},
			}
			s.Linux.Resources.CPU = &specs.LinuxCPU{RealtimeRuntime: new(int64(1000))}
		},
		script: stat(statPolicy, statPriority) + "; sh -c '" + stat(statPolicy) + "'; true", want: "2 9\n0",
	}, {
		name:   "scheduler: deadline",
		fields: []string{"process.scheduler.runtime", "process.scheduler.deadline", "process.scheduler.period"},
		set: func(_ *env, s *specs.Spec) {
			s.Process.Scheduler = &specs.Scheduler{
				Policy: specs.SchedDeadline, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork},
				Runtime: 2_000_000, Deadline: 10_000_000, Period: 20_000_000,
			}
		},
		script: stat(statPolicy), want: "6",
	}, {
		name: "scheduler of an exec is its own",
		check: func(e *env, c *container) {
			p := *c.spec.Process
			p.Args, p.Scheduler = []string{"sh", "-c", stat(statPolicy, statNice)}, &specs.Scheduler{Policy: specs.SchedIdle}
			e.execs(c, &p, "5 0\n", 0)
		},
	}, {
		name:   "I/O priority",
		fields: []string{"process.ioPriority"},
		set: func(_ *env, s *specs.Spec) {
			s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 6}
		},
		script: "ionice -p $$", want: "best-effort: prio 6",
	}, {
		name: "I/O priority of an exec is its own",
		check: func(e *env, c *container) {
			p := *c.spec.Process
			p.Args, p.IOPriority = []string{"ionice"}, &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_IDLE}
			e.execs(c, &p, "idle\n", 0)
		},
	}, {
		name:   "CPU affinity of execs",
		fields: []string{"process.execCPUAffinity"},
		set: func(_ *env, s *specs.Spec) {
			s.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0", Final: lastCPU}
		},
		check: func(e *env, c *container) {
			script := "grep Cpus_allowed_list /proc/self/status | cut -f2"
			e.equal(c.sh(e.T, script), lastCPU+"\n")
			p := *c.spec.Process
			p.Args, p.ExecCPUAffinity = []string{"sh", "-c", script}, nil
			e.execs(c, &p, lastCPU+"\n", 0) // the container's holds for an exec without one
			p.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0"}
			e.execs(c, &p, "0\n", 0)
		},
	}, {
		name:        "a program that is missing",
		set:         func(_ *env, s *specs.Spec) { s.Process.Args = []string{"nosuch"} },
		createFails: `exec: "nosuch": executable file not found in $PATH`,
	}, {
		name:        "a program that may not be executed",
		set:         func(_ *env, s *specs.Spec) { s.Process.Args = []string{"/etc/passwd"} },
		createFails: "permission denied",
	}, {
		name: "an exec of what is missing",
		check: func(e *env, c *container) {
			p := *c.spec.Process
			p.Args = []string{"nosuch"}
			if _, _, err := c.exec(e.T, &p); err == nil || !strings.Contains(err.Error(), `OCI runtime exec failed: exec failed`) ||
				!strings.Contains(err.Error(), `exec: "nosuch": executable file not found in $PATH`) {
				e.Errorf("exec: %v", err)
			}
		},
	}, {
		name: "an exec's bad spec is refused at once", by: inProcess,
		check: func(e *env, c *container) {
			for _, p := range []*specs.Process{
				{Cwd: "/"},
				{Args: []string{"true"}},
				{Args: []string{"true"}, Cwd: "relative"},
				{Args: []string{"true"}, Cwd: "/", Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_MAGIC"}}},
				{Args: []string{"true"}, Cwd: "/", ExecCPUAffinity: &specs.CPUAffinity{Initial: "first"}},
				{Args: []string{"true"}, Cwd: "/", IOPriority: &specs.LinuxIOPriority{Class: "IOPRIO_CLASS_MAGIC"}},
				{Args: []string{"true"}, Cwd: "/", IOPriority: &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 8}},
				{Args: []string{"true"}, Cwd: "/", Scheduler: &specs.Scheduler{Policy: "SCHED_MAGIC"}},
				{Args: []string{"true"}, Cwd: "/", Scheduler: &specs.Scheduler{}},
				{Args: []string{"true"}, Cwd: "/", Scheduler: &specs.Scheduler{Policy: specs.SchedOther, Flags: []specs.LinuxSchedulerFlag{"SCHED_FLAG_MAGIC"}}},
			} {
				if _, _, err := c.exec(e.T, p); !errdefs.IsInvalidArgument(err) {
					e.Errorf("exec %+v: %v", p, err)
				}
			}
		},
	}}
}

// execTerminal looks at the terminal of an exec from its first moment.
func execTerminal(e *env, c *container) {
	p := *c.spec.Process
	p.Terminal = true
	p.ConsoleSize = &specs.Box{Height: 23, Width: 77}
	p.Args = []string{"sh", "-c", "tty; stty size; stat -c %u $(tty)"}
	p.User.UID = 1000
	e.execs(c, &p, "/dev/pts/0\n23 77\n1000\n", 0)
}

// equal compares what was seen with what is wanted.
func (e *env) equal(got, want string) {
	e.Helper()
	if got != want {
		e.Errorf("got %q, want %q", got, want)
	}
}

// execs runs p in the container and compares its output and status.
func (e *env) execs(c *container, p *specs.Process, want string, status int) {
	e.Helper()
	out, got, err := c.exec(e.T, p)
	if err != nil || got != status || out != want {
		e.Errorf("exec %q: status %d, %v, output %q, want %d, %q", p.Args, got, err, out, status, want)
	}
}
