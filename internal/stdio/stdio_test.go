package stdio

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/shimwright/shimwright/internal/reap"
	"github.com/shimwright/shimwright/internal/testkit"
	"golang.org/x/sys/unix"
)

func fifo(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// opener opens streams as a shim does, and logs to the test.
func opener(t testing.TB) *Opener {
	return &Opener{Namespace: "ns", Reaper: reap.New(), Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
}

func mustOpen(t *testing.T, c Config) *Streams {
	t.Helper()
	s, err := opener(t).Open(t.Context(), "c1", "", c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// run starts a script with the streams of s, as a runtime does.
func run(t *testing.T, s *Streams, script string) *exec.Cmd {
	t.Helper()
	p := s.IO()
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.Stdin, p.Stdout, p.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.Started()
	return cmd
}

func wait(t *testing.T, s *Streams, cmd *exec.Cmd) {
	t.Helper()
	err := cmd.Wait()
	s.Exited()
	if err != nil {
		t.Error(err)
	}
}

// readAll opens path when asked, as a client does, and reads to the end.
func readAll(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatalf("read %s: %v", path, err)
	}
	return b
}

// Each stream stands by itself: given or left out, FIFO or file.
func TestEveryCombination(t *testing.T) {
	for i := range 27 {
		kind := [3]int{i % 3, i / 3 % 3, i / 9} // nothing, FIFO, file
		t.Run(fmt.Sprint(kind), func(t *testing.T) {
			dir := t.TempDir()
			var path [3]string
			for j, k := range kind {
				p := filepath.Join(dir, fmt.Sprint(j))
				switch k {
				case 1:
					if err := unix.Mkfifo(p, 0o600); err != nil {
						t.Fatal(err)
					}
					path[j] = p
				case 2:
					if err := os.WriteFile(p, []byte("in\n"), 0o600); err != nil {
						t.Fatal(err)
					}
					path[j] = p
				}
			}
			s := mustOpen(t, Config{Stdin: path[0], Stdout: path[1], Stderr: path[2]})
			if kind[0] == 1 {
				w, err := os.OpenFile(path[0], os.O_WRONLY|unix.O_NONBLOCK, 0)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := w.WriteString("in\n"); err != nil {
					t.Fatal(err)
				}
				w.Close()
				s.CloseStdin()
			}
			wait(t, s, run(t, s, "echo out-$(cat); echo err >&2"))
			said := "out-in\n"
			if kind[0] == 0 {
				said = "out-\n"
			}
			for j, want := range map[int]string{1: said, 2: "err\n"} {
				switch kind[j] {
				case 1:
					if got := string(readAll(t, path[j])); got != want {
						t.Errorf("stream %d: %q, want %q", j, got, want)
					}
				case 2:
					if got, _ := os.ReadFile(path[j]); string(got) != "in\n"+want {
						t.Errorf("file of stream %d: %q", j, got)
					}
				}
			}
		})
	}
}

// Nothing is lost to a reader that is late, slow, goes away and comes back; the process's end does not wait for it.
func TestOutputOutlivesItsReaders(t *testing.T) {
	out := fifo(t, "out")
	s := mustOpen(t, Config{Stdout: out})
	cmd := run(t, s, "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done")
	wait(t, s, cmd) // all of it fits into the pipe
	var got []byte
	for done := false; !done; { // a new reader for each bite
		f, err := os.OpenFile(out, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1000)
		n, err := f.Read(b)
		got = append(got, b[:n]...)
		done = errors.Is(err, io.EOF)
		f.Close()
	}
	var want bytes.Buffer
	for i := range 2000 {
		fmt.Fprintln(&want, "line", i)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Errorf("got %d bytes, want %d", len(got), want.Len())
	}
}

func TestMegabytesArriveUnchanged(t *testing.T) {
	in, out := fifo(t, "in"), fifo(t, "out")
	s := mustOpen(t, Config{Stdin: in, Stdout: out})
	cmd := run(t, s, "exec cat")
	const size = 32 << 20
	sum := make(chan [32]byte, 1)
	go func() { // ends with the last byte
		w, err := os.OpenFile(in, os.O_WRONLY, 0)
		if err != nil {
			t.Error(err)
		}
		h := sha256.New()
		block := bytes.Repeat([]byte("0123456789abcdef"), 4096)
		for range size / len(block) {
			if _, err := io.MultiWriter(h, w).Write(block); err != nil {
				t.Error(err)
			}
			block[0]++
		}
		w.Close()
		s.CloseStdin()
		sum <- [32]byte(h.Sum(nil))
	}()
	ended := make(chan struct{})
	go func() { // ends with the process
		defer close(ended)
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
		s.Exited()
	}()
	got := readAll(t, out)
	<-ended
	if len(got) != size || sha256.Sum256(got) != <-sum {
		t.Errorf("%d bytes arrived, want %d unchanged", len(got), size)
	}
}

// A client that closes its end and comes back with another finds stdin open; the end comes with CloseStdin.
func TestOnlyCloseStdinEndsStdin(t *testing.T) {
	in, out := fifo(t, "in"), fifo(t, "out")
	s := mustOpen(t, Config{Stdin: in, Stdout: out})
	cmd := run(t, s, "cat; echo end")
	for _, line := range []string{"one\n", "two\n"} {
		w, err := os.OpenFile(in, os.O_WRONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.WriteString(line); err != nil {
			t.Fatal(err)
		}
		w.Close()
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		t.Fatalf("stdin ended without CloseStdin: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	s.CloseStdin()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	s.Exited()
	if got := string(readAll(t, out)); got != "one\ntwo\nend\n" {
		t.Errorf("output %q", got)
	}
}

// Neither the process's descriptors nor the held ones leak into other programs.
func TestDescriptorsAreNotInherited(t *testing.T) {
	s := mustOpen(t, Config{Stdin: fifo(t, "in"), Stdout: fifo(t, "out"), Stderr: fifo(t, "err")})
	for _, f := range []*os.File{s.stdin, s.stdout, s.stderr, s.stdinHold, s.stdoutHold, s.stderrHold} {
		flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("%s: flags %#x, %v", f.Name(), flags, err)
		}
	}
	for _, f := range []*os.File{s.stdin, s.stdout, s.stderr} {
		if flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK != 0 {
			t.Errorf("%s is non-blocking for the process: %#x, %v", f.Name(), flags, err)
		}
	}
}

func TestBadStreams(t *testing.T) {
	long := "binary:///bin/true?a=" + strings.Repeat("b", 1<<20) // more than execve takes
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink("/etc/passwd", link); err != nil {
		t.Fatal(err)
	}
	for uri, class := range map[string]error{
		"relative":                 errdefs.ErrInvalidArgument,
		dir:                        errdefs.ErrInvalidArgument,
		dir + "/none":              errdefs.ErrInvalidArgument,
		link:                       errdefs.ErrInvalidArgument,
		"file://" + link:           errdefs.ErrInvalidArgument,
		"file://" + link + "/x":    errdefs.ErrInvalidArgument,
		"file://host/x":            errdefs.ErrInvalidArgument,
		"file:///x?a=b":            errdefs.ErrInvalidArgument,
		"gopher:///x":              errdefs.ErrInvalidArgument,
		"file://%zz":               errdefs.ErrInvalidArgument,
		"/a\x00b":                  errdefs.ErrInvalidArgument,
		"binary://bin/true":        errdefs.ErrInvalidArgument,
		"binary:///bin/true#x":     errdefs.ErrInvalidArgument,
		"binary:///bin/true?a=%zz": errdefs.ErrInvalidArgument,
		"binary:///bin/true?a=%00": errdefs.ErrInvalidArgument,
		"binary:///nosuch":         errdefs.ErrInvalidArgument,
		"binary-v2:///etc/passwd":  errdefs.ErrInvalidArgument,
		"binary://" + dir:          errdefs.ErrInvalidArgument,
		"binary:///":               errdefs.ErrInvalidArgument,
		long:                       errdefs.ErrInvalidArgument,
	} {
		before := descriptors(t)
		if s, err := opener(t).Open(t.Context(), "c1", "", Config{Stdout: uri}); !errors.Is(err, class) {
			t.Errorf("%q: %v, want %v", uri, err, class)
			if err == nil {
				s.Close()
			}
		}
		if after := descriptors(t); after != before {
			t.Errorf("%q: %d descriptors, before %d", uri, after, before)
		}
	}
}

func TestFileIsMadeAndAppendedTo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "of", "pod", "log")
	for range 2 {
		s := mustOpen(t, Config{Stdout: "file://" + path, Stderr: "file://" + path})
		wait(t, s, run(t, s, "echo out; echo err >&2"))
	}
	if got, _ := os.ReadFile(path); string(got) != "out\nerr\nout\nerr\n" {
		t.Errorf("file has %q", got)
	}
}

// pty returns a master, and the slave that a process gets.
func pty(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		testkit.Missing(t, "no pty: %v", err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return master, slave
}

func TestTerminal(t *testing.T) {
	in, out := fifo(t, "in"), fifo(t, "out")
	s := mustOpen(t, Config{Stdin: in, Stdout: out, Terminal: true})
	master, slave := pty(t)
	if err := s.IO().SetConsole(master); err != nil {
		t.Fatal(err)
	}
	if err := s.Resize(101, 42); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", "stty size; read a; echo got $a; seq 2000")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	s.Started()
	w, err := os.OpenFile(in, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.WriteString("hello\n"); err != nil {
		t.Fatal(err)
	}
	wait(t, s, cmd)
	s.Close() // nobody has read yet: what was written is in the FIFO as long as somebody holds it
}

func TestTerminalsOutputIsWhole(t *testing.T) {
	out := fifo(t, "out")
	s := mustOpen(t, Config{Stdout: out, Terminal: true})
	master, slave := pty(t)
	if err := s.IO().SetConsole(master); err != nil {
		t.Fatal(err)
	}
	if err := s.Resize(101, 42); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", "stty size; seq 20000")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close()
	s.Started()
	read := make(chan []byte, 1)
	go func() { read <- readAll(t, out) }()
	wait(t, s, cmd)
	s.Close()
	lines := strings.Fields(strings.ReplaceAll(string(<-read), "\r", ""))
	if len(lines) != 20002 || lines[0] != "42" || lines[1] != "101" || lines[20001] != "20000" {
		t.Errorf("%d words: %.5q … %q", len(lines), lines, lines[max(0, len(lines)-2):])
	}
}

// Somebody keeps the terminal open after the process: Close does not wait for them.
func TestTerminalHeldOpen(t *testing.T) {
	s := mustOpen(t, Config{Terminal: true})
	master, slave := pty(t)
	defer slave.Close()
	if err := s.IO().SetConsole(master); err != nil {
		t.Fatal(err)
	}
	s.Exited()
	closed := make(chan struct{})
	go func() { s.Close(); close(closed) }()
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Fatal("Close waits for a terminal that is held open")
	}
}

func TestSecondConsoleIsRefused(t *testing.T) {
	s := mustOpen(t, Config{Terminal: true})
	a, slaveA := pty(t)
	defer slaveA.Close()
	b, slaveB := pty(t)
	defer slaveB.Close()
	if err := s.IO().SetConsole(a); err != nil {
		t.Fatal(err)
	}
	if err := s.IO().SetConsole(b); err == nil {
		t.Error("a second console was taken")
	}
}

func TestCloseFreesEverything(t *testing.T) {
	before := descriptors(t)
	for range 20 {
		s, err := opener(t).Open(t.Context(), "c1", "", Config{Stdin: fifo(t, "in"), Stdout: fifo(t, "out"), Stderr: fifo(t, "err")})
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		s.Close()
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors, before %d", after, before)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	ents, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(ents)
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "/a", "fifo:///a", "file:///a", "binary:///a?k=v", "binary-v2:///a?&k=%41&l&k=w", "x", "://", "file://%zz", "file:////a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, uri string) {
		to, err := parse(uri)
		if err == nil && uri != "" && (!strings.HasPrefix(to.path, "/") || strings.ContainsRune(to.path, 0)) {
			t.Errorf("%q became %q", uri, to.path)
		}
		if err == nil && to.program != nil && (len(to.program.args)%2 != 0 || strings.ContainsRune(strings.Join(to.program.args, ""), 0)) {
			t.Errorf("%q has arguments %q", uri, to.program.args)
		}
		if err != nil && !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q: %v has no class", uri, err)
		}
	})
}
