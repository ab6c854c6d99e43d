package daemon_test

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The life of one container, by every command that ctr task has for it.
func TestTask(t *testing.T) {
	d := newDaemon(t)
	w := d.watch()
	d.detached("c", "sh", "-c", "trap 'exit 5' TERM; touch /tmp/ready; while :; do sleep 0.05; done")
	init := d.tasks()["c"]
	if init.status != "RUNNING" || init.pid == 0 {
		t.Fatalf("ctr task ls: %+v", init)
	}

	t.Run("shim", func(t *testing.T) {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", d.shimOf("c")))
		if err != nil {
			t.Fatal(err)
		}
		if exe != d.shim {
			t.Errorf("the shim is %s, want %s", exe, d.shim)
		}
	})
	t.Run("exec", func(t *testing.T) {
		// TERM must not come before the trap is set.
		got := d.exec("c", "one", "sh", "-c", "while ! test -e /tmp/ready; do sleep 0.01; done; echo out; echo err >&2; exit 9")
		if want := (result{"out\n", "err\n", 9}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
	t.Run("exec with stdin", func(t *testing.T) {
		e := newEcho("said\n")
		got, err := d.converse(e, e, "task", "exec", "--fifo-dir", d.path("fifo"), "--exec-id", "two", "c", "cat")
		if want := (result{"said\n", "", 0}); err != nil || got != want {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
	})
	t.Run("exec on a terminal", func(t *testing.T) {
		shown, status := d.terminal("# ", `until test "$(stty size)" = "40 100"; do sleep 0.01; done; echo size-$(expr 1 + 1)-ok; exit 4`+"\n",
			"task", "exec", "--tty", "--fifo-dir", d.path("fifo"), "--exec-id", "three", "c", "sh")
		if !strings.Contains(shown, "size-2-ok\n") || status != 4 {
			t.Errorf("the terminal shows %q and the status is %d; want size-2-ok in it and 4", shown, status)
		}
	})
	t.Run("exec of nothing", func(t *testing.T) {
		got := d.exec("c", "four", "nosuch")
		if want := `exec: "nosuch": executable file not found in $PATH`; got.status != 1 || !strings.Contains(got.stderr, want) {
			t.Errorf("got %+v; want status 1 and %q in stderr", got, want)
		}
	})
	t.Run("ps", func(t *testing.T) {
		d.execDetached("c", "five", "sleep", "1000")
		processes := d.processes("c")
		if _, ok := processes[init.pid]; !ok {
			t.Errorf("ctr task ps lists %v, without the init %d", slices.Collect(maps.Keys(processes)), init.pid)
		}
		if all := fmt.Sprint(processes); !strings.Contains(all, "five") {
			t.Errorf("ctr task ps lists %s, without the exec five", all)
		}
	})
	t.Run("kill of an exec", func(t *testing.T) {
		d.ok("task", "kill", "--exec-id", "five", "--signal", "SIGKILL", "c")
		w.await("c", "five exit(137)")
		if got := d.run("task", "rm", "--exec-id", "five", "c"); got.status != 137 {
			t.Errorf("ctr task rm of the exec: %+v, want status 137", got)
		}
	})
	t.Run("metrics", func(t *testing.T) {
		metrics := d.ok("task", "metrics", "c")
		if !regexp.MustCompile(`(?m)^pids\.current\s+[1-9]\d*\s*$`).MatchString(metrics) ||
			!regexp.MustCompile(`(?m)^memory\.usage\S*\s+[1-9]\d*\s*$`).MatchString(metrics) {
			t.Errorf("ctr task metrics prints\n%s", metrics)
		}
	})
	t.Run("pause and resume", func(t *testing.T) {
		d.ok("task", "pause", "c")
		if got := d.tasks()["c"].status; got != "PAUSED" {
			t.Errorf("paused, the task is %s", got)
		}
		if got := d.exec("c", "six", "true"); got.status == 0 {
			t.Error("an exec in a paused task is not refused")
		}
		if got := d.run("task", "pause", "c"); got.status == 0 {
			t.Error("a second pause is not refused")
		}
		d.ok("task", "resume", "c")
		if got := d.tasks()["c"].status; got != "RUNNING" {
			t.Errorf("resumed, the task is %s", got)
		}
	})
	t.Run("rm of a running task", func(t *testing.T) {
		if got := d.run("task", "rm", "c"); got.status == 0 {
			t.Error("it is not refused")
		}
	})
	t.Run("kill", func(t *testing.T) {
		d.kill("c", "SIGTERM")
		w.await("c", "exit(5)")
		d.awaitStatus("c", "STOPPED")
		if got := d.run("task", "kill", "c"); got.status == 0 || !strings.Contains(got.stderr, "not found") {
			t.Errorf("a kill of what has exited: %+v", got)
		}
		if got := d.remove("c"); got != 5 {
			t.Errorf("the task ended with %d, want 5", got)
		}
	})

	var want []string
	add := func(names ...string) { want = append(want, names...) }
	exec := func(id, end string) {
		add(id+" exec-added", id+" exec-started", id+" exit("+end+")", id+" delete("+end+")")
	}
	add("create", "start")
	exec("one", "9")
	exec("two", "0")
	exec("three", "4")
	add("four exec-added", "four delete(255)")
	exec("five", "137")
	add("paused", "resumed", "exit(5)", "delete(5)")
	w.expect("c", want...)
	if pids := slices.Concat(w.pids("c", "start"), w.pids("c", "delete")); pids[0] != init.pid || pids[len(pids)-1] != init.pid {
		t.Errorf("start and delete name the pids %v, want %d first and last", pids, init.pid)
	}
}

// A signal to all reaches what init has not told of it.
func TestKillAll(t *testing.T) {
	d := newDaemon(t)
	w := d.watch()
	d.detached("c", "sleep", "1000")
	d.execDetached("c", "deaf", "sh", "-c", "trap '' TERM; setsid sleep 1000 & sleep 1000")
	d.ok("task", "kill", "--all", "--signal", "SIGKILL", "c")
	w.await("c", "exit(137)")
	if got := d.remove("c"); got != 137 {
		t.Errorf("the task ended with %d, want 137", got)
	}
	w.expect("c", "create", "start", "deaf exec-added", "deaf exec-started", "deaf exit(137)", "exit(137)",
		"deaf delete(137)", "delete(137)") // an exec that nobody deleted goes with its task
}

// Containers of one group share a shim, and each has its own life.
func TestGroup(t *testing.T) {
	d := newDaemon(t)
	w := d.watch()
	group := []string{"--detach", "--null-io", "--annotation", "io.containerd.runc.v2.group=pod"}
	ids := []string{"pod", "app", "side"}
	for _, id := range ids {
		d.ok(d.rootfsRun(group, id, "sleep", "1000")...)
	}
	shim := d.shimOf("pod")
	for _, id := range ids[1:] {
		if got := d.shimOf(id); got != shim {
			t.Errorf("the shim of %s is %d, that of pod is %d", id, got, shim)
		}
	}
	d.kill("app", "SIGKILL")
	w.await("app", "exit(137)")
	d.remove("app")
	if got := d.exec("side", "e", "echo", "alive"); got.stdout != "alive\n" {
		t.Errorf("exec in the container beside: %+v", got)
	}
	d.ok(d.rootfsRun(group, "app", "sleep", "1000")...)
	if got := d.shimOf("app"); got != shim {
		t.Errorf("the shim of a container that came later is %d, want %d", got, shim)
	}
	for _, id := range ids {
		d.kill(id, "SIGKILL")
		w.await(id, "exit(137)")
		d.awaitStatus(id, "STOPPED")
		d.remove(id)
	}
	w.expect("side", "create", "start", "e exec-added", "e exec-started", "e exit(0)", "e delete(0)", "exit(137)", "delete(137)")
}
