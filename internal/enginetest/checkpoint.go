package enginetest

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/shimwright/shimwright/internal/testkit"
	"github.com/shimwright/shimwright/task"
)

// These tests do not run in user-mode Linux: its kernel has no CONFIG_CHECKPOINT_RESTORE.

// RunCheckpoint runs all tests of checkpoint and restore on e.
func RunCheckpoint(t *testing.T, e Engine) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, e Engine)
	}{
		{"RestoredTaskGoesOn", testRestoredTaskGoesOn},
		{"RestoredTaskHasNewStreams", testRestoredTaskHasNewStreams},
		{"CheckpointLeavesTheTaskAsItWas", testCheckpointLeavesTheTaskAsItWas},
		{"CheckpointPaths", testCheckpointPaths},
		{"CheckpointNeedsLeave", testCheckpointNeedsLeave},
		{"CheckpointOfATerminal", testCheckpointOfATerminal},
		{"CheckpointWithoutCriu", testCheckpointWithoutCriu},
		{"RestoreThatFailsLeavesNothing", testRestoreThatFailsLeavesNothing},
		{"KillEndsARestore", testKillEndsARestore},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, e) })
	}
}

// newCriuHost is NewHost on a machine with criu.
func newCriuHost(t *testing.T, e Engine) *Host {
	t.Helper()
	if _, err := exec.LookPath("criu"); err != nil {
		testkit.Missing(t, "needs criu (hack/deps.sh test): %v", err)
	}
	const cache = "/run/criu.kdat.tmp" // left by criu where /run is no tmpfs
	t.Cleanup(func() { os.Remove(cache) })
	return NewHost(t, e)
}

// count prints how often it was round, again and again.
const count = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done"

// numbers reads n lines of what count prints: each is by one more than the one before.
func numbers(t *testing.T, out io.Reader, n int) (last int) {
	t.Helper()
	lines := bufio.NewScanner(out)
	for i := range n {
		if !lines.Scan() {
			t.Fatalf("%d lines instead of %d: %v", i, n, lines.Err())
		}
		next, err := strconv.Atoi(strings.TrimSuffix(lines.Text(), "\r"))
		if err != nil || i > 1 && next != last+1 { // the first may be half of one
			t.Fatalf("%q after %d", lines.Text(), last)
		}
		last = next
	}
	return last
}

func pack(t testing.TB, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// begin creates and starts what r asks for.
func (h *Host) begin(r *task.CreateRequest) task.Task {
	h.T.Helper()
	c := h.Must(r)
	if err := c.Start(h.T.Context()); err != nil {
		log, _ := os.ReadFile(filepath.Join(r.Bundle, "criu-restore.log"))
		h.T.Fatalf("%v\n%s", err, log)
	}
	return c
}

// dump checkpoints c into a new image.
func (h *Host) dump(c task.Task, o *runcoptions.CheckpointOptions) (image string, err error) {
	h.T.Helper()
	image = filepath.Join(h.T.TempDir(), "new", "image")
	return image, c.(task.Checkpointer).Checkpoint(h.T.Context(), &task.CheckpointRequest{Path: image, Options: pack(h.T, o)})
}

// dumped is dump that ends c.
func (h *Host) dumped(c task.Task, r *task.CreateRequest, o *runcoptions.CheckpointOptions) (image string) {
	h.T.Helper()
	o.Exit = true
	image, err := h.dump(c, o)
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(r.Bundle, "criu-dump.log"))
		h.T.Fatalf("%v\n%s", err, log)
	}
	ExitsWith(h.T, c, 137)
	if err := c.Delete(h.T.Context()); err != nil {
		h.T.Fatal(err)
	}
	return image
}

func stop(t *testing.T, c task.Task) {
	t.Helper()
	if err := c.Kill(t.Context(), syscall.SIGKILL, true); err != nil {
		t.Error(err)
	}
	ExitsWith(t, c, 137)
}

func testRestoredTaskGoesOn(t *testing.T, e Engine) {
	h := newCriuHost(t, e)
	// Output also goes to a file that is opened once, and comes from two processes.
	r, out := h.Request("c", testkit.Spec(h.Rootfs, "sh", "-c", "exec 3>/root/log; ("+count+") | while read i; do echo $i; echo $i >&3; done"))
	c := h.begin(r)
	numbers(t, out, 3)
	image := h.dumped(c, r, &runcoptions.CheckpointOptions{})

	r, again := h.Request("d", r.Spec)
	r.Checkpoint = image
	d := h.Must(r)
	if pid := d.PID(); pid != 0 {
		t.Errorf("process %d before the start", pid)
	}
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if last := numbers(t, again, 5); last <= 5 {
		t.Errorf("begins anew: %d", last)
	}
	if err := d.Start(t.Context()); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("started twice: %v", err)
	}
	// What is restored is a container like any other.
	if err := d.(task.Pauser).Pause(t.Context()); err != nil {
		t.Error(err)
	}
	if err := d.(task.Pauser).Resume(t.Context()); err != nil {
		t.Error(err)
	}
	x := h.Exec(d, "true")
	if err := x.Start(t.Context()); err != nil {
		t.Error(err)
	} else {
		ExitsWith(t, x, 0)
	}
	if pids, err := d.(task.Lister).PIDs(t.Context()); err != nil || len(pids) < 2 {
		t.Errorf("%v, %v", pids, err)
	}
	if _, err := d.(task.Stater).Stats(t.Context()); err != nil {
		t.Error(err)
	}
	state, err := os.ReadFile(filepath.Join(h.State("d"), "state.json"))
	if err != nil || strings.Contains(string(state), "org.criu.config") {
		t.Errorf("the state tells of criu's configuration: %v", err)
	}
	second, err := h.dump(d, new(runcoptions.CheckpointOptions))
	if err != nil {
		t.Errorf("checkpoint of a restored task: %v", err)
	}
	stop(t, d)
	log, err := os.Open(filepath.Join(h.Rootfs, "root", "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	numbers(t, log, 6)
	if _, err := os.Stat(filepath.Join(second, "inventory.img")); err != nil {
		t.Error(err)
	}
}

// A client's FIFOs and files are outside the container. The restored task has the new client's; an exec's have no successors.
func testRestoredTaskHasNewStreams(t *testing.T, e Engine) {
	h := newCriuHost(t, e)
	open := func(name string, flags int) (path string, f *os.File) {
		path = filepath.Join(t.TempDir(), name)
		if err := unix.Mkfifo(path, 0o700); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(path, flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return path, f
	}
	file := filepath.Join(t.TempDir(), "file")
	regular, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer regular.Close()
	_, in := open("stdin", os.O_RDWR)
	_, first := open("stdout", os.O_RDWR)
	r, _ := h.Request("c", testkit.Spec(h.Rootfs, "sh", "-c", "while read i; do echo $i >&2; echo $i; done"))
	r.IO = task.IO{Stdin: in, Stdout: first, Stderr: regular}
	c := h.begin(r)
	_, execOut := open("exec", os.O_RDWR)
	x, err := c.(task.Execer).Exec(t.Context(), &task.ExecRequest{ID: "x", Spec: Process("sleep", "1000"), IO: task.IO{Stdin: in, Stdout: execOut, Stderr: execOut}})
	if err != nil {
		t.Fatal(err)
	}
	if err := x.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	in.WriteString("1\n")
	numbers(t, first, 1)
	if _, err := h.dump(c, &runcoptions.CheckpointOptions{Exit: true}); !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), "exec") {
		t.Errorf("checkpoint with an exec that has a FIFO: %v", err)
	}
	if err := x.Kill(t.Context(), syscall.SIGKILL, false); err != nil {
		t.Error(err)
	}
	ExitsWith(t, x, 137)
	image := h.dumped(c, r, &runcoptions.CheckpointOptions{})

	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for name, stderr := range map[string]*os.File{"file": regular, "null": null} {
		_, in := open("stdin", os.O_RDWR)
		pr, pw, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer pr.Close()
		defer pw.Close()
		r, _ := h.Request(name, r.Spec)
		r.IO = task.IO{Stdin: in, Stdout: pw, Stderr: stderr}
		r.Checkpoint = image
		d := h.begin(r)
		in.WriteString("2\n")
		if n := numbers(t, pr, 1); n != 2 {
			t.Errorf("%s: %d", name, n)
		}
		stop(t, d)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "1\n2\n" {
		t.Errorf("stderr has %q, %v", text, err)
	}
}

func testCheckpointLeavesTheTaskAsItWas(t *testing.T, e Engine) {
	h := newCriuHost(t, e)
	r, out := h.Request("c", testkit.Spec(h.Rootfs, "sh", "-c", count))
	c := h.begin(r)
	numbers(t, out, 2)
	for _, mode := range []string{"", "soft", "full", "strict", "ignore"} {
		image, err := h.dump(c, &runcoptions.CheckpointOptions{CgroupsMode: mode, EmptyNamespaces: []string{"network"}})
		if err != nil {
			t.Fatalf("cgroups mode %q: %v", mode, err)
		}
		if _, err := os.Stat(filepath.Join(image, "inventory.img")); err != nil {
			t.Error(err)
		}
		numbers(t, out, 5)
	}
	if err := c.(task.Pauser).Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	image, err := h.dump(c, new(runcoptions.CheckpointOptions))
	if err != nil {
		t.Fatal(err)
	}
	x := h.Exec(c, "true")
	if err := x.Start(t.Context()); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("it is no longer paused: %v", err)
	}
	if err := c.(task.Pauser).Resume(t.Context()); err != nil {
		t.Error(err)
	}
	numbers(t, out, 5)
	for _, left := range []string{"criu-work", "criu-dump.log"} {
		if _, err := os.Lstat(filepath.Join(r.Bundle, left)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", left, err)
		}
	}
	if err := c.(task.Pauser).Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.dumped(c, r, &runcoptions.CheckpointOptions{}) // ends a paused one too

	r, again := h.Request("d", r.Spec)
	r.Checkpoint = image
	d := h.begin(r) // dumped while it was paused, restored running
	numbers(t, again, 3)
	stop(t, d)
}

func testCheckpointPaths(t *testing.T, e Engine) {
	h := newCriuHost(t, e)
	dir := t.TempDir()
	work, image, restoreWork := filepath.Join(dir, "work"), filepath.Join(dir, "image"), filepath.Join(dir, "restore")
	r, _ := h.Request("c", testkit.Spec(h.Rootfs, "sleep", "1000"))
	r.Options = h.Options(&runcoptions.Options{CriuWorkPath: restoreWork})
	c := h.begin(r)
	err := c.(task.Checkpointer).Checkpoint(t.Context(), &task.CheckpointRequest{
		Options: pack(t, &runcoptions.CheckpointOptions{ImagePath: image, WorkPath: work, Exit: true}),
	})
	if err != nil {
		t.Fatal(err)
	}
	ExitsWith(t, c, 137)
	if err := c.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	again, _ := h.Request("d", r.Spec)
	again.Options, again.Checkpoint = r.Options, image
	stop(t, h.begin(again))
	for _, want := range []string{filepath.Join(image, "pages-1.img"), filepath.Join(work, "dump.log"), filepath.Join(restoreWork, "restore.log")} {
		if _, err := os.Stat(want); err != nil {
			t.Error(err)
		}
	}
}

// What is tied to the world outside is only dumped if the client allows it. Else the error says how to allow it.
func testCheckpointNeedsLeave(t *testing.T, e Engine) {
	h := newCriuHost(t, e)
	source, err := testkit.Root()
	if err != nil {
		t.Fatal(err)
	}
	holder := filepath.Join(h.Rootfs, "bin", "holder")
	if out, err := exec.Command("cc", "-static", "-O", "-o", holder, filepath.Join(source, "internal/enginetest/testdata/holder.c")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	network := newNetwork(t)
	dir := t.TempDir()
	server, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "socket"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	for name, test := range map[string]struct {
		args    []string
		spec    func(*specs.Spec)
		allowed *runcoptions.CheckpointOptions
		hint    string
		check   func() error
	}{
		"tcp": {
			args: []string{"holder", "tcp"},
			spec: func(s *specs.Spec) {
				for i := range s.Linux.Namespaces {
					if s.Linux.Namespaces[i].Type == specs.NetworkNamespace {
						s.Linux.Namespaces[i].Path = network
					}
				}
			},
			allowed: &runcoptions.CheckpointOptions{OpenTcp: true},
			hint:    "open_tcp",
		},
		"lock": {
			args:    []string{"holder", "lock"},
			allowed: &runcoptions.CheckpointOptions{FileLocks: true},
			hint:    "file_locks",
			check: func() error {
				f, err := os.Open(filepath.Join(h.Rootfs, "root", "lock"))
				if err != nil {
					return err
				}
				defer f.Close()
				if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
					return errors.New("nobody holds the lock")
				}
				return nil
			},
		},
		"unix": {
			args: []string{"holder", "unix", filepath.Join(dir, "socket")},
			spec: func(s *specs.Spec) {
				s.Mounts = append(s.Mounts, specs.Mount{Destination: dir, Source: dir, Type: "bind", Options: []string{"bind"}})
				// criu only sees the other end in the same network.
				s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
			},
			allowed: &runcoptions.CheckpointOptions{ExternalUnixSockets: true},
			hint:    "external_unix_sockets",
			check: func() error { // what was sent before is in the way
				server.SetReadDeadline(time.Now().Add(5 * time.Second))
				for n := make([]byte, 4); ; {
					if _, err := server.Read(n); err != nil {
						return err
					}
					if len(n) == 4 && binary.NativeEndian.Uint32(n) > 8 {
						return nil
					}
				}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := h.With(t)
			spec := testkit.Spec(h.Rootfs, test.args...)
			if test.spec != nil {
				test.spec(spec)
			}
			r, out := h.Request(name, spec)
			c := h.begin(r)
			numbers(t, out, 2)
			if image, err := h.dump(c, &runcoptions.CheckpointOptions{Exit: true}); err == nil || !strings.Contains(err.Error(), test.hint) {
				t.Errorf("%v, want a hint at %s", err, test.hint)
			} else if _, err := os.Stat(image); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a torn image is left: %v", err)
			}
			numbers(t, out, 4) // it goes on
			image := h.dumped(c, r, test.allowed)
			r, again := h.Request(name+"2", spec)
			r.Checkpoint = image
			d := h.begin(r)
			if last := numbers(t, again, 4); last < 8 {
				t.Errorf("begins anew: %d", last)
			}
			if test.check != nil {
				if err := test.check(); err != nil {
					t.Error(err)
				}
			}
			stop(t, d)
		})
	}
}

// newNetwork makes a network namespace with a loopback interface that is up, and returns where it is mounted.
func newNetwork(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "net")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			lo, err := unix.NewIfreq("lo")
			if err != nil {
				return err
			}
			lo.SetUint16(unix.IFF_UP)
			if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
				return err
			}
			return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
		}()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return path
}

func testCheckpointOfATerminal(t *testing.T, e Engine) {
	h := newCriuHost(t, e)
	for name, o := range map[string]*runcoptions.CheckpointOptions{"plain": {}, "allowed": {Terminal: true}} {
		t.Run(name, func(t *testing.T) {
			h := h.With(t)
			begin := func(id, image string) (task.Task, *task.CreateRequest, *os.File) {
				r, _ := h.Request(id, testkit.Spec(h.Rootfs, "sh", "-c", count))
				r.Spec.Process.Terminal = true
				var master *os.File
				r.IO = task.IO{Terminal: true, SetConsole: func(m *os.File) error { master = m; return nil }}
				r.Checkpoint = image
				c := h.begin(r)
				if master == nil {
					t.Fatal("no terminal")
				}
				t.Cleanup(func() { master.Close() })
				return c, r, master
			}
			c, r, master := begin(name, "")
			numbers(t, master, 3)
			image := h.dumped(c, r, o)
			d, _, again := begin(name+"2", image)
			if last := numbers(t, again, 3); last < 5 {
				t.Errorf("begins anew: %d", last)
			}
			stop(t, d)
		})
	}
}

func testCheckpointWithoutCriu(t *testing.T, e Engine) {
	h := newCriuHost(t, e)
	r, out := h.Request("c", testkit.Spec(h.Rootfs, "sh", "-c", count))
	c := h.begin(r)
	image, err := h.dump(c, new(runcoptions.CheckpointOptions))
	if err != nil {
		t.Fatal(err)
	}
	for name, program := range map[string]string{"missing": "", "too old": "#!/bin/sh\necho Version: 3.11\n"} {
		dir := t.TempDir()
		if program != "" {
			if err := os.WriteFile(filepath.Join(dir, "criu"), []byte(program), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		t.Setenv("PATH", dir)
		if image, err := h.dump(c, &runcoptions.CheckpointOptions{Exit: true}); !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), "install criu") {
			t.Errorf("%s: checkpoint: %v", name, err)
		} else if _, err := os.Stat(image); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: a directory is left: %v", name, err)
		}
		numbers(t, out, 3)
		again, _ := h.Request("d", r.Spec)
		again.Checkpoint = image
		if _, err := h.Make(t.Context(), again); !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), "install criu") {
			t.Errorf("%s: restore: %v", name, err)
		}
	}
	stop(t, c)
}

func testRestoreThatFailsLeavesNothing(t *testing.T, e Engine) {
	h := newCriuHost(t, e)
	r, _ := h.Request("c", testkit.Spec(h.Rootfs, "sh", "-c", count))
	c := h.begin(r)
	image := h.dumped(c, r, new(runcoptions.CheckpointOptions))
	again, _ := h.Request("d", r.Spec)
	for name, want := range map[string]error{"/nosuch": errdefs.ErrNotFound, "relative": errdefs.ErrInvalidArgument, t.TempDir(): errdefs.ErrInvalidArgument} {
		again.Checkpoint = name
		if _, err := h.Make(t.Context(), again); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	again.Checkpoint = image
	again.Spec = &specs.Spec{Version: specs.Version}
	if _, err := h.Make(t.Context(), again); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("empty spec: %v", err)
	}

	// Nothing before the start, nothing after one that fails.
	again.Spec = testkit.Spec(h.Rootfs, "sh", "-c", count)
	d := h.Must(again)
	nothing := func() {
		t.Helper()
		if _, err := os.Lstat(h.State("d")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("state is left: %v", err)
		}
		if dirs := Cgroups(again.Spec); len(dirs) > 0 {
			t.Errorf("cgroups are left: %v", dirs)
		}
	}
	nothing()
	if err := d.Kill(t.Context(), syscall.SIGTERM, false); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("kill before the start: %v", err)
	}
	if err := os.WriteFile(filepath.Join(image, "pagemap-1.img"), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := d.Start(t.Context())
	log := filepath.Join(again.Bundle, "criu-restore.log")
	if err == nil || !strings.Contains(err.Error(), log) || !strings.Contains(err.Error(), "Error (criu/") {
		t.Errorf("start: %v", err)
	}
	nothing()
	if _, err := os.Stat(log); err != nil {
		t.Error(err)
	}
	if d.PID() != 0 {
		t.Errorf("process %d", d.PID())
	}
	if err := d.Kill(t.Context(), syscall.SIGKILL, true); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("kill after a start that failed: %v", err)
	}
}

func testKillEndsARestore(t *testing.T, e Engine) {
	h := newCriuHost(t, e)
	r, _ := h.Request("c", testkit.Spec(h.Rootfs, "sleep", "1000"))
	c := h.begin(r)
	image := h.dumped(c, r, new(runcoptions.CheckpointOptions))

	dir := t.TempDir()
	mark := filepath.Join(dir, "called")
	again, _ := h.Request("d", r.Spec)
	own := filepath.Join(again.Bundle, "criu-work", "own") // criu mounts what it needs, such as the hierarchies of cgroups
	foreign := filepath.Join(t.TempDir(), "foreign")
	if err := os.Mkdir(foreign, 0o700); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\ncase $1 in --version) echo Version: 4.2 ;; *) mkdir " + own + "; mount --bind " + filepath.Dir(foreign) + " " + own +
		"; echo >" + mark + "; exec sleep 1000 ;; esac\n"
	if err := os.WriteFile(filepath.Join(dir, "criu"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	again.Checkpoint = image
	d := h.Must(again)
	failed := make(chan error, 1)
	go func() { failed <- d.Start(context.WithoutCancel(t.Context())) }()
	testkit.Await(t, 10*time.Second, "criu is called", func() bool { _, err := os.Stat(mark); return err == nil })
	if err := d.Kill(t.Context(), syscall.SIGKILL, true); err != nil {
		t.Error(err)
	}
	select {
	case err := <-failed:
		if !errors.Is(err, errdefs.ErrAborted) {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the restore goes on")
	}
	if _, err := os.Lstat(h.State("d")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("state is left: %v", err)
	}
	if _, err := os.Stat(foreign); err != nil {
		t.Errorf("what was mounted for criu: %v", err)
	}
}
