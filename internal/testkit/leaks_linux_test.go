package testkit

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
)

// recorder is a test that is watched: its failures are kept, its clean-ups run when told.
type recorder struct {
	testing.TB
	failures []string
	cleanups []func()
}

func (r *recorder) Helper()          {}
func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Errorf(format string, args ...any) {
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

func (r *recorder) finish() string {
	for len(r.cleanups) > 0 {
		last := len(r.cleanups) - 1
		f := r.cleanups[last]
		r.cleanups = r.cleanups[:last]
		f()
	}
	return strings.Join(r.failures, "\n")
}

func TestNoLeaksReportsEachKind(t *testing.T) {
	command := func(t *testing.T, name string, args ...string) *exec.Cmd {
		t.Helper()
		cmd := exec.Command(name, args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		return cmd
	}
	tests := []struct {
		name  string
		root  bool
		plant func(t *testing.T) (reported string)
	}{
		{"child", false, func(t *testing.T) string {
			return fmt.Sprintf("process %d,", command(t, "sleep", "60").Process.Pid)
		}},
		{"zombie", false, func(t *testing.T) string {
			pid := command(t, "true").Process.Pid
			Await(t, patience, "end of a process", func() bool { return processes()[pid].state == "Z" })
			return fmt.Sprintf("process %d, child of %d: true: zombie", pid, os.Getpid())
		}},
		{"orphan", false, func(t *testing.T) string {
			return fmt.Sprintf("process %d,", orphan(t, "sleep 60", "sleep"))
		}},
		{"orphan in another pid namespace", true, func(t *testing.T) string {
			// It has lost both its parent and the environment.
			parent := orphan(t, "env -i unshare --pid --fork --kill-child sleep 60", "unshare")
			var child int
			Await(t, patience, "unshare's child", func() bool {
				for pid, p := range processes() {
					if p.parent == parent && p.name == "sleep" {
						child = pid
					}
				}
				return child != 0
			})
			return fmt.Sprintf("process %d, child of %d: sleep: sleep 60", child, parent)
		}},
		{"shim", true, func(t *testing.T) string {
			sleep, err := exec.LookPath("sleep")
			if err != nil {
				t.Fatal(err)
			}
			shim := filepath.Join(t.TempDir(), "containerd-shim-planted-v1")
			if err := os.Symlink(sleep, shim); err != nil {
				t.Fatal(err)
			}
			return fmt.Sprintf("process %d,", orphan(t, "env -i "+shim+" 60", "containerd-shim"))
		}},
		{"mount", true, func(t *testing.T) string {
			dir := t.TempDir()
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Unmount(dir, 0) })
			return "mount " + dir
		}},
		{"second mount in one place", true, func(t *testing.T) string {
			if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Unmount("/proc", 0) })
			return "mount /proc"
		}},
		{"loop device", true, func(t *testing.T) string {
			image := filepath.Join(t.TempDir(), "image")
			if err := os.WriteFile(image, make([]byte, 1<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			loop, err := mount.SetupLoop(image, mount.LoopParams{Autoclear: true})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { loop.Close() })
			return "loop device " + loop.Name() + ": " + image
		}},
		{"cgroup", true, func(t *testing.T) string {
			dir := cgroup(t)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Rmdir(dir) })
			return "cgroup " + dir
		}},
		{"socket", true, func(t *testing.T) string {
			path := filepath.Join(directory(t, "/run/containerd/s"), "planted")
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			return "socket " + path
		}},
		{"state directory", true, func(t *testing.T) string {
			return "state " + directory(t, "/run/containerd/runc/planted/c1")
		}},
		{"file descriptor", false, func(t *testing.T) string {
			f, err := os.Create(filepath.Join(t.TempDir(), "open"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { f.Close() })
			return fmt.Sprintf("file descriptor %d: %s", f.Fd(), f.Name())
		}},
		{"socket pair", false, func(t *testing.T) string {
			fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
			return fmt.Sprintf("file descriptor %d: socket:", fds[1])
		}},
		{"goroutine", false, func(t *testing.T) string {
			end := make(chan struct{})
			go func() { <-end }()
			t.Cleanup(func() { close(end) })
			return "goroutine "
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.root {
				RequireRoot(t)
			}
			watched := &recorder{TB: t}
			noLeaks(watched, 50*time.Millisecond)
			want := test.plant(t)
			if got := watched.finish(); !strings.Contains(got, want) {
				t.Errorf("NoLeaks reports %q, want %q in it", got, want)
			}
		})
	}
}

// What was there before, what goes away in time and what others do is no leak.
func TestNoLeaksIsQuiet(t *testing.T) {
	before := exec.Command("sleep", "60")
	if err := before.Start(); err != nil {
		t.Fatal(err)
	}
	defer before.Wait()
	defer before.Process.Kill()
	watched := &recorder{TB: t}
	noLeaks(watched, patience)
	late := exec.Command("sleep", "0.1")
	if err := late.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); late.Wait() }()
	if got := watched.finish(); got != "" {
		t.Errorf("NoLeaks reports %q", got)
	}
	<-ended
}

// orphan runs command so that it is no child of ours, waits until it bears a name that begins like this,
// and returns its pid.
func orphan(t *testing.T, command, name string) int {
	t.Helper()
	out, err := exec.Command("sh", "-c", command+" >/dev/null 2>&1 & echo $!").Output()
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Kill(pid, unix.SIGKILL) })
	Await(t, patience, command, func() bool { return strings.HasPrefix(processes()[pid].name, name) })
	return pid
}

// cgroup names a directory to make in some cgroup hierarchy.
func cgroup(t *testing.T) string {
	t.Helper()
	for _, hierarchy := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup"} {
		if _, err := os.Stat(filepath.Join(hierarchy, "cgroup.procs")); err == nil {
			return filepath.Join(hierarchy, "shimwright-planted")
		}
	}
	Missing(t, "needs a cgroup file system at /sys/fs/cgroup")
	return ""
}

// directory makes path for the time of the test, and what it made above it.
func directory(t *testing.T, path string) string {
	t.Helper()
	if _, err := os.Stat(path); err == nil {
		return path
	}
	directory(t, filepath.Dir(path))
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Rmdir(path) })
	return path
}
