package daemon_test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shimwright/shimwright/internal/testkit"
)

// obedient is a command that ends with status when it gets TERM; /tmp/NAME is there when it would.
func obedient(name string, status int) []string {
	return []string{"sh", "-c", fmt.Sprintf("trap 'exit %d' TERM; touch /tmp/%s; while :; do sleep 0.05; done", status, name)}
}

// awaitReady waits until an obedient process has set its trap.
func (d *daemon) awaitReady(name string) {
	d.t.Helper()
	testkit.Await(d.t, patience, name+" ready", func() bool {
		_, err := os.Stat(d.rootfs + "/tmp/" + name)
		return err == nil
	})
}

// signal sends a process a signal past the daemon and waits until it has exited, reaped or not.
func signal(t *testing.T, pid int, sig syscall.Signal) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil {
		t.Fatal(err)
	}
	testkit.Await(t, patience, fmt.Sprintf("end of process %d", pid), func() bool {
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n == 1
	})
}

func TestDaemonKilled(t *testing.T) {
	d := newDaemonLogging(t, "trace") // tells of each event from a shim
	d.detached("stays", obedient("stays", 5)...)
	d.detached("leaves", obedient("leaves", 7)...)
	d.execDetached("stays", "stays-exec", obedient("stays-exec", 6)...)
	d.execDetached("stays", "leaves-exec", obedient("leaves-exec", 8)...)
	d.detached("paused", "sleep", "1000")
	d.ok("task", "pause", "paused")
	for _, name := range []string{"stays", "leaves", "stays-exec", "leaves-exec"} {
		d.awaitReady(name)
	}
	before := d.tasks()
	leavesExec := 0
	for pid, info := range d.processes("stays") {
		if strings.Contains(info, "leaves-exec") {
			leavesExec = pid
		}
	}

	d.stop(syscall.SIGKILL)
	signal(t, before["leaves"].pid, syscall.SIGTERM)
	signal(t, leavesExec, syscall.SIGTERM)
	d.start()

	testkit.Await(t, patience, "the exits that happened meanwhile", func() bool { return d.heard("/tasks/exit") == 2 })
	w := d.watch()
	after := d.tasks()
	for id, status := range map[string]string{"stays": "RUNNING", "leaves": "STOPPED", "paused": "PAUSED"} {
		if want := (task{before[id].pid, status}); after[id] != want {
			t.Errorf("%s is %+v, want %+v", id, after[id], want)
		}
	}
	if got := d.remove("leaves"); got != 7 {
		t.Errorf("the container that left meanwhile ended with %d, want 7", got)
	}
	if got := d.run("task", "rm", "--exec-id", "leaves-exec", "stays"); got.status != 8 {
		t.Errorf("the exec that left meanwhile: %+v, want status 8", got)
	}
	if got, want := d.exec("stays", "new", "sh", "-c", "echo alive; exit 3"), (result{"alive\n", "", 3}); got != want {
		t.Errorf("a new exec: got %+v, want %+v", got, want)
	}
	if all := fmt.Sprint(d.processes("stays")); !strings.Contains(all, "stays-exec") {
		t.Errorf("ctr task ps lists %s, without the exec that stayed", all)
	}
	d.ok("task", "kill", "--exec-id", "stays-exec", "--signal", "SIGTERM", "stays")
	w.await("stays", "stays-exec exit(6)")
	if got := d.run("task", "rm", "--exec-id", "stays-exec", "stays"); got.status != 6 {
		t.Errorf("the exec that stayed: %+v, want status 6", got)
	}
	d.kill("stays", "SIGTERM")
	w.await("stays", "exit(5)")
	if got := d.remove("stays"); got != 5 {
		t.Errorf("the container that stayed ended with %d, want 5", got)
	}
	d.ok("task", "resume", "paused")
	d.kill("paused", "SIGKILL")
	w.await("paused", "exit(137)")
	if got := d.remove("paused"); got != 137 {
		t.Errorf("the paused container ended with %d, want 137", got)
	}
	w.expect("paused", "resumed", "exit(137)", "delete(137)")
}

// heard counts the events of a topic that shims have delivered to the daemon since it was last started, from
// its log at level trace: a subscriber may come too late for them.
func (d *daemon) heard(topic string) int {
	d.t.Helper()
	log, err := os.ReadFile(d.path("log"))
	if err != nil {
		d.t.Fatal(err)
	}
	lines := string(log)
	if i := strings.LastIndex(lines, "msg=\"starting containerd\""); i >= 0 {
		lines = lines[i:]
	}
	count := 0
	for line := range strings.Lines(lines) {
		if strings.Contains(line, "event forwarded") && strings.Contains(line, "ns="+d.ns) && strings.Contains(line, "topic="+topic) {
			count++
		}
	}
	return count
}

// The daemon is killed again and again while containers come and go; none is lost and no code is wrong.
func TestDaemonKilledAgainAndAgain(t *testing.T) {
	d := newDaemon(t)
	const rounds = 3
	for i := range rounds {
		id := fmt.Sprint("c", i)
		d.detached(id, obedient(id, 10+i)...)
		d.awaitReady(id)
		d.stop(syscall.SIGKILL)
		d.start()
	}
	for i := range rounds {
		id := fmt.Sprint("c", i)
		d.kill(id, "SIGTERM")
		d.awaitStatus(id, "STOPPED")
		if got := d.remove(id); got != 10+i {
			t.Errorf("%s ended with %d, want %d", id, got, 10+i)
		}
	}
}

// The daemon is killed at every moment of a container's start: the container is there, or nothing of it is.
func TestDaemonKilledDuringRun(t *testing.T) {
	d := newDaemon(t)
	for i := range 24 {
		id := fmt.Sprint("c", i)
		run := d.ctr(t.Context(), d.rootfsRun([]string{"--detach", "--null-io"}, id, "sleep", "1000")...)
		if err := run.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i) * 5 * time.Millisecond) // not to wait for something, but to come at another moment
		d.stop(syscall.SIGKILL)
		run.Wait()
		d.start()
		got := d.tasks()[id]
		if got.status == "RUNNING" || got.status == "CREATED" {
			d.kill(id, "SIGKILL")
			d.awaitStatus(id, "STOPPED")
		}
		if got.status != "" {
			d.ok("task", "rm", id)
		}
		if strings.Contains(d.ok("container", "ls", "--quiet"), id) {
			d.ok("container", "rm", id)
		}
	}
}

func TestShimKilled(t *testing.T) {
	d := newDaemon(t)
	w := d.watch()
	tests := []struct {
		name    string
		prepare func(id string)
	}{
		{"running", func(string) {}},
		{"with-exec", func(id string) { d.execDetached(id, id+"-exec", "sleep", "1000") }},
		{"with-children", func(id string) { d.execDetached(id, id+"-exec", "sh", "-c", "setsid sleep 1000 & setsid sleep 1000") }},
		{"paused", func(id string) { d.ok("task", "pause", id) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			id := test.name
			d.detached(id, "sleep", "1000")
			test.prepare(id)
			signal(t, d.shimOf(id), syscall.SIGKILL)
			w.await(id, "delete(137)")
			testkit.Await(t, patience, "the task's end", func() bool { _, there := d.tasks()[id]; return !there })
			d.ok("container", "rm", id)
		})
	}
}

// A container that had exited when its shim was killed keeps its exit status.
func TestShimKilledAfterExit(t *testing.T) {
	d := newDaemon(t)
	w := d.watch()
	for i := range 10 {
		id := fmt.Sprint("c", i)
		d.detached(id, obedient(id, 7)...)
		d.awaitReady(id)
		shim := d.shimOf(id)
		d.kill(id, "SIGTERM")
		w.await(id, "exit(7)")
		signal(t, shim, syscall.SIGKILL)
		w.expect(id, "create", "start", "exit(7)", "exit(7)", "delete(7)") // the daemon says exit again
		d.ok("container", "rm", id)
	}
}

// A pod's shim is killed with containers that run, have exited, and share everything.
func TestGroupShimKilled(t *testing.T) {
	d := newDaemon(t)
	w := d.watch()
	group := []string{"--detach", "--null-io", "--annotation", "io.containerd.runc.v2.group=pod"}
	for _, id := range []string{"pod", "runs", "exited"} {
		d.ok(d.rootfsRun(group, id, obedient(id, 7)...)...)
		d.awaitReady(id)
	}
	d.kill("exited", "SIGTERM")
	w.await("exited", "exit(7)")
	signal(t, d.shimOf("pod"), syscall.SIGKILL)
	w.expect("pod", "create", "start", "exit(137)", "delete(137)")
	w.expect("runs", "create", "start", "exit(137)", "delete(137)")
	w.expect("exited", "create", "start", "exit(7)", "exit(7)", "delete(7)")
	for _, id := range []string{"pod", "runs", "exited"} {
		d.ok("container", "rm", id)
	}
}

// Daemon and shims are killed together: the next daemon cleans up.
func TestDaemonAndShimKilled(t *testing.T) {
	d := newDaemon(t)
	d.detached("dies", "sleep", "1000")
	d.execDetached("dies", "e", "sleep", "1000")
	d.detached("lives", "sleep", "1000")
	shim := d.shimOf("dies")
	d.stop(syscall.SIGKILL)
	signal(t, shim, syscall.SIGKILL)
	d.start()
	testkit.Await(t, patience, "the task's end", func() bool { _, there := d.tasks()["dies"]; return !there })
	if got := d.tasks()["lives"].status; got != "RUNNING" {
		t.Errorf("the other container is %s", got)
	}
	d.kill("lives", "SIGKILL")
	d.awaitStatus("lives", "STOPPED")
	d.remove("lives")
	d.ok("container", "rm", "dies")
}
