package testkit

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Stdio is a client's side of a process's three streams.
type Stdio struct {
	Stdin, Stdout, Stderr string // paths of FIFOs, for a create or exec request

	// In writes into Stdin from the start, whether or not anybody reads it. Closing it is the client's
	// end of it only.
	In *os.File

	t        testing.TB
	out, err *reader
}

// FIFOs makes three FIFOs and begins to read Stdout and Stderr.
func FIFOs(t testing.TB) *Stdio {
	t.Helper()
	dir := t.TempDir()
	s := &Stdio{
		Stdin:  filepath.Join(dir, "stdin"),
		Stdout: filepath.Join(dir, "stdout"),
		Stderr: filepath.Join(dir, "stderr"),
		t:      t,
	}
	for _, path := range []string{s.Stdin, s.Stdout, s.Stderr} {
		if err := unix.Mkfifo(path, 0o600); err != nil {
			t.Fatalf("mkfifo %s: %v", path, err)
		}
	}
	// Opened for both directions, a FIFO waits for nobody and writing to it raises no SIGPIPE.
	in, err := os.OpenFile(s.Stdin, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	s.In = in
	s.out, s.err = read(t, s.Stdout), read(t, s.Stderr)
	return s
}

// Output waits until every writer of Stdout has closed it, 10 s at most, and returns all of it.
func (s *Stdio) Output() string { s.t.Helper(); return s.out.all(s.t) }

// Errors does for Stderr what Output does for Stdout.
func (s *Stdio) Errors() string { s.t.Helper(); return s.err.all(s.t) }

// Now is what has come out of Stdout so far.
func (s *Stdio) Now() string { return s.out.String() }

// reader collects what is written into one FIFO, from its first writer's coming to its last one's leaving.
type reader struct {
	path   string
	opened chan struct{} // closed when a writer has come
	done   chan struct{} // closed when text and err are set
	err    error

	mu   sync.Mutex
	text bytes.Buffer
}

func (r *reader) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *reader) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

func read(t testing.TB, path string) *reader {
	r := &reader{path: path, opened: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(r.done)
		f, err := os.Open(path) // returns when a writer comes
		close(r.opened)
		if err != nil {
			r.err = err
			return
		}
		defer f.Close()
		_, r.err = io.Copy(r, f)
	}()
	t.Cleanup(func() {
		// Nobody may have come: a writer that stays until the reader has seen it ends the wait.
		f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
		if err == nil {
			select {
			case <-r.opened:
			case <-time.After(patience):
			}
			f.Close()
		}
		select {
		case <-r.done:
		case <-time.After(patience):
			t.Errorf("%s is still open for writing", path)
		}
	})
	return r
}

func (r *reader) all(t testing.TB) string {
	t.Helper()
	select {
	case <-r.done:
	case <-time.After(patience):
		t.Fatalf("%s is still open for writing after %v", r.path, patience)
	}
	if r.err != nil {
		t.Fatalf("read %s: %v", r.path, r.err)
	}
	return r.String()
}

// patience is how long a helper waits for something that should have happened.
const patience = 10 * time.Second
