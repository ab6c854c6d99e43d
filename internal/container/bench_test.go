package container_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/shimwright/shimwright/internal/testkit"
	"github.com/shimwright/shimwright/task"
)

// step adds the time since the last step to what name has taken.
type stopwatch struct {
	b    *testing.B
	last time.Time
	took map[string]time.Duration
}

func newStopwatch(b *testing.B) *stopwatch {
	return &stopwatch{b: b, last: time.Now(), took: make(map[string]time.Duration)}
}

func (s *stopwatch) step(name string) {
	now := time.Now()
	if name != "" {
		s.took[name] += now.Sub(s.last)
	}
	s.last = now
}

func (s *stopwatch) report() {
	for name, d := range s.took {
		s.b.ReportMetric(float64(d.Microseconds())/1000/float64(s.b.N), name+"-ms")
	}
}

func BenchmarkLifecycle(b *testing.B) {
	h := newHost(b)
	w := newStopwatch(b)
	for i := range b.N {
		r, _ := h.Request(fmt.Sprint("c", i), testkit.Spec(h.Rootfs, "true"))
		w.step("")
		c, err := h.Make(b.Context(), r)
		if err != nil {
			b.Fatal(err)
		}
		w.step("create")
		if err := c.Start(b.Context()); err != nil {
			b.Fatal(err)
		}
		w.step("start")
		c.Wait()
		w.step("wait")
		if err := c.Delete(b.Context()); err != nil {
			b.Fatal(err)
		}
		w.step("delete")
	}
	w.report()
}

func BenchmarkExec(b *testing.B) {
	h := newHost(b)
	c := h.Running("c", "sleep", "1000")
	w := newStopwatch(b)
	for range b.N {
		p := h.Exec(c, "true")
		w.step("")
		if err := p.Start(b.Context()); err != nil {
			b.Fatal(err)
		}
		w.step("start")
		p.Wait()
		w.step("wait")
	}
	w.report()
}

func BenchmarkPauseResume(b *testing.B) {
	h := newHost(b)
	c := h.Running("c", "sleep", "1000").(task.Pauser)
	for b.Loop() {
		if err := c.Pause(b.Context()); err != nil {
			b.Fatal(err)
		}
		if err := c.Resume(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStats(b *testing.B) {
	h := newHost(b)
	c := h.Running("c", "sleep", "1000").(task.Stater)
	for b.Loop() {
		if _, err := c.Stats(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPIDs(b *testing.B) {
	h := newHost(b)
	c := h.Running("c", "sleep", "1000").(task.Lister)
	for b.Loop() {
		if _, err := c.PIDs(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
