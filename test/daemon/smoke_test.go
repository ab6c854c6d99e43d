package daemon_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/shimwright/shimwright/internal/testkit"
)

// What every daemon's user does in a day, under each daemon in use. All of it shares one daemon of a release, so that it
// stays short; the tests beside this one go into depth with one release.
func TestSmoke(t *testing.T) {
	for _, r := range releases {
		t.Run(r.String(), func(t *testing.T) {
			d := newDaemonOf(t, r, "debug")
			w := d.watch()
			for _, part := range []struct {
				name string
				test func(*daemon, *watch)
			}{
				{"start", smokeStart},
				{"run", smokeRun},
				{"refused", smokeRefused},
				{"exec", smokeExec},
				{"attach", smokeAttach},
				{"pause", smokePause},
				{"kill", smokeKill},
				{"oom", smokeOOM},
				{"options", smokeOptions},
				{"info", smokeInfo},
				{"snapshotters", smokeSnapshotters},
				{"pod", smokePod},
				{"shim-killed", smokeShimKilled},
				{"daemon-killed", smokeDaemonKilled}, // the last one: it ends the watch
			} {
				d.part(t, part.name, func() { part.test(d, w) })
			}
		})
	}
}

// part runs a subtest with the daemon.
func (d *daemon) part(t *testing.T, name string, test func()) {
	t.Run(name, func(t *testing.T) {
		defer func(outer *testing.T) { d.t = outer }(d.t)
		d.t = t
		test()
	})
}

// want reports a result that is not the wanted one.
func (d *daemon) want(what string, got, want result) {
	d.t.Helper()
	if got != want {
		d.t.Errorf("%s: got %+v, want %+v", what, got, want)
	}
}

// end ends a container with SIGKILL and removes it.
func (d *daemon) end(id string) {
	d.t.Helper()
	d.kill(id, "SIGKILL")
	d.awaitStatus(id, "STOPPED")
	if got := d.remove(id); got != 137 {
		d.t.Errorf("%s ended with %d, want 137", id, got)
	}
}

// bundle is the directory of a container's bundle.
func (d *daemon) bundle(id string) string {
	return filepath.Join(d.path("state"), "io.containerd.runtime.v2.task", d.ns, id)
}

// The daemon reads the answer of start in its own dialect, keeps it in its own way, and takes in the shim's log.
func smokeStart(d *daemon, _ *watch) {
	d.detached("start", "sleep", "1000")
	address, err := os.ReadFile(filepath.Join(d.bundle("start"), "address"))
	if err != nil {
		d.t.Error(err)
	}
	data, err := os.ReadFile(filepath.Join(d.bundle("start"), "bootstrap.json"))
	if d.answer == 0 {
		if !os.IsNotExist(err) {
			d.t.Errorf("a daemon that knows no bootstrap.json wrote %s, %v", data, err)
		}
	} else {
		var got struct {
			Version           int
			Address, Protocol string
		}
		if err := json.Unmarshal(data, &got); err != nil || got.Version != d.answer || got.Address != string(address) || got.Protocol != "ttrpc" {
			d.t.Errorf("bootstrap.json says %s (%v), want version %d and address %s", data, err, d.answer, address)
		}
	}
	if exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", d.shimOf("start"))); exe != d.shim {
		d.t.Errorf("the shim is %s, want %s", exe, d.shim)
	}
	d.end("start")
	d.logged("msg=Start runtime=io.containerd.runc.v2 shim=start namespace=" + d.ns)
}

// logged waits for a line of the daemon's log.
func (d *daemon) logged(text string) {
	d.t.Helper()
	if foreign != "" {
		return // its log has other words
	}
	testkit.Await(d.t, patience, "in the daemon's log: "+text, func() bool {
		log, _ := os.ReadFile(d.path("log"))
		return strings.Contains(string(log), text)
	})
}

func smokeRun(d *daemon, w *watch) {
	d.want("streams", d.run(d.rootfsRun([]string{"--rm"}, "run", "sh", "-c", "echo out; echo err >&2; exit 7")...), result{"out\n", "err\n", 7})
	w.expect("run", "create", "start", "exit(7)", "delete(7)")
	e := newEcho("one\ntwo\n")
	got, err := d.converse(e, e, d.rootfsRun([]string{"--rm"}, "stdin", "sh", "-c", "cat; exit 6")...)
	if err != nil {
		d.t.Error(err)
	}
	d.want("stdin", got, result{"one\ntwo\n", "", 6})
	shown, status := d.terminal("# ", "test -t 0 && echo on-$(expr 1 + 1)-tty; exit 3\n", d.rootfsRun([]string{"--rm", "--tty"}, "tty", "sh")...)
	if !strings.Contains(shown, "on-2-tty\n") || status != 3 {
		d.t.Errorf("the terminal shows %q and the status is %d; want on-2-tty in it and 3", shown, status)
	}
}

func smokeRefused(d *daemon, w *watch) {
	for name, test := range map[string]struct{ command, want string }{
		"no-command":     {"nosuch", `exec: "nosuch": executable file not found in $PATH`},
		"not-executable": {"/etc/passwd", "permission denied"},
	} {
		if got := d.run(d.rootfsRun([]string{"--rm"}, name, test.command)...); got.status != 1 || !strings.Contains(got.stderr, test.want) {
			d.t.Errorf("%s: got %+v; want status 1 and %q in stderr", name, got, test.want)
		}
		if events := w.of(name); len(events) > 0 {
			d.t.Errorf("a container that never was has events %s", events)
		}
	}
}

func smokeExec(d *daemon, w *watch) {
	d.detached("exec", "sleep", "1000")
	init := d.tasks()["exec"].pid
	d.want("exec", d.exec("exec", "one", "sh", "-c", "echo out; echo err >&2; exit 9"), result{"out\n", "err\n", 9})
	d.want("exec that a signal ends", d.exec("exec", "zero", "sh", "-c", "kill -USR1 $$"), result{"", "", 138})
	e := newEcho("said\n")
	got, err := d.converse(e, e, "task", "exec", "--fifo-dir", d.path("fifo"), "--exec-id", "two", "exec", "cat")
	if err != nil {
		d.t.Error(err)
	}
	d.want("exec with stdin", got, result{"said\n", "", 0})
	shown, status := d.terminal("# ", `until test "$(stty size)" = "40 100"; do sleep 0.01; done; echo size-$(expr 1 + 1)-ok; exit 4`+"\n",
		"task", "exec", "--tty", "--fifo-dir", d.path("fifo"), "--exec-id", "three", "exec", "sh")
	if !strings.Contains(shown, "size-2-ok\n") || status != 4 {
		d.t.Errorf("the terminal shows %q and the status is %d; want size-2-ok in it and 4", shown, status)
	}
	if got := d.exec("exec", "four", "nosuch"); got.status != 1 || !strings.Contains(got.stderr, `exec: "nosuch": executable file not found in $PATH`) {
		d.t.Errorf("exec of nothing: %+v", got)
	}
	d.execDetached("exec", "five", "sleep", "1000")
	processes := d.processes("exec")
	if _, ok := processes[init]; !ok || len(processes) != 2 || !strings.Contains(fmt.Sprint(processes), "five") {
		d.t.Errorf("ctr task ps lists %v, want the init %d and the exec five", processes, init)
	}
	if metrics := d.ok("task", "metrics", "exec"); !strings.Contains(metrics, "pids.current") || !strings.Contains(metrics, "memory.usage") {
		d.t.Errorf("ctr task metrics prints\n%s", metrics)
	}
	d.ok("task", "kill", "--exec-id", "five", "--signal", "SIGKILL", "exec")
	w.await("exec", "five exit(137)")
	if got := d.run("task", "rm", "--exec-id", "five", "exec"); got.status != 137 {
		d.t.Errorf("ctr task rm of the exec: %+v, want status 137", got)
	}
	d.end("exec")
	want := []string{"create", "start"}
	for _, exec := range []struct {
		id   string
		code int
	}{{"one", 9}, {"zero", 138}, {"two", 0}, {"three", 4}} {
		want = append(want, exec.id+" exec-added", exec.id+" exec-started", fmt.Sprintf("%s exit(%d)", exec.id, exec.code), fmt.Sprintf("%s delete(%d)", exec.id, exec.code))
	}
	want = append(want, "four exec-added", "four delete(255)", "five exec-added", "five exec-started", "five exit(137)", "five delete(137)")
	w.expect("exec", append(want, "exit(137)", "delete(137)")...)
}

// A client goes, and another one takes over the streams.
func smokeAttach(d *daemon, w *watch) {
	d.ok(d.rootfsRun([]string{"--detach"}, "attach", "sh", "-c", "read x; echo got $x; read y; exit 8")...)
	const heard = "got this\n"
	e := &echo{text: heard, read: strings.NewReader("this\nand that\n"), all: make(chan struct{})}
	got, err := d.converse(e, e, "task", "attach", "attach")
	if err != nil {
		d.t.Error(err)
	}
	d.want("attach", got, result{heard, "", 8})
	w.await("attach", "exit(8)")
	d.run("task", "rm", "attach") // some ctr's attach has removed it
	d.ok("container", "rm", "attach")
}

func smokePause(d *daemon, w *watch) {
	d.detached("pause", "sleep", "1000")
	d.ok("task", "pause", "pause")
	if got := d.tasks()["pause"].status; got != "PAUSED" {
		d.t.Errorf("paused, the task is %s", got)
	}
	if got := d.exec("pause", "e", "true"); got.status == 0 {
		d.t.Error("an exec in a paused task is not refused")
	}
	if got := d.run("task", "pause", "pause"); got.status == 0 {
		d.t.Error("a second pause is not refused")
	}
	d.ok("task", "resume", "pause")
	if got := d.tasks()["pause"].status; got != "RUNNING" {
		d.t.Errorf("resumed, the task is %s", got)
	}
	d.ok("task", "pause", "pause")
	d.ok("task", "rm", "--force", "pause") // thaws, kills and deletes
	d.ok("container", "rm", "pause")
	w.expect("pause", "create", "start", "paused", "resumed", "paused", "exit(137)", "delete(137)")
}

func smokeKill(d *daemon, w *watch) {
	d.detached("kill", obedient("kill", 5)...)
	d.awaitReady("kill")
	if got := d.run("task", "rm", "kill"); got.status == 0 {
		d.t.Error("rm of a running task is not refused")
	}
	d.kill("kill", "SIGTERM")
	w.await("kill", "exit(5)")
	if got := d.run("task", "kill", "kill"); got.status == 0 || !strings.Contains(got.stderr, "not found") {
		d.t.Errorf("a kill of what has exited: %+v", got)
	}
	if got := d.remove("kill"); got != 5 {
		d.t.Errorf("the task ended with %d, want 5", got)
	}
	w.expect("kill", "create", "start", "exit(5)", "delete(5)")

	d.detached("all", "sleep", "1000")
	d.execDetached("all", "deaf", "sh", "-c", "trap '' TERM; setsid sleep 1000 & sleep 1000")
	d.ok("task", "kill", "--all", "--signal", "SIGKILL", "all")
	w.await("all", "exit(137)")
	d.remove("all")
	w.expect("all", "create", "start", "deaf exec-added", "deaf exec-started", "deaf exit(137)", "exit(137)", "deaf delete(137)", "delete(137)")

	d.detached("force", "sleep", "1000")
	d.ok("task", "rm", "--force", "force")
	d.ok("container", "rm", "force")
	w.expect("force", "create", "start", "exit(137)", "delete(137)")
}

func smokeOOM(d *daemon, w *watch) {
	d.ok(d.rootfsRun([]string{"--detach", "--null-io", "--memory-limit", strconv.Itoa(16 << 20)}, "oom", "tail", "/dev/zero")...)
	w.await("oom", "exit(137)")
	d.remove("oom")
	w.expect("oom", "create", "start", "oom", "exit(137)", "delete(137)")
}

// The runtime's options arrive: where state is, which engine, which cgroup manager.
func smokeOptions(d *daemon, _ *watch) {
	root := d.path("runc-root")
	d.ok(d.rootfsRun([]string{"--detach", "--null-io", "--runc-root", root}, "root", "sleep", "1000")...)
	if _, err := os.Stat(filepath.Join(root, d.ns, "root", "state.json")); err != nil {
		d.t.Errorf("with --runc-root: %v", err)
	}
	signal(d.t, d.shimOf("root"), syscall.SIGKILL) // delete has to find it
	testkit.Await(d.t, patience, "the task's end", func() bool { _, there := d.tasks()["root"]; return !there })
	testkit.Await(d.t, patience, "the end of the state in --runc-root", func() bool { // some daemons forget the task first
		_, err := os.Stat(filepath.Join(root, d.ns, "root"))
		return os.IsNotExist(err)
	})
	d.ok("container", "rm", "root")
	if got := d.run(d.rootfsRun([]string{"--rm", "--runc-binary", "/nosuch/runc"}, "binary", "true")...); got.status != 1 || !strings.Contains(got.stderr, "/nosuch/runc") {
		d.t.Errorf("with a --runc-binary that is not there: %+v", got)
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		if got := d.run(d.rootfsRun([]string{"--rm", "--runc-systemd-cgroup", "--cgroup", "a.slice:b:c"}, "systemd", "true")...); got.status != 1 || !strings.Contains(got.stderr, "systemd") {
			d.t.Errorf("with systemd's cgroups on a machine without systemd: %+v", got)
		}
	}
	got := d.run(d.rootfsRun([]string{"--rm", "--runtime", d.shim}, "path", "echo", "by path")...)
	d.want("--runtime with an absolute path", got, result{"by path\n", "", 0})
}

// The daemon asks what the runtime can do, if it is one that asks.
func smokeInfo(d *daemon, _ *watch) {
	if !d.introspects {
		return
	}
	out := d.ok("plugins", "inspect-runtime")
	var info struct {
		Name     string
		Features map[string]any
	}
	if err := json.Unmarshal([]byte(out), &info); err != nil || info.Name != "io.containerd.runc.v2" || info.Features["ociVersionMin"] == nil {
		d.t.Errorf("ctr plugins inspect-runtime prints %s (%v)", out, err)
	}
}

// Root file systems that are mounted for the container: an overlay, and a bind mount of a copy.
func smokeSnapshotters(d *daemon, w *watch) {
	d.ok("images", "import", "--no-unpack", d.writeImage())
	for _, snapshotter := range []string{"overlayfs", "native"} {
		id := "from-" + snapshotter
		run := []string{"run", "--rm", "--runtime", "io.containerd.runc.v2", "--snapshotter", snapshotter, "--fifo-dir", d.path("fifo"), image, id}
		got := d.run(append(run, "sh", "-c", "echo written >/tmp/x; cat /tmp/x; grep -c ' / overlay' /proc/mounts; exit 4")...)
		d.want(snapshotter, got, result{"written\n" + map[string]string{"overlayfs": "1", "native": "0"}[snapshotter] + "\n", "", 4})
		w.expect(id, "create", "start", "exit(4)", "delete(4)")
		d.want(snapshotter+", again", d.run(append(run, "echo", "again")...), result{"again\n", "", 0})
	}
}

// sandboxed is a config.json of a container of a pod, as CRI writes it: it shares namespaces of the process owner.
func (d *daemon) sandboxed(id, kind, pod string, owner int, command ...string) string {
	spec := testkit.Spec(d.rootfs, command...)
	spec.Annotations = map[string]string{
		"io.kubernetes.cri.container-type": kind,
		"io.kubernetes.cri.sandbox-id":     pod,
	}
	spec.Linux.CgroupsPath = "/" + d.ns + "/" + id
	if owner != 0 {
		for i, ns := range spec.Linux.Namespaces {
			if file, ok := map[specs.LinuxNamespaceType]string{specs.NetworkNamespace: "net", specs.IPCNamespace: "ipc", specs.UTSNamespace: "uts"}[ns.Type]; ok {
				spec.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/ns/%s", owner, file)
			}
		}
	}
	data, err := json.Marshal(spec)
	if err != nil {
		d.t.Fatal(err)
	}
	path := d.path(id + ".json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		d.t.Fatal(err)
	}
	return path
}

// A pod as Kubernetes makes it: one shim, shared namespaces, containers that come and go.
func smokePod(d *daemon, w *watch) {
	run := func(id, config string) {
		d.t.Helper()
		d.ok("run", "--detach", "--null-io", "--config", config, id)
	}
	run("pod", d.sandboxed("pod", "sandbox", "pod", 0, "sleep", "1000"))
	owner := d.tasks()["pod"].pid
	app := d.sandboxed("app", "container", "pod", owner, obedient("app", 5)...)
	run("app", app)
	run("side", d.sandboxed("side", "container", "pod", owner, "sleep", "1000"))
	shim := d.shimOf("pod")
	for _, id := range []string{"app", "side"} {
		if got := d.shimOf(id); got != shim {
			d.t.Errorf("the shim of %s is %d, that of the pod is %d", id, got, shim)
		}
		if got := readlink(d.tasks()[id].pid, "ns/net"); got != readlink(owner, "ns/net") {
			d.t.Errorf("%s is in network %s, the pod in %s", id, got, readlink(owner, "ns/net"))
		}
	}
	d.awaitReady("app")
	d.kill("app", "SIGTERM")
	w.await("app", "exit(5)")
	if got := d.remove("app"); got != 5 {
		d.t.Errorf("app ended with %d, want 5", got)
	}
	d.want("exec beside", d.exec("side", "e", "echo", "alive"), result{"alive\n", "", 0})
	run("app", app) // restarted, as the kubelet does
	if got := d.shimOf("app"); got != shim {
		d.t.Errorf("the shim of the container that came again is %d, want %d", got, shim)
	}
	for _, id := range []string{"app", "side", "pod"} {
		d.end(id)
	}
	w.expect("pod", "create", "start", "exit(137)", "delete(137)")
}

func readlink(pid int, name string) string {
	target, _ := os.Readlink(fmt.Sprintf("/proc/%d/%s", pid, name))
	return target
}

// A shim is killed: the daemon has its bundle cleaned up, and tells a code that was already told.
func smokeShimKilled(d *daemon, w *watch) {
	d.detached("killed", "sleep", "1000")
	d.execDetached("killed", "child", "sh", "-c", "setsid sleep 1000 & sleep 1000")
	signal(d.t, d.shimOf("killed"), syscall.SIGKILL)
	w.expect("killed", append([]string{"create", "start", "child exec-added", "child exec-started"}, "exit(137)", "delete(137)")...)
	d.ok("container", "rm", "killed")

	d.detached("exited", obedient("exited", 7)...)
	d.awaitReady("exited")
	shim := d.shimOf("exited")
	d.kill("exited", "SIGTERM")
	w.await("exited", "exit(7)")
	signal(d.t, shim, syscall.SIGKILL)
	w.expect("exited", "create", "start", "exit(7)", "exit(7)", "delete(7)") // the daemon says exit again
	d.ok("container", "rm", "exited")
}

// The daemon is killed and comes back to containers that run, have ended meanwhile, or have lost their shim.
func smokeDaemonKilled(d *daemon, _ *watch) {
	d.detached("stays", obedient("stays", 5)...)
	d.execDetached("stays", "stays-exec", obedient("stays-exec", 6)...)
	d.detached("leaves", obedient("leaves", 7)...)
	d.detached("paused", "sleep", "1000")
	d.ok("task", "pause", "paused")
	d.detached("lost", "sleep", "1000")
	d.ok("run", "--detach", "--null-io", "--config", d.sandboxed("sandbox", "sandbox", "sandbox", 0, "sleep", "1000"), "sandbox")
	d.ok("run", "--detach", "--null-io", "--config", d.sandboxed("inside", "container", "sandbox", 0, "sleep", "1000"), "inside")
	for _, name := range []string{"stays", "stays-exec", "leaves"} {
		d.awaitReady(name)
	}
	before := d.tasks()
	lost := d.shimOf("lost")

	d.stop(syscall.SIGKILL)
	signal(d.t, before["leaves"].pid, syscall.SIGTERM)
	signal(d.t, lost, syscall.SIGKILL)
	d.start()

	testkit.Await(d.t, patience, "the end of the task that lost its shim", func() bool { _, there := d.tasks()["lost"]; return !there })
	d.ok("container", "rm", "lost")
	after := d.tasks()
	for id, status := range map[string]string{"stays": "RUNNING", "leaves": "STOPPED", "paused": "PAUSED", "sandbox": "RUNNING", "inside": "RUNNING"} {
		if want := (task{before[id].pid, status}); after[id] != want {
			d.t.Errorf("%s is %+v, want %+v", id, after[id], want)
		}
	}
	if got := d.remove("leaves"); got != 7 {
		d.t.Errorf("the container that left meanwhile ended with %d, want 7", got)
	}
	d.want("a new exec", d.exec("stays", "new", "sh", "-c", "echo alive; exit 3"), result{"alive\n", "", 3})
	d.logged("msg=Exec runtime=io.containerd.runc.v2 shim=stays namespace=" + d.ns + " id=stays exec=new") // the shim's log is read on
	d.ok("task", "kill", "--exec-id", "stays-exec", "--signal", "SIGTERM", "stays")
	testkit.Await(d.t, patience, "the exec's end", func() bool {
		return !strings.Contains(fmt.Sprint(d.processes("stays")), "stays-exec")
	})
	if got := d.run("task", "rm", "--exec-id", "stays-exec", "stays"); got.status != 6 {
		d.t.Errorf("the exec that stayed: %+v, want status 6", got)
	}
	d.kill("stays", "SIGTERM")
	d.awaitStatus("stays", "STOPPED")
	if got := d.remove("stays"); got != 5 {
		d.t.Errorf("the container that stayed ended with %d, want 5", got)
	}
	d.ok("task", "resume", "paused")
	for _, id := range []string{"paused", "inside", "sandbox"} {
		d.end(id)
	}
}
