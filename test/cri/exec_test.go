package cri_test

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimwright/shimwright/internal/testkit"
)

// What a probe does.
func TestExecSync(t *testing.T) {
	n := newNode(t)
	p := n.pod("probed")
	app := p.idle("app")
	t.Run("result", func(t *testing.T) {
		got, err := app.try("echo out; echo err >&2; exit 9")
		if want := (result{"out\n", "err\n", 9}); err != nil || got != want {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
	})
	t.Run("much output", func(t *testing.T) {
		got, err := app.try("seq 200000; seq 100000 >&2")
		if err != nil || got.stdout != numbers(200000) || got.stderr != numbers(100000) {
			t.Errorf("%d and %d bytes, status %d, %v", len(got.stdout), len(got.stderr), got.status, err)
		}
	})
	t.Run("timeout", func(t *testing.T) {
		_, err := ask(n, n.runtime.ExecSync, &cri.ExecSyncRequest{ContainerId: app.id, Cmd: []string{"sleep", "2001"}, Timeout: 1})
		if status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("got %v, want DeadlineExceeded", err)
		}
		if got := app.output("ps -o args"); strings.Contains(got, "sleep 2001") {
			t.Errorf("the command runs on:\n%s", got)
		}
	})
	t.Run("nonexistent command", func(t *testing.T) {
		_, err := ask(n, n.runtime.ExecSync, &cri.ExecSyncRequest{ContainerId: app.id, Cmd: []string{"nosuch"}})
		if want := `exec: "nosuch": executable file not found in $PATH`; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v; want %q in the message", err, want)
		}
	})
	t.Run("many at once", func(t *testing.T) {
		began := time.Now()
		atOnce(t, 50, func(i int) error {
			got, err := app.try(fmt.Sprintf("echo %d; exit %d", i, i))
			if err != nil {
				return err
			}
			if want := (result{fmt.Sprintln(i), "", int32(i)}); got != want {
				return fmt.Errorf("got %+v, want %+v", got, want)
			}
			return nil
		})
		t.Log("50 at once took", time.Since(began))
	})
	t.Run("of an ended container", func(t *testing.T) {
		app.stop(10)
		if got, err := app.try("true"); err == nil {
			t.Errorf("got %+v", got)
		}
	})
}

// numbers is what seq prints.
func numbers(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintln(&b, i+1)
	}
	return b.String()
}

// What kubectl exec does.
func TestExecStreams(t *testing.T) {
	n := newNode(t)
	p := n.pod("entered")
	app := p.idle("app")
	t.Run("input to its end", func(t *testing.T) {
		s := app.exec(false, "cat; echo done >&2; exit 7")
		s.write("said\n")
		s.await("said\n")
		s.write("and said\n")
		s.stdin.Close()
		if got, want := s.ended(), (result{"said\nand said\n", "done\n", 7}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
	t.Run("much both ways", func(t *testing.T) {
		s := app.exec(false, "cat")
		text := numbers(300000)
		go func() { // ends when all is taken, or the session is closed
			for rest := text; rest != ""; {
				size := min(len(rest), 30000)
				if _, err := io.WriteString(s.stdin, rest[:size]); err != nil {
					return
				}
				rest = rest[size:]
			}
			s.stdin.Close()
		}()
		if got := s.ended(); got.stdout != text || got.status != 0 {
			t.Errorf("%d of %d bytes came back, status %d", len(got.stdout), len(text), got.status)
		}
	})
	t.Run("terminal", func(t *testing.T) {
		s := app.exec(true, `while read line; do case $line in size) stty size;; end) exit 4;; esac; done`)
		for _, c := range []struct{ columns, rows int }{{100, 40}, {33, 7}} {
			s.setSize(c.columns, c.rows)
			want := fmt.Sprintf("%d %d", c.rows, c.columns)
			testkit.Await(t, patience, "the size "+want, func() bool {
				s.write("size\n")
				return strings.Contains(s.stdout.soFar(), want)
			})
		}
		s.write("end\n")
		if got := s.ended(); got.status != 4 {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("interrupted on a terminal", func(t *testing.T) {
		s := app.exec(true, "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.05; done")
		s.await("ready")
		s.write("\x03")
		if got := s.ended(); got.status != 3 || !strings.HasSuffix(got.stdout, "caught\n") {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("killed from inside", func(t *testing.T) {
		if got := app.exec(false, "kill -9 $$").ended(); got.status != 137 {
			t.Errorf("got %+v, want status 137", got)
		}
	})
	t.Run("until the pod is stopped", func(t *testing.T) {
		s := app.exec(false, "echo ready; exec sleep 1000")
		s.await("ready")
		p.stop()
		if got, want := s.ended(), (result{"ready\n", "", 137}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

// What kubectl attach does.
func TestAttach(t *testing.T) {
	n := newNode(t)
	p := n.pod("attached")
	const repeat = `echo ready; while read line; do echo "heard $line"; test "$line" != end || exit 5; done; echo over; exit 6`
	t.Run("input once", func(t *testing.T) {
		app := p.shell("once", repeat, func(c *cri.ContainerConfig) { c.Stdin, c.StdinOnce = true, true })
		s := app.attach()
		s.write("one\n")
		s.await("heard one\n")
		s.stdin.Close()
		s.ended()
		if got := app.exited().ExitCode; got != 6 {
			t.Errorf("after the end of its input it ended with %d, want 6", got)
		}
		if got, want := strings.Join(app.lines("stdout"), "; "), "ready; heard one; over"; got != want {
			t.Errorf("the log is %q, want %q", got, want)
		}
	})
	t.Run("again and again", func(t *testing.T) {
		app := p.shell("again", repeat, func(c *cri.ContainerConfig) { c.Stdin = true })
		for i := range 3 {
			s := app.attach()
			s.write(fmt.Sprintln("line", i))
			s.await(fmt.Sprintf("heard line %d\n", i))
			s.stdin.Close() // detaches, and the container goes on
		}
		s := app.attach()
		s.write("end\n")
		if got := app.exited().ExitCode; got != 5 {
			t.Errorf("it ended with %d, want 5", got)
		}
		if got := s.ended(); !strings.HasSuffix(got.stdout, "heard end\n") {
			t.Errorf("the last session got %+v", got)
		}
	})
	t.Run("terminal", func(t *testing.T) {
		app := p.shell("terminal", `while read line; do case $line in size) stty size;; end) exit 5;; esac; done`, func(c *cri.ContainerConfig) { c.Stdin, c.Tty = true, true })
		s := app.attach()
		s.setSize(90, 30)
		testkit.Await(t, patience, "the size 30 90", func() bool {
			s.write("size\n")
			return strings.Contains(s.stdout.soFar(), "30 90")
		})
		s.write("end\n")
		if got := app.exited().ExitCode; got != 5 {
			t.Errorf("it ended with %d, want 5", got)
		}
		s.ended()
	})
}
