package cri_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimwright/shimwright/internal/testkit"
)

// lines are what the container's log has of one stream, or of "" both. Lines that were split are whole again.
func (c *container) lines(stream string) []string {
	c.t.Helper()
	return logLines(c.t, c.logFile(), stream)
}

func logLines(t *testing.T, path, stream string) []string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	parts := make(map[string]string) // of lines that were split, by stream
	for line := range strings.Lines(string(content)) {
		// "2026-01-02T15:04:05.000000000Z stdout F text"
		field := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(field) != 4 {
			t.Fatalf("the log has %q", line)
		}
		if _, err := time.Parse(time.RFC3339Nano, field[0]); err != nil {
			t.Fatalf("the log has %q: %v", line, err)
		}
		parts[field[1]] += field[3]
		if field[2] == "P" {
			continue
		}
		if stream == "" || field[1] == stream {
			lines = append(lines, parts[field[1]])
		}
		delete(parts, field[1])
	}
	for name, rest := range parts { // without a newline at the end
		if stream == "" || name == stream {
			lines = append(lines, rest)
		}
	}
	return lines
}

// printed waits until the container has printed the line.
func (c *container) printed(line string) {
	c.t.Helper()
	testkit.Await(c.t, patience, fmt.Sprintf("%q in the log", line), func() bool {
		return slices.Contains(c.lines(""), line)
	})
}

// Whatever a container has printed is in its log when it is told to have exited.
func TestLogIsComplete(t *testing.T) {
	n := newNode(t)
	p := n.pod("logs")
	app := p.shell("much", "seq 50000; seq 1000 >&2; head -c 40000 /dev/zero | tr '\\0' x; echo; printf unfinished")
	app.exited()
	want := strings.Split(numbers(50000), "\n")
	want[len(want)-1] = strings.Repeat("x", 40000)
	want = append(want, "unfinished")
	if got := app.lines("stdout"); !slices.Equal(got, want) {
		t.Errorf("%d lines of stdout, want %d; the last is %.20q", len(got), len(want), got[len(got)-1])
	}
	if got := strings.Join(app.lines("stderr"), "\n") + "\n"; got != numbers(1000) {
		t.Errorf("stderr is %q", got)
	}
	tty := p.shell("terminal", "seq 3; echo error >&2", func(c *cri.ContainerConfig) { c.Tty = true })
	tty.exited()
	if got, want := tty.lines("stdout"), []string{"1", "2", "3", "error"}; !slices.Equal(got, want) {
		t.Errorf("the log of the terminal is %q, want %q", got, want)
	}
}

// A log can be moved away from under a running container without losing a line.
func TestLogRotation(t *testing.T) {
	n := newNode(t)
	app := n.pod("rotated").shell("app", "i=0; trap 'exit 0' TERM; while :; do i=$((i+1)); echo $i; sleep 0.01; done")
	var files []string
	for i := range 3 {
		old := fmt.Sprint(app.logFile(), ".", i)
		count := len(app.lines(""))
		testkit.Await(t, patience, "more lines", func() bool { return len(app.lines("")) > count+5 })
		if err := os.Rename(app.logFile(), old); err != nil {
			t.Fatal(err)
		}
		call(n, n.runtime.ReopenContainerLog, &cri.ReopenContainerLogRequest{ContainerId: app.id})
		files = append(files, old)
	}
	testkit.Await(t, patience, "more lines", func() bool { return len(app.lines("")) > 5 })
	app.stop(10)
	var all []string
	for _, path := range append(files, app.logFile()) {
		all = append(all, logLines(t, path, "stdout")...)
	}
	if got := strings.Join(all, "\n") + "\n"; got != numbers(len(all)) {
		t.Errorf("lines are missing: %q", got)
	}
}
