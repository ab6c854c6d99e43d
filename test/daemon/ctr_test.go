package daemon_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/console"

	"github.com/shimwright/shimwright/internal/testkit"
)

// A result is what a ctr command printed and how it ended.
type result struct {
	stdout, stderr string
	status         int
}

// ctr is a ctr command in the test's namespace, not yet started.
func (d *daemon) ctr(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(d.tools, "ctr"),
		append([]string{"--address", d.path("containerd.sock"), "--namespace", d.ns}, args...)...)
	cmd.Env = append(os.Environ(), "CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=1")
	return cmd
}

// try runs a ctr command to its end. It may be called from any goroutine of the test.
func (d *daemon) try(args ...string) (result, error) {
	return d.converse(strings.NewReader(""), io.Discard, args...)
}

// converse is a try with an input and one more listener to stdout.
func (d *daemon) converse(stdin io.Reader, listener io.Writer, args ...string) (result, error) {
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	cmd := d.ctr(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, io.MultiWriter(&stdout, listener), &stderr
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	r := result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Exited() {
		return r, nil
	}
	if err != nil {
		return r, fmt.Errorf("ctr %s: %w\n%s", strings.Join(args, " "), err, r.stderr)
	}
	return r, nil
}

// An echo is the input of a command that repeats its input: it ends when the command has repeated all of
// it. To one that ends at once ctr may not pass on the end.
type echo struct {
	text  string
	read  io.Reader
	heard bytes.Buffer
	all   chan struct{} // closed when the text was heard
}

func newEcho(text string) *echo {
	return &echo{text: text, read: strings.NewReader(text), all: make(chan struct{})}
}

// Read is ctr's stdin.
func (e *echo) Read(p []byte) (int, error) {
	n, err := e.read.Read(p)
	if err == io.EOF {
		<-e.all
	}
	return n, err
}

// Write is ctr's stdout.
func (e *echo) Write(p []byte) (int, error) {
	if e.heard.Len() < len(e.text) && e.heard.Len()+len(p) >= len(e.text) {
		close(e.all)
	}
	return e.heard.Write(p)
}

// run runs a ctr command that may end with any status.
func (d *daemon) run(args ...string) result {
	d.t.Helper()
	r, err := d.try(args...)
	if err != nil {
		d.t.Fatal(err)
	}
	return r
}

// ok runs a ctr command that must succeed and returns what it printed.
func (d *daemon) ok(args ...string) string {
	d.t.Helper()
	r := d.run(args...)
	if r.status != 0 {
		d.t.Fatalf("ctr %s: status %d\n%s", strings.Join(args, " "), r.status, r.stderr)
	}
	return r.stdout
}

// rootfsRun are the arguments of a ctr run: options, the container's id and its command.
func (d *daemon) rootfsRun(options []string, id string, command ...string) []string {
	args := []string{
		"run", "--runtime", "io.containerd.runc.v2", "--rootfs", "--fifo-dir", d.path("fifo"),
		"--env", "PATH=/bin", // an image would say so
	}
	return slices.Concat(args, options, []string{d.rootfs, id}, command)
}

// detached starts a container that goes on by itself.
func (d *daemon) detached(id string, command ...string) {
	d.t.Helper()
	d.ok(d.rootfsRun([]string{"--detach", "--null-io"}, id, command...)...)
}

// exec runs a command in a container to its end.
func (d *daemon) exec(id, execID string, command ...string) result {
	d.t.Helper()
	return d.run(append([]string{"task", "exec", "--fifo-dir", d.path("fifo"), "--exec-id", execID, id}, command...)...)
}

// execDetached starts a command in a container and leaves it running.
func (d *daemon) execDetached(id, execID string, command ...string) {
	d.t.Helper()
	d.ok(append([]string{"task", "exec", "--detach", "--log-uri", "file://" + d.path(execID+".log"), "--exec-id", execID, id}, command...)...)
}

// kill sends a container's process a signal.
func (d *daemon) kill(id, signal string) {
	d.t.Helper()
	d.ok("task", "kill", "--signal", signal, id)
}

// A task is a line of ctr task ls.
type task struct {
	pid    int
	status string
}

// tasks is what ctr task ls prints, by container id.
func (d *daemon) tasks() map[string]task {
	d.t.Helper()
	tasks := make(map[string]task)
	for i, line := range strings.Split(strings.TrimSpace(d.ok("task", "ls")), "\n") {
		if i == 0 { // the heading
			continue
		}
		fields := strings.Fields(line)
		pid, err := strconv.Atoi(fields[1])
		if err != nil || len(fields) != 3 {
			d.t.Fatalf("ctr task ls prints %q", line)
		}
		tasks[fields[0]] = task{pid, fields[2]}
	}
	return tasks
}

// awaitStatus waits until ctr task ls calls the container that.
func (d *daemon) awaitStatus(id, status string) {
	d.t.Helper()
	testkit.Await(d.t, patience, id+" "+status, func() bool { return d.tasks()[id].status == status })
}

var exitCode = regexp.MustCompile(`exit with non-zero exit code (\d+)`)

// remove deletes a stopped task and its container and returns the exit status that the task had.
func (d *daemon) remove(id string) int {
	d.t.Helper()
	r := d.run("task", "rm", id)
	if r.status != 0 {
		d.t.Fatalf("ctr task rm %s: status %d\n%s", id, r.status, r.stderr)
	}
	d.ok("container", "rm", id)
	status := 0
	if m := exitCode.FindStringSubmatch(r.stderr); m != nil {
		status, _ = strconv.Atoi(m[1])
	}
	return status
}

// shimOf is the pid of the shim that has the container's process.
func (d *daemon) shimOf(id string) int {
	d.t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.tasks()[id].pid))
	if err != nil {
		d.t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	parent, err := strconv.Atoi(strings.Fields(after)[1])
	if err != nil {
		d.t.Fatal(err)
	}
	return parent
}

// terminal runs a ctr command on a terminal of 40 lines of 100 columns, types input when prompt appears,
// and returns everything that appeared on the terminal, without carriage returns, and how it ended.
func (d *daemon) terminal(prompt, input string, args ...string) (shown string, status int) {
	d.t.Helper()
	master, slave, err := console.NewPty()
	if err != nil {
		d.t.Fatal(err)
	}
	defer master.Close()
	if err := master.Resize(console.WinSize{Height: 40, Width: 100}); err != nil {
		d.t.Fatal(err)
	}
	tty, err := os.OpenFile(slave, os.O_RDWR, 0)
	if err != nil {
		d.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	cmd := d.ctr(ctx, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	err = cmd.Start()
	tty.Close()
	if err != nil {
		d.t.Fatal(err)
	}
	var screen []byte
	for buf := make([]byte, 4096); ; {
		n, err := master.Read(buf) // fails with EIO when the last program has left the terminal
		screen = append(screen, buf[:n]...)
		if input != "" && bytes.Contains(screen, []byte(prompt)) {
			if _, err := master.Write([]byte(input)); err != nil {
				d.t.Fatal(err)
			}
			input = ""
		}
		if err != nil {
			break
		}
	}
	cmd.Wait()
	return strings.ReplaceAll(string(screen), "\r", ""), cmd.ProcessState.ExitCode()
}

// atOnce runs f n times at once and reports each error.
func atOnce(t *testing.T, n int, f func(i int) error) {
	t.Helper()
	errs := make(chan error, n)
	for i := range n {
		go func() { errs <- f(i) }()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// processes are the pids that ctr task ps lists, with what it says of each.
func (d *daemon) processes(id string) map[int]string {
	d.t.Helper()
	processes := make(map[int]string)
	for _, line := range slices.Collect(strings.Lines(d.ok("task", "ps", id)))[1:] {
		pid, info, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.Atoi(pid)
		if err != nil {
			d.t.Fatalf("ctr task ps prints %q", line)
		}
		processes[n] = strings.TrimSpace(info)
	}
	return processes
}
