package reap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// The tests run beside a main goroutine that does what a shim's does.
var reaper = New()

func TestMain(m *testing.M) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "become a subreaper:", err)
		os.Exit(1)
	}
	ctx, stop := context.WithCancel(context.Background())
	code := 1
	go func() {
		code = m.Run()
		stop()
	}()
	if err := reaper.Run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// start runs a shell script on a throw-away thread and watches it.
func start(t *testing.T, script string) *Child {
	t.Helper()
	var c *Child
	err := reaper.Spawn(func() error {
		cmd := exec.Command("/bin/sh", "-c", script)
		if err := cmd.Start(); err != nil {
			return err
		}
		var err error
		c, err = reaper.Watch(cmd.Process.Pid)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestStatusOfEveryEnd(t *testing.T) {
	for script, want := range map[string]int{
		"exit 0":        0,
		"exit 7":        7,
		"exit 255":      255,
		"kill -9 $$":    137,
		"kill -TERM $$": 143,
	} {
		before := time.Now()
		c := start(t, script)
		status, at := c.Wait()
		if status != want {
			t.Errorf("%s: status %d, want %d", script, status, want)
		}
		if at.Before(before) || at.After(time.Now()) {
			t.Errorf("%s: at %v, started %v", script, at, before)
		}
		if err := c.Signal(syscall.SIGTERM); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("signal after the end: %v, want not found", err)
		}
	}
}

func TestSignalReachesTheChild(t *testing.T) {
	c := start(t, "exec sleep 60")
	if err := c.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if status, _ := c.Wait(); status != 137 {
		t.Errorf("status %d, want 137", status)
	}
}

// Watched children, orphans and os/exec, all at once: every status arrives where it belongs, and no zombie stays.
func TestNobodyTakesAnothersStatus(t *testing.T) {
	const n = 200
	var wg sync.WaitGroup
	sem := make(chan struct{}, 8)
	for i := range n {
		wg.Add(2)
		sem <- struct{}{}
		go func() {
			defer wg.Done()
			defer func() { <-sem }()
			// Leaves an orphan behind that dies a little later.
			c := start(t, fmt.Sprintf("(sleep 0.0%d; exit 3) & exit %d", i%9+1, i%200))
			if status, _ := c.Wait(); status != i%200 {
				t.Errorf("watched %d: status %d", i, status)
			}
		}()
		go func() {
			defer wg.Done()
			err := exec.Command("/bin/sh", "-c", "exit "+strconv.Itoa(i%100+1)).Run()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != i%100+1 {
				t.Errorf("os/exec %d: %v", i, err)
			}
		}()
	}
	wg.Wait()
	waitForNoChildren(t)
}

// A dead orphan stays as long as it is held, however many sweeps come by, and goes when it is released.
func TestHoldKeepsOrphans(t *testing.T) {
	release := reaper.Hold()
	defer release()
	start(t, "sleep 0.05 & exit 0").Wait()
	for deadline := time.Now().Add(10 * time.Second); zombies(t) == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the orphan was not adopted, or was reaped")
		}
	}
	for range 2 { // two sweeps would be enough
		reaper.ask()
		time.Sleep(grace + 50*time.Millisecond)
	}
	if z := zombies(t); z != 1 {
		t.Errorf("%d zombies while they are held, want 1", z)
	}
	later := reaper.Hold() // keeps none that was there before it
	defer later()
	release()
	waitForNoChildren(t)
}

// A thread of the pool ends with somebody's os/exec child on it: the sweep leaves the status to whoever waits.
func TestChildOfAnEndedThread(t *testing.T) {
	for i := range 20 {
		waited := make(chan error, 1)
		started := make(chan struct{})
		cmd := exec.Command("/bin/sh", "-c", "sleep 0.02; exit "+strconv.Itoa(i+1))
		go func() {
			runtime.LockOSThread() // never unlocked
			if err := cmd.Start(); err != nil {
				t.Error(err)
			}
			close(started)
		}()
		<-started
		go func() { waited <- cmd.Wait() }()
		var exit *exec.ExitError
		if err := <-waited; !errors.As(err, &exit) || exit.ExitCode() != i+1 {
			t.Errorf("wait %d: %v", i+1, err)
		}
	}
}

func TestSpawnHasItsOwnDirectoryAndSurvivesPanics(t *testing.T) {
	before, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if err := reaper.Spawn(func() error { return unix.Chdir("/") }); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.Getwd(); after != before {
		t.Errorf("working directory is %s after Spawn, was %s", after, before)
	}
	if err := reaper.Spawn(func() error { panic("ouch") }); err == nil || !strings.Contains(err.Error(), "ouch") {
		t.Errorf("panic in Spawn: %v", err)
	}
	if err := reaper.Spawn(func() error { runtime.Goexit(); return nil }); err == nil {
		t.Error("Goexit in Spawn went unnoticed")
	}
}

// An idle watch parks on the poller: many of them do not make threads.
func TestManyWatchesFewThreads(t *testing.T) {
	const n = 100
	var children []*Child
	for range n {
		children = append(children, start(t, "exec sleep 60"))
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	if len(tasks) > 40 {
		t.Errorf("%d threads for %d watched processes", len(tasks), n)
	}
	for _, c := range children {
		if err := c.Signal(syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	for _, c := range children {
		c.Wait()
	}
	waitForNoChildren(t)
}

func zombies(t *testing.T) (n int) {
	t.Helper()
	ents, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range ents {
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		if f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:])); f[0] == "Z" && f[1] == strconv.Itoa(os.Getpid()) {
			n++
		}
	}
	return n
}

func waitForNoChildren(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); zombies(t) > 0; {
		if time.Now().After(deadline) {
			t.Fatalf("%d zombies are left", zombies(t))
		}
		time.Sleep(5 * time.Millisecond)
	}
}
