package stdio

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/shimwright/shimwright/internal/testkit"
	"golang.org/x/sys/unix"
)

// A script is a logging binary, and the directory that it writes to.
type script struct {
	t    *testing.T
	path string
	dir  string
}

func newScript(t *testing.T, text string) *script {
	t.Helper()
	s := &script{t: t, dir: t.TempDir()}
	s.path = filepath.Join(s.dir, "logger")
	if err := os.WriteFile(s.path, []byte("#!/bin/sh\ncd "+s.dir+"\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return s
}

// has fails the test if the file does not hold want.
func (s *script) has(name, want string) {
	s.t.Helper()
	if got, err := os.ReadFile(filepath.Join(s.dir, name)); err != nil || string(got) != want {
		s.t.Errorf("%s has %q, %v, want %q", name, got, err, want)
	}
}

func (s *script) await(name string) {
	s.t.Helper()
	testkit.Await(s.t, 20*time.Second, name+" written by the logger", func() bool {
		info, err := os.Stat(filepath.Join(s.dir, name))
		return err == nil && info.Size() > 0
	})
}

// storing is a logger that stores both streams until their end. ready is how it says that it is ready.
func storing(ready string) string {
	return `echo $$ >>pids
cat <&3 5>&- >>out & cat <&4 5>&- >>err &
` + ready + `
wait`
}

// nothingLeft fails the test if at its end this process has more descriptors or children, zombies too, than now. It
// looks at nothing else, and so waits for no other test process as testkit.NoLeaks does.
func nothingLeft(t *testing.T) {
	t.Helper()
	fds := descriptors(t)
	t.Cleanup(func() {
		testkit.Await(t, 10*time.Second, "no child and no more descriptors", func() bool {
			return len(offspring(t)) == 0 && descriptors(t) <= fds
		})
	})
}

func offspring(t *testing.T) (pids []string) {
	t.Helper()
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range lists {
		b, _ := os.ReadFile(list) // the thread may have ended
		pids = append(pids, strings.Fields(string(b))...)
	}
	return pids
}

const closing, saying = "exec 5>&-", "printf x >&5; exec 5>&-"

func openWith(t *testing.T, l limits, c Config) (*Streams, error) {
	t.Helper()
	o := opener(t)
	o.limits = &l
	return o.Open(t.Context(), "c1", "x1", c)
}

func mustOpenWith(t *testing.T, l limits, c Config) *Streams {
	t.Helper()
	s, err := openWith(t, l, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Abort)
	return s
}

func TestLoggerGetsBothStreams(t *testing.T) {
	for scheme, ready := range map[string]string{"binary": closing, "binary-v2": saying} {
		t.Run(scheme, func(t *testing.T) {
			nothingLeft(t)
			logger := newScript(t, `printf '%s\n' "$@" >args
tr '\0' '\n' </proc/$$/environ | grep ^CONTAINER >env
`+storing(ready))
			uri := scheme + "://" + logger.path + "?b=1+2&a=%41&b=3&c"
			s := mustOpenWith(t, usual, Config{Stdout: uri, Stderr: uri})
			logger.has("args", "b\n1 2\na\nA\nc\n\n")
			logger.has("env", "CONTAINER_ID=c1\nCONTAINER_NAMESPACE=ns\nCONTAINER_EXEC_ID=x1\n")
			wait(t, s, run(t, s, "seq 50000; echo err >&2"))
			s.Close()
			var want strings.Builder
			for i := range 50000 {
				fmt.Fprintln(&want, i+1)
			}
			logger.has("out", want.String())
			logger.has("err", "err\n")
			if pids, _ := os.ReadFile(filepath.Join(logger.dir, "pids")); strings.Count(string(pids), "\n") != 1 {
				t.Errorf("loggers: %q", pids)
			}
		})
	}
}

// Each stream stands by itself: a logger of one alone sees nothing of the other, and its end with the process's.
func TestLoggerOfOneStream(t *testing.T) {
	nothingLeft(t)
	for _, terminal := range []bool{false, true} {
		a, b := newScript(t, storing(saying)), newScript(t, storing(closing))
		c := Config{Stdout: "binary-v2://" + a.path, Stderr: "binary://" + b.path, Terminal: terminal}
		s := mustOpenWith(t, usual, c)
		if terminal {
			master, slave := pty(t)
			if err := s.IO().SetConsole(master); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("/bin/sh", "-c", "seq 20000; echo err >&2")
			cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			slave.Close()
			wait(t, s, cmd)
		} else {
			wait(t, s, run(t, s, "echo out; echo err >&2"))
		}
		for _, l := range s.loggers { // they see the end now, and not with the task's deletion
			if !ends(l.done, 20*time.Second) {
				t.Errorf("%s outlives the process, terminal %t", l.path, terminal)
			}
		}
		s.Close()
		a.has("err", "")
		if terminal {
			out, err := os.ReadFile(filepath.Join(a.dir, "out"))
			words := strings.Fields(string(out))
			if err != nil || len(words) != 20001 || words[20000] != "err" {
				t.Errorf("%d words, %v", len(words), err)
			}
			if _, err := os.Stat(filepath.Join(b.dir, "pids")); err == nil {
				t.Error("the terminal has a logger for stderr")
			}
			continue
		}
		a.has("out", "out\n")
		b.has("out", "")
		b.has("err", "err\n")
	}
}

func TestLoggerThatDoesNotGetReady(t *testing.T) {
	nothingLeft(t)
	impatient := usual
	impatient.ready = 100 * time.Millisecond
	tests := []struct {
		name, scheme, script string
		limits               limits
		class                error
		says                 string
	}{
		{"fails", "binary", "exit 3", usual, errdefs.ErrUnavailable, "ended with status 3 before it was ready"},
		{"fails", "binary-v2", "exit 3", usual, errdefs.ErrUnavailable, "ended with status 3 before it was ready"},
		{"ends", "binary-v2", "exit 0", usual, errdefs.ErrUnavailable, "ended with status 0 before it was ready"},
		{"killed", "binary", "kill -9 $$", usual, errdefs.ErrUnavailable, "ended with status 137"},
		{"says nothing", "binary-v2", closing + "; cat <&3", usual, errdefs.ErrUnavailable, "without a byte"},
		{"hangs", "binary", "trap '' TERM; cat <&3", impatient, errdefs.ErrUnavailable, "not ready after 100ms"},
		{"hangs", "binary-v2", "trap '' TERM; cat <&3", impatient, errdefs.ErrUnavailable, "not ready after 100ms"},
	}
	for _, test := range tests {
		t.Run(test.name+" "+test.scheme, func(t *testing.T) {
			before := descriptors(t)
			good := newScript(t, storing(closing)) // goes with the bad one
			bad := newScript(t, test.script)
			s, err := openWith(t, test.limits, Config{Stdout: "binary://" + good.path, Stderr: test.scheme + "://" + bad.path})
			if err == nil {
				s.Abort()
			}
			if !errors.Is(err, test.class) || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), bad.path) {
				t.Errorf("got %v, want %v: %s", err, test.class, test.says)
			}
			testkit.Await(t, 10*time.Second, "closed descriptors", func() bool { return descriptors(t) <= before })
		})
	}
	t.Run("given up", func(t *testing.T) {
		logger := newScript(t, "echo x >started; cat <&3")
		ctx, cancel := context.WithCancelCause(t.Context())
		cause := errors.New("killed")
		go func() { logger.await("started"); cancel(cause) }()
		if _, err := opener(t).Open(ctx, "c1", "", Config{Stdout: "binary://" + logger.path}); !errors.Is(err, cause) {
			t.Errorf("got %v, want %v", err, cause)
		}
	})
}

// What is in the pipe, and the writer, outlive a logger: each one here stores a line and dies.
func TestFailedLoggerIsReplaced(t *testing.T) {
	nothingLeft(t)
	l := usual
	l.retry, l.retries = time.Millisecond, 8
	logger := newScript(t, saying+`
read line <&3 && echo "$line" >>out && kill -9 $$`)
	s := mustOpenWith(t, l, Config{Stdout: "binary-v2://" + logger.path})
	wait(t, s, run(t, s, "for i in 1 2 3 4 5; do echo line $i; done"))
	s.Close()
	logger.has("out", "line 1\nline 2\nline 3\nline 4\nline 5\n")
}

// A writer is told, and does not hang, when no logger will ever read.
func TestHopelessLoggerIsGivenUp(t *testing.T) {
	tests := map[string]struct {
		script string
		runs   int
	}{
		"fails":         {"echo x >>runs; " + saying + "\nread line <&3; exit 1", 4},
		"ends":          {"echo x >>runs; " + saying + "\nread line <&3; exit 0", 1},
		"fails to come": {"echo x >>runs; [ $(wc -l <runs) = 1 ] || exit 1; " + saying + "\nread line <&3; exit 1", 4},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			nothingLeft(t)
			l := usual
			l.retry, l.retries = time.Millisecond, 3
			logger := newScript(t, test.script)
			s := mustOpenWith(t, l, Config{Stdout: "binary-v2://" + logger.path})
			cmd := run(t, s, "exec yes")
			cmd.Wait()
			s.Exited()
			if ws := cmd.ProcessState.Sys().(interface{ Signal() (sig unix.Signal) }); ws.Signal() != unix.SIGPIPE {
				t.Errorf("the writer ended with %v, want SIGPIPE", cmd.ProcessState)
			}
			s.Close()
			logger.has("runs", strings.Repeat("x\n", test.runs))
		})
	}
}

// Close waits for a logger that is slow, and not for one that does not end.
func TestCloseWaitsForLoggers(t *testing.T) {
	nothingLeft(t)
	hasty := usual
	hasty.drain, hasty.term = 100*time.Millisecond, 100*time.Millisecond
	patient := usual
	patient.handover = 0
	tests := map[string]struct {
		limits limits
		script string
		out    string
	}{
		"slow":                 {patient, saying + "\nsleep 0.3; exec cat <&3 >out", "out\n"},
		"ends at SIGTERM":      {hasty, "trap 'echo bye >>out; exit 0' TERM; " + saying + "\ncat <&3 >out; while :; do sleep 0.01; done", "out\nbye\n"},
		"does not even then":   {hasty, "trap '' TERM; " + saying + "\ncat <&3 >out; while :; do sleep 0.01; done", "out\n"},
		"and it does not read": {hasty, "trap '' TERM; " + saying + "\nread line <&3; echo $line >out; while :; do sleep 0.01; done", "out\n"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			logger := newScript(t, test.script)
			s := mustOpenWith(t, test.limits, Config{Stdout: "binary-v2://" + logger.path})
			wait(t, s, run(t, s, "echo out"))
			if strings.HasPrefix(name, "and") {
				logger.await("out")
			}
			s.Close()
			logger.has("out", test.out)
			if !ends(s.loggers[0].done, 0) {
				t.Error("the logger outlives Close")
			}
		})
	}
}

// A process that an exec has left behind goes on writing: its logger stays until it is done, and Close does not wait.
func TestLoggerStaysWithItsWriters(t *testing.T) {
	nothingLeft(t)
	logger := newScript(t, storing(saying))
	l := usual
	l.handover = time.Millisecond
	s := mustOpenWith(t, l, Config{Stdout: "binary-v2://" + logger.path})
	in := fifo(t, "in")
	cmd := run(t, s, "(read line; echo $line) <>"+in+" & echo first")
	cmd.Wait()
	s.Exited()
	began := time.Now()
	s.Close()
	if took := time.Since(began); took > l.drain/2 {
		t.Errorf("Close took %v", took)
	}
	if err := os.WriteFile(in, []byte("last\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if !ends(s.loggers[0].done, 20*time.Second) {
		t.Fatal("the logger outlives the last writer")
	}
	logger.has("out", "first\nlast\n")
}

func TestAbortKillsLoggers(t *testing.T) {
	nothingLeft(t)
	logger := newScript(t, "trap '' TERM; "+saying+"\ncat <&3; while :; do sleep 0.01; done")
	s := mustOpenWith(t, usual, Config{Stdout: "binary-v2://" + logger.path})
	began := time.Now()
	s.Abort()
	if !ends(s.loggers[0].done, 0) || time.Since(began) > usual.drain/2 {
		t.Errorf("the logger lives, %v after Abort", time.Since(began))
	}
}

// What a logger has started ends with it.
func TestLoggersChildrenEndToo(t *testing.T) {
	for name, end := range map[string]func(*Streams){"Close": (*Streams).Close, "Abort": (*Streams).Abort} {
		t.Run(name, func(t *testing.T) {
			nothingLeft(t)
			hasty := usual
			hasty.handover, hasty.drain, hasty.term = 0, time.Millisecond, 5*time.Second
			logger := newScript(t, "sleep 1000 5>&- &\necho $! >child\n"+saying+"\nwait")
			s := mustOpenWith(t, hasty, Config{Stdout: "binary-v2://" + logger.path})
			wait(t, s, run(t, s, "echo out"))
			child, err := os.ReadFile(filepath.Join(logger.dir, "child"))
			if err != nil {
				t.Fatal(err)
			}
			end(s)
			testkit.Await(t, 10*time.Second, "the end of the logger's child", func() bool {
				_, err := os.Stat("/proc/" + strings.TrimSpace(string(child)))
				return err != nil
			})
		})
	}
}

// A logger has the pipes, /dev/null and nothing of the shim's; the process has one pipe's end for each stream.
func TestLoggerInheritsNothingElse(t *testing.T) {
	nothingLeft(t)
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil { // what the test inherited
		t.Fatal(err)
	}
	logger := newScript(t, `ls -l /proc/$$/fd >list; sed -n 's/.* \([0-9]*\) -> /\1 /p' list >fds
`+storing(saying))
	uri := "binary-v2://" + logger.path
	s := mustOpenWith(t, usual, Config{Stdin: fifo(t, "in"), Stdout: uri, Stderr: uri})
	fds, err := os.ReadFile(filepath.Join(logger.dir, "fds"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(fds)) {
		fd, to, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case fd == "1" && strings.HasSuffix(to, "/list"): // the shell's
		case slices.Contains([]string{"0", "1", "2"}, fd) && to == "/dev/null", slices.Contains([]string{"3", "4", "5"}, fd) && strings.HasPrefix(to, "pipe:"):
		case len(fd) > 1 && (strings.HasSuffix(to, "/logger") || to == "/dev/null"): // the shell's
		default:
			t.Errorf("descriptor %s is %s", fd, to)
		}
	}
	io := s.IO()
	if io.Stdout == io.Stderr || !strings.Contains(string(fds), "3 "+link(t, io.Stdout)) || !strings.Contains(string(fds), "4 "+link(t, io.Stderr)) {
		t.Errorf("the process has %s and %s, the logger %q", link(t, io.Stdout), link(t, io.Stderr), fds)
	}
	wait(t, s, run(t, s, ":"))
	s.Close()
}

func link(t *testing.T, f *os.File) string {
	t.Helper()
	to, err := os.Readlink(fmt.Sprint("/proc/self/fd/", f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return to
}
