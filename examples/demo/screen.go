package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// screen writes the demo's report: with colours and bars on a terminal, plain elsewhere.
type screen struct {
	w      *bufio.Writer
	pretty bool
}

const (
	bold  = "\x1b[1m"
	dim   = "\x1b[2m"
	green = "\x1b[32m"
	reset = "\x1b[0m"
)

func newScreen(f *os.File) *screen {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return &screen{bufio.NewWriter(f), err == nil && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

func (s *screen) flush() { s.w.Flush() }

func (s *screen) style(code, text string) string {
	if !s.pretty {
		return text
	}
	return code + text + reset
}

func (s *screen) title(text string) {
	fmt.Fprintf(s.w, "%s\n\n", s.style(bold, text))
	s.flush()
}

func (s *screen) section(name string) {
	fmt.Fprintf(s.w, "\n%s\n", s.style(bold+green, name))
}

func (s *screen) fact(name, format string, args ...any) {
	fmt.Fprintf(s.w, "  %s %s\n", s.style(dim, fmt.Sprintf("%-9s", name)), fmt.Sprintf(format, args...))
	s.flush()
}

// quote sets apart what a process has printed.
func (s *screen) quote(text string) {
	bar := s.style(dim, "|")
	for line := range strings.Lines(text) {
		fmt.Fprintf(s.w, "  %s %s\n", bar, strings.TrimRight(line, "\n"))
	}
	s.flush()
}

func (s *screen) event(at time.Duration, topic, detail string) {
	fmt.Fprintf(s.w, "  %s  %-20s %s\n", s.style(dim, milliseconds(at)), topic, detail)
}

func (s *screen) showSteps(steps []step) {
	const width = 40
	var total, longest time.Duration
	for _, step := range steps {
		total += step.took
		longest = max(longest, step.took)
	}
	s.section("how long each step took")
	for _, step := range steps {
		bar := ""
		if s.pretty && longest > 0 {
			bar = "  " + s.style(green, strings.Repeat("█", 1+int(step.took*(width-1)/longest)))
		}
		fmt.Fprintf(s.w, "  %-20s %s%s\n", step.name, milliseconds(step.took), bar)
	}
	fmt.Fprintf(s.w, "  %-20s %s\n", "all of them", s.style(bold, milliseconds(total)))
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%8.2f ms", float64(d)/float64(time.Millisecond))
}
