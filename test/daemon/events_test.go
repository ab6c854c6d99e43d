package daemon_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/shimwright/shimwright/internal/testkit"
)

// An event is a line of ctr events.
type event struct {
	Topic       string `json:"-"`
	ContainerID string `json:"container_id"`
	ID          string `json:"id"`      // exit: of the process
	ExecID      string `json:"exec_id"` // exec-added, exec-started
	PID         int    `json:"pid"`
	ExitStatus  int    `json:"exit_status"`
}

// String is the event's topic without "/tasks/"; of an exec's events and exits also which and how.
func (e event) String() string {
	s := strings.TrimPrefix(e.Topic, "/tasks/")
	process := e.ExecID
	if e.Topic == "/tasks/exit" || e.Topic == "/tasks/delete" {
		if e.ID != e.ContainerID && e.ID != "" {
			process = e.ID
		}
		s = fmt.Sprintf("%s(%d)", s, e.ExitStatus)
	}
	return strings.TrimSpace(process + " " + s)
}

// A watch is a ctr events that goes on until the daemon stops or the test ends.
type watch struct {
	d *daemon

	patience time.Duration // of expect: little is left after it was tried in vain

	mu     sync.Mutex
	events []event
	ready  bool
	err    error
}

// watch begins to watch the daemon's events: it returns when those to come will be seen.
func (d *daemon) watch() *watch {
	d.t.Helper()
	w := &watch{d: d, patience: patience}
	ctx, cancel := context.WithCancel(context.WithoutCancel(d.t.Context()))
	cmd := d.ctr(ctx, "events")
	out, err := cmd.StdoutPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			w.line(lines.Text())
		}
	}()
	d.t.Cleanup(func() { cancel(); <-done; cmd.Wait() })

	// Nothing says that the subscription has begun but an event that was made for it.
	probe := 0
	testkit.Await(d.t, patience, "an event", func() bool {
		probe++
		d.ok("namespace", "create", fmt.Sprintf("probe-%d", probe))
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.ready
	})
	for i := range probe {
		d.ok("namespace", "rm", fmt.Sprintf("probe-%d", i+1))
	}
	return w
}

// line takes in "DATE TIME ZONE NAME NAMESPACE TOPIC JSON".
func (w *watch) line(line string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ready = true
	fields := strings.SplitN(line, " ", 7)
	if len(fields) != 7 {
		w.err = fmt.Errorf("ctr events prints %q", line)
		return
	}
	e := event{Topic: fields[5]}
	if fields[4] != w.d.ns || !strings.HasPrefix(e.Topic, "/tasks/") {
		return
	}
	if err := json.Unmarshal([]byte(fields[6]), &e); err != nil {
		w.err = fmt.Errorf("ctr events prints %q: %w", line, err)
	}
	w.events = append(w.events, e)
}

// of returns the container's events so far.
func (w *watch) of(id string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		w.d.t.Error(w.err)
		w.err = nil
	}
	var names []string
	for _, e := range w.events {
		if e.ContainerID == id {
			names = append(names, e.String())
		}
	}
	return names
}

// pids returns the pids that the container's events of a topic have.
func (w *watch) pids(id, topic string) []int {
	w.mu.Lock()
	defer w.mu.Unlock()
	var pids []int
	for _, e := range w.events {
		if e.ContainerID == id && e.Topic == "/tasks/"+topic {
			pids = append(pids, e.PID)
		}
	}
	return pids
}

// await waits until the container has had that event.
func (w *watch) await(id, name string) {
	w.d.t.Helper()
	testkit.Await(w.d.t, patience, "event "+name+" of "+id, func() bool { return slices.Contains(w.of(id), name) })
}

// expect waits for the container's last event and compares all of them.
func (w *watch) expect(id string, names ...string) {
	w.d.t.Helper()
	last := names[len(names)-1]
	ended := func() bool {
		got := w.of(id)
		return len(got) > 0 && got[len(got)-1] == last
	}
	for deadline := time.Now().Add(w.patience); !ended(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.patience = 10 * time.Millisecond
			break
		}
	}
	if got := w.of(id); !slices.Equal(got, names) {
		w.d.t.Errorf("events of %s:\n got %s\nwant %s", id, strings.Join(got, ", "), strings.Join(names, ", "))
	}
}
