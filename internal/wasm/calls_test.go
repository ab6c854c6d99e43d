package wasm

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shimwright/shimwright/internal/testkit"
)

// guest builds one of testdata/wasm.
func guest(t *testing.T, name string) string {
	t.Helper()
	root, err := testkit.Root()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), name+".wasm")
	build := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-o", path, "./testdata/wasm/"+name)
	build.Dir, build.Env = root, append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

// client connects to address, until ctx ends, and sends "hello". It tells what it got back, once the other side has closed.
func client(ctx context.Context, address string, begin <-chan struct{}, got chan<- string) {
	select {
	case <-begin:
	case <-ctx.Done():
		got <- "nobody was ready"
		return
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		got <- err.Error()
		return
	}
	defer conn.Close()
	_, err = io.WriteString(conn, "hello")
	if tcp, ok := conn.(*net.TCPConn); ok && err == nil {
		err = tcp.CloseWrite()
	}
	answer, readErr := io.ReadAll(conn)
	got <- fmt.Sprint(string(answer), err, readErr)
}

// What each function of WASI preview 1 does is what docs/WASM.md says: all of its cases are as WASI has it, but for the
// differences that are listed there, and these are differences still.
func TestCalls(t *testing.T) {
	c, _ := newCache(t, filepath.Join(t.TempDir(), "cache"))
	world := t.TempDir()
	for _, dir := range []string{"a", "b"} {
		if err := os.Mkdir(filepath.Join(world, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req := request(t, guest(t, "calls"))
	req.Args, req.Env = []string{"calls", "one", "two words"}, []string{"A=b", "EMPTY="}
	req.Preopens = []Preopen{{Path: "a"}, {Path: "b"}}
	started, ready := make(chan struct{}), &said{word: "ready", ch: make(chan struct{})}
	got := make(chan string, 2)
	for _, begin := range []<-chan struct{}{started, ready.ch} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		req.Listen = append(req.Listen, l.Addr().String())
		l.Close() // free again, for the guest
		go client(ctx, l.Addr().String(), begin, got)
	}
	stdout, stderr, status := playWith(t, c, req, func(cmd *exec.Cmd) {
		cmd.Dir, cmd.Stdin = world, strings.NewReader("input")
		cmd.Stderr = io.MultiWriter(cmd.Stderr, ready)
	}, func(p *os.Process) {
		limit := unix.Rlimit{Cur: 256, Max: 256}
		if err := unix.Prlimit(p.Pid, unix.RLIMIT_NOFILE, &limit, nil); err != nil {
			t.Error(err)
		}
		close(started)
	})
	if status != 77 || !strings.Contains(stdout, "done 3") {
		t.Fatalf("the guest ended with %d: %s%s", status, stdout, stderr)
	}
	answers := []string{<-got, <-got}
	slices.Sort(answers)
	if want := []string{"<nil> <nil>", "answer<nil> <nil>"}; !slices.Equal(answers, want) {
		t.Errorf("the clients got %q, want %q", answers, want)
	}

	functions, differences := documented(t)
	cases := map[string]int{}
	for line := range strings.Lines(stdout) {
		field := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(field) != 4 {
			continue
		}
		cases[field[1]]++
		key := field[1] + ": " + field[2]
		differs := slices.Contains(differences, key)
		differences = slices.DeleteFunc(differences, func(d string) bool { return d == key })
		switch {
		case field[0] != "ok" && !differs:
			t.Errorf("%s: %s", key, field[3])
		case field[0] == "ok" && differs:
			t.Errorf("%s is as WASI has it: it is listed as a difference", key)
		case differs:
			t.Logf("%s: %s", key, field[3])
		}
	}
	if len(differences) > 0 {
		t.Errorf("differences of cases that there are not: %q", differences)
	}
	if len(functions) != 46 {
		t.Errorf("%d functions are documented, WASI has 46", len(functions))
	}
	for _, f := range functions {
		if cases[f] == 0 {
			t.Errorf("%s is not called", f)
		}
		delete(cases, f)
	}
	if len(cases) > 0 {
		t.Errorf("called, and not documented: %v", cases)
	}
}

// documented reads the tables of docs/WASM.md: the functions, and the cases that are not as WASI has them.
func documented(t *testing.T) (functions, differences []string) {
	t.Helper()
	root, err := testkit.Root()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(root, "docs/WASM.md"))
	if err != nil {
		t.Fatal(err)
	}
	function := regexp.MustCompile("^\\| `((?:args|environ|clock|fd|path|poll|proc|sched|random|sock)_[a-z_]+)` \\|")
	difference := regexp.MustCompile("^\\| `([a-z_]+)`: ([^|]*) \\|")
	for line := range strings.Lines(string(data)) {
		if m := function.FindStringSubmatch(line); m != nil {
			functions = append(functions, m[1])
		}
		if m := difference.FindStringSubmatch(line); m != nil {
			differences = append(differences, m[1]+": "+m[2])
		}
	}
	return functions, differences
}

// said closes ch when word has been written.
type said struct {
	word string
	text strings.Builder
	ch   chan struct{}
	once sync.Once
}

func (s *said) Write(p []byte) (int, error) {
	s.text.Write(p)
	if strings.Contains(s.text.String(), s.word) {
		s.once.Do(func() { close(s.ch) })
	}
	return len(p), nil
}
