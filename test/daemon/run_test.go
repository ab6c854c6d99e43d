package daemon_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	d := newDaemon(t)
	tests := []struct {
		name           string
		options        []string
		command        []string
		stdout, stderr string
		status         int
	}{
		{name: "output", command: []string{"echo", "hello"}, stdout: "hello\n"},
		{name: "both-streams", command: []string{"sh", "-c", "echo out; echo err >&2"}, stdout: "out\n", stderr: "err\n"},
		{name: "status", command: []string{"sh", "-c", "exit 7"}, status: 7},
		{name: "much-output", command: []string{"sh", "-c", "head -c 5000000 /dev/zero | tr '\\0' x"}, stdout: strings.Repeat("x", 5_000_000)},
		{name: "environment", options: []string{"--env", "A=b c"}, command: []string{"sh", "-c", "echo $A"}, stdout: "b c\n"},
		{name: "directory", options: []string{"--cwd", "/tmp"}, command: []string{"pwd"}, stdout: "/tmp\n"},
		{name: "user", options: []string{"--user", "65534"}, command: []string{"id", "-u"}, stdout: "65534\n"},
		{name: "own-pids", command: []string{"sh", "-c", "echo $$"}, stdout: "1\n"},
		{name: "own-mounts", options: []string{"--mount", "type=tmpfs,src=tmpfs,dst=/tmp"}, command: []string{"sh", "-c", "grep -c ' /tmp tmpfs' /proc/mounts"}, stdout: "1\n"},
		{name: "read-only", options: []string{"--read-only"}, command: []string{"sh", "-c", "touch /x 2>/dev/null || echo refused"}, stdout: "refused\n"},
	}
	for _, test := range tests {
		if slices.Contains(test.options, "--user") && !d.users {
			continue
		}
		t.Run(test.name, func(t *testing.T) {
			got, err := d.try(d.rootfsRun(append(test.options, "--rm"), test.name, test.command...)...)
			if err != nil {
				t.Fatal(err)
			}
			if got.stdout != test.stdout || got.stderr != test.stderr || got.status != test.status {
				t.Errorf("got stdout %s, stderr %s, status %d; want %s, %s, %d",
					brief(got.stdout), brief(got.stderr), got.status, brief(test.stdout), brief(test.stderr), test.status)
			}
		})
	}
}

// Stdin is open for as long as the client has it open, and then at its end.
func TestRunWithStdin(t *testing.T) {
	d := newDaemon(t)
	const text = "one\ntwo\n"
	e := newEcho(text)
	got, err := d.converse(e, e, d.rootfsRun([]string{"--rm"}, "c", "sh", "-c", "cat; exit 6")...)
	if want := (result{text, "", 6}); err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}

// brief quotes s, or the ends of it with its length.
func brief(s string) string {
	if len(s) <= 200 {
		return fmt.Sprintf("%q", s)
	}
	return fmt.Sprintf("%q…%q (%d bytes)", s[:20], s[len(s)-20:], len(s))
}

func TestRunOnTerminal(t *testing.T) {
	d := newDaemon(t)
	shown, status := d.terminal("# ", "test -t 0 && test -t 1 && echo on-$(expr 1 + 1)-tty; exit 3\n",
		d.rootfsRun([]string{"--rm", "--tty"}, "tty", "sh")...)
	if !strings.Contains(shown, "on-2-tty\n") || status != 3 {
		t.Errorf("the terminal shows %q and the status is %d; want on-2-tty in it and 3", shown, status)
	}
}

// What cannot be started is refused with the reason, and leaves nothing.
func TestRunRefused(t *testing.T) {
	d := newDaemon(t)
	w := d.watch()
	tests := []struct {
		name   string
		args   []string
		stderr string
	}{
		{"no-command", d.rootfsRun([]string{"--rm"}, "no-command", "nosuch"), `exec: "nosuch": executable file not found in $PATH`},
		{"no-program", d.rootfsRun([]string{"--rm"}, "no-program", "/etc/nosuch"), `no such file or directory`},
		{"not-executable", d.rootfsRun([]string{"--rm"}, "not-executable", "/etc/passwd"), `permission denied`},
		{"no-mount-source", d.rootfsRun([]string{"--rm", "--mount", "type=bind,src=/nosuch,dst=/mnt"}, "no-mount-source", "true"), `no such file or directory`},
		{"no-rootfs", []string{"run", "--rm", "--rootfs", "--fifo-dir", d.path("fifo"), filepath.Join(d.dir, "nosuch"), "no-rootfs", "true"}, `no such file or directory`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := d.try(test.args...)
			if err != nil {
				t.Fatal(err)
			}
			if got.status != 1 || got.stdout != "" || !strings.Contains(got.stderr, test.stderr) {
				t.Errorf("got %+v; want status 1 and %q in stderr", got, test.stderr)
			}
			if events := w.of(test.name); len(events) > 0 {
				t.Errorf("a container that never was has events %s", events)
			}
		})
	}
	if got := d.run(d.rootfsRun([]string{"--rm"}, "after", "echo", "alive")...); got.stdout != "alive\n" {
		t.Errorf("a run after the refused ones: %+v", got)
	}
}
