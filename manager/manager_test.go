package manager_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/shimwright/shimwright/internal/bundle"
	"github.com/shimwright/shimwright/internal/testkit"
	"github.com/shimwright/shimwright/manager"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// house is a place for managers and their fake shims.
type house struct {
	t      *testing.T
	dir    string
	config manager.Config
}

// newHouse makes a place; what is still running at the test's end is killed.
func newHouse(t *testing.T, mode string) *house {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "m") // sockets want it short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return &house{t, dir, manager.Config{
		State:     filepath.Join(dir, "state"),
		Root:      filepath.Join(dir, "root"),
		SocketDir: filepath.Join(dir, "s"),
		Env: []string{
			fakeMode + "=" + mode,
			fakeSockets + "=" + filepath.Join(dir, "s"),
			"GORACE=atexit_sleep_ms=0", // the race detector's second before each exit
		},
	}}
}

// manager is a new one that is closed at the test's end. Nobody needs its events.
func (h *house) manager() *manager.Manager {
	h.t.Helper()
	m, err := manager.New(h.config)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { m.Close() })
	return m
}

// start starts a fake shim.
func (h *house) start(m *manager.Manager, id string) *manager.Shim {
	h.t.Helper()
	s, err := m.Start(h.t.Context(), manager.StartRequest{ID: id, Namespace: "ns", Runtime: self(h.t), Spec: plainSpec()})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { syscall.Kill(s.PID(), syscall.SIGKILL) })
	return s
}

// startTask starts a fake shim with a task.
func (h *house) startTask(m *manager.Manager, id string) *manager.Shim {
	h.t.Helper()
	s := h.start(m, id)
	if _, err := s.Task().Create(h.t.Context(), &taskapi.CreateTaskRequest{ID: id, Bundle: s.Bundle()}); err != nil {
		h.t.Fatal(err)
	}
	return s
}

// empty fails the test if there is a bundle, a work directory or a socket.
func (h *house) empty() {
	h.t.Helper()
	for _, pattern := range []string{"state/tasks/*/*", "state/tasks/*/.*", "root/tasks/*/*", "root/tasks/*/.*", "s/*"} {
		left, err := filepath.Glob(filepath.Join(h.dir, pattern))
		if err != nil {
			h.t.Fatal(err)
		}
		for _, path := range left {
			if name := filepath.Base(path); name != "." && name != ".." {
				h.t.Errorf("left: %s", path)
			}
		}
	}
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// ended tells whether the process is gone, or nothing but its end to be told to a parent.
func ended(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, _ := strings.Cut(string(stat), ") ")
	return err != nil || strings.HasPrefix(state, "Z")
}

func plainSpec() *specs.Spec {
	return &specs.Spec{Version: specs.Version, Process: &specs.Process{Args: []string{"sh"}, Cwd: "/"}}
}

func TestStartSpeaksEveryDialect(t *testing.T) {
	for _, dialect := range []manager.Dialect{manager.Containerd23, manager.Containerd17, manager.Containerd16} {
		h := newHouse(t, modeGood)
		h.config.Dialect = dialect
		m := h.manager()
		s := h.startTask(m, "c1")
		if s.PID() == 0 || s.ID() != "c1" || s.Namespace() != "ns" || !strings.HasPrefix(s.Address(), "unix:///") {
			t.Errorf("dialect %d: %+v", dialect, s)
		}
		pid := s.PID()
		exit, err := m.Delete(t.Context(), s)
		if want := (manager.Exit{PID: 33, Status: 3, At: time.Unix(1e9, 0).UTC()}); err != nil || exit != want {
			t.Errorf("dialect %d: got %+v, %v, want %+v", dialect, exit, err, want)
		}
		if !ended(pid) {
			t.Errorf("dialect %d: the shim has outlived Delete", dialect)
		}
		h.empty()
	}
}

func TestBundle(t *testing.T) {
	h := newHouse(t, modeGood)
	defer syscall.Umask(syscall.Umask(0o077))
	s := h.start(h.manager(), "c1")
	for name, want := range map[string]fs.FileMode{
		"state/tasks":                      fs.ModeDir | 0o711,
		"state/tasks/ns":                   fs.ModeDir | 0o711,
		"state/events.sock":                fs.ModeSocket | 0o600,
		"state/tasks/ns/c1":                fs.ModeDir | 0o700,
		"state/tasks/ns/c1/rootfs":         fs.ModeDir | 0o711,
		"state/tasks/ns/c1/config.json":    0o600,
		"state/tasks/ns/c1/log":            fs.ModeNamedPipe | 0o700,
		"root/tasks":                       fs.ModeDir | 0o711,
		"root/tasks/ns":                    fs.ModeDir | 0o711,
		"root/tasks/ns/c1":                 fs.ModeDir | 0o711,
		"state/tasks/ns/c1/bootstrap.json": 0o600,
	} {
		info, err := os.Lstat(filepath.Join(h.dir, name))
		if err != nil {
			t.Error(err)
		} else if info.Mode() != want {
			t.Errorf("%s: %s, want %s", name, info.Mode(), want)
		}
	}
	if work, err := os.Readlink(filepath.Join(s.Bundle(), "work")); work != filepath.Join(h.dir, "root/tasks/ns/c1") {
		t.Errorf("work: %q, %v", work, err)
	}
	if path, err := os.ReadFile(filepath.Join(s.Bundle(), "shim-binary-path")); string(path) != self(t) {
		t.Errorf("shim-binary-path: %q, %v", path, err)
	}
	want := `{"version":3,"address":"` + s.Address() + `","protocol":"ttrpc"}`
	if got, err := os.ReadFile(filepath.Join(s.Bundle(), "bootstrap.json")); string(got) != want {
		t.Errorf("bootstrap.json: %s, %v, want %s", got, err, want)
	}
}

func TestBundleOfAUserNamespaceLetsItsRootPass(t *testing.T) {
	if os.Geteuid() != 0 {
		testkit.Missing(t, "needs root")
	}
	h := newHouse(t, modeGood)
	m := h.manager()
	spec := plainSpec()
	spec.Linux = &specs.Linux{GIDMappings: []specs.LinuxIDMapping{{ContainerID: 5, HostID: 1, Size: 1}, {ContainerID: 0, HostID: 70000, Size: 5}}}
	s, err := m.Start(t.Context(), manager.StartRequest{ID: "c1", Namespace: "ns", Runtime: self(t), Spec: spec})
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(s.Bundle())
	if err != nil {
		t.Fatal(err)
	}
	if gid := info.Sys().(*syscall.Stat_t).Gid; info.Mode().Perm() != 0o710 || gid != 70000 {
		t.Errorf("mode %s, group %d", info.Mode(), gid)
	}
	if _, err := m.Delete(t.Context(), s); err != nil {
		t.Error(err)
	}
}

func TestStartThatFailsLeavesNothing(t *testing.T) {
	request := func(change func(*manager.StartRequest)) manager.StartRequest {
		r := manager.StartRequest{ID: "c1", Namespace: "ns", Runtime: self(t), Spec: plainSpec()}
		change(&r)
		return r
	}
	same := func(*manager.StartRequest) {}
	any := func(err error) bool { return err != nil }
	for _, test := range []struct {
		name, mode string
		request    manager.StartRequest
		is         func(error) bool
		says       string
	}{
		{"start fails", modeFail, request(same), any, "out of order"},
		{"it says too much", modeGarbage, request(same), errdefs.IsInvalidArgument, "deprecated"},
		{"nobody serves", modeDead, request(same), errdefs.IsNotFound, ""},
		{"no binary", modeGood, request(func(r *manager.StartRequest) { r.Runtime = "/no/such/shim" }), errdefs.IsNotFound, "/no/such/shim"},
		{"no binary in PATH", modeGood, request(func(r *manager.StartRequest) { r.Runtime = "io.shimwright.none.v1" }), errdefs.IsNotFound, "containerd-shim-none-v1"},
		{"no runtime", modeGood, request(func(r *manager.StartRequest) { r.Runtime = "" }), errdefs.IsInvalidArgument, ""},
		{"a relative path", modeGood, request(func(r *manager.StartRequest) { r.Runtime = "./a.b.c" }), errdefs.IsInvalidArgument, ""},
		{"no id", modeGood, request(func(r *manager.StartRequest) { r.ID = "" }), errdefs.IsInvalidArgument, ""},
		{"an id that leads away", modeGood, request(func(r *manager.StartRequest) { r.ID = "../x" }), errdefs.IsInvalidArgument, ""},
		{"a namespace that leads away", modeGood, request(func(r *manager.StartRequest) { r.Namespace = ".." }), errdefs.IsInvalidArgument, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHouse(t, test.mode)
			_, err := h.manager().Start(t.Context(), test.request)
			if !test.is(err) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v", err)
			}
			h.empty()
		})
	}
}

func TestStartOfAnExistingContainer(t *testing.T) {
	h := newHouse(t, modeGood)
	m := h.manager()
	s := h.startTask(m, "c1")
	if _, err := m.Start(t.Context(), manager.StartRequest{ID: "c1", Namespace: "ns", Runtime: self(t)}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("got %v", err)
	}
	if _, err := s.Task().State(t.Context(), &taskapi.StateRequest{ID: "c1"}); err != nil {
		t.Errorf("the first one: %v", err)
	}
	s.Close()
	if _, err := m.Start(t.Context(), manager.StartRequest{ID: "c1", Namespace: "ns", Runtime: self(t)}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("closed: %v", err)
	}
}

func TestOneManagerForOneState(t *testing.T) {
	h := newHouse(t, modeGood)
	first := h.manager()
	if _, err := manager.New(h.config); !errdefs.IsAlreadyExists(err) {
		t.Errorf("got %v", err)
	}
	first.Close()
	h.manager()
}

func TestNewRefusesRelativePaths(t *testing.T) {
	for _, c := range []manager.Config{{}, {State: "state", Root: "/tmp"}, {State: "/tmp"}} {
		if _, err := manager.New(c); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// A pod's older shim may serve less than the newer binary that answers in its name.
func TestOldShimIsSpokenToInItsVersion(t *testing.T) {
	h := newHouse(t, modeOld)
	m := h.manager()
	s := h.startTask(m, "c1")
	if exit, err := m.Delete(t.Context(), s); exit.Status != 3 || err != nil {
		t.Errorf("got %+v, %v", exit, err)
	}
	h.empty()
}

func TestErrorsHaveTheirClass(t *testing.T) {
	h := newHouse(t, modeGood)
	s := h.startTask(h.manager(), "c1")
	if _, err := s.Task().Create(t.Context(), &taskapi.CreateTaskRequest{ID: "c1"}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("Create: %v", err)
	}
	if _, err := s.Task().State(t.Context(), &taskapi.StateRequest{ID: "c2"}); !errdefs.IsNotFound(err) {
		t.Errorf("State: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Task().Wait(ctx, &taskapi.WaitRequest{ID: "c1"}); !errdefs.IsDeadlineExceeded(err) {
		t.Errorf("Wait: %v", err)
	}
	if err := syscall.Kill(s.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-s.Done()
	if _, err := s.Task().State(t.Context(), &taskapi.StateRequest{ID: "c1"}); !errdefs.IsUnavailable(err) {
		t.Errorf("after its death: %v", err)
	}
}

func TestDelete(t *testing.T) {
	ofTask := manager.Exit{PID: 33, Status: 3, At: time.Unix(1e9, 0).UTC()}
	ofDead := manager.Exit{PID: 4242, Status: 7, At: time.Unix(1e9, 5).UTC()}
	kill := func(t *testing.T, s *manager.Shim) {
		t.Helper()
		if err := syscall.Kill(s.PID(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		name   string
		task   bool
		before func(*testing.T, *manager.Shim)
		want   manager.Exit
	}{
		{"a task", true, func(*testing.T, *manager.Shim) {}, ofTask},
		{"no task", false, func(*testing.T, *manager.Shim) {}, ofDead},
		{"a dead shim", true, func(t *testing.T, s *manager.Shim) { kill(t, s); <-s.Done() }, ofDead},
		{"a shim that dies", true, kill, ofDead},
		{"a closed connection", true, func(t *testing.T, s *manager.Shim) { s.Close(); <-s.Done() }, ofTask},
		{"closed, then dead", true, func(t *testing.T, s *manager.Shim) { s.Close(); kill(t, s) }, ofDead},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHouse(t, modeGood)
			m := h.manager()
			s := h.start(m, "c1")
			if test.task {
				if _, err := s.Task().Create(t.Context(), &taskapi.CreateTaskRequest{ID: "c1"}); err != nil {
					t.Fatal(err)
				}
			}
			pid := s.PID()
			test.before(t, s)
			var all sync.WaitGroup
			for range 4 { // at once
				all.Go(func() {
					if exit, err := m.Delete(t.Context(), s); err != nil || exit != test.want {
						t.Errorf("got %+v, %v, want %+v", exit, err, test.want)
					}
				})
			}
			all.Wait()
			h.empty()
			testkit.Await(t, 5*time.Second, "the shim's end", func() bool { return ended(pid) })
		})
	}
}

func TestDeleteOfARunningTaskChangesNothing(t *testing.T) {
	h := newHouse(t, modeGood)
	m := h.manager()
	s := h.startTask(m, "running")
	if _, err := m.Delete(t.Context(), s); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("got %v", err)
	}
	if _, err := s.Task().State(t.Context(), &taskapi.StateRequest{ID: "running"}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(s.Bundle(), bundle.ConfigFile)); err != nil {
		t.Error(err)
	}
}

func TestDeleteMayBeTriedAgain(t *testing.T) {
	h := newHouse(t, modeGood)
	m := h.manager()
	s := h.startTask(m, "c1")
	broken := filepath.Join(s.Bundle(), "delete-fails")
	if err := os.WriteFile(broken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Delete(t.Context(), s); err == nil || !strings.Contains(err.Error(), "delete is out of order") {
		t.Fatalf("got %v", err)
	}
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	// The task is gone by now; its exit is not.
	if exit, err := m.Delete(t.Context(), s); exit.Status != 3 || err != nil {
		t.Errorf("got %+v, %v", exit, err)
	}
	h.empty()
}

func TestDeleteUnmountsButRemovesNoData(t *testing.T) {
	testkit.RequireRoot(t)
	h := newHouse(t, modeGood)
	m := h.manager()
	s := h.startTask(m, "c1")
	rootfs := filepath.Join(s.Bundle(), bundle.RootfsDir)
	precious := filepath.Join(rootfs, "precious")
	for _, write := range []func() error{
		func() error { return os.WriteFile(precious, nil, 0o600) },
		func() error { return unix.Mount("tmpfs", rootfs, "tmpfs", 0, "") },
		func() error { return os.Mkdir(filepath.Join(rootfs, "inner"), 0o700) },
		func() error { return unix.Mount("tmpfs", filepath.Join(rootfs, "inner"), "tmpfs", 0, "") },
	} {
		if err := write(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.Delete(t.Context(), s); !errors.Is(err, syscall.ENOTEMPTY) {
		t.Errorf("got %v", err)
	}
	if err := os.Remove(precious); err != nil { // it is there again: both mounts are gone
		t.Fatal(err)
	}
	if _, err := m.Delete(t.Context(), s); err != nil {
		t.Error(err)
	}
	h.empty()
}

func TestGroupSharesOneShim(t *testing.T) {
	h := newHouse(t, modeGood)
	m := h.manager()
	spec := plainSpec()
	spec.Annotations = map[string]string{"io.containerd.runc.v2.group": "pod"}
	var (
		all   sync.WaitGroup
		shims = make([]*manager.Shim, 4)
	)
	for i := range shims { // at once
		all.Go(func() {
			id := "c" + string(rune('0'+i))
			s, err := m.Start(t.Context(), manager.StartRequest{ID: id, Namespace: "ns", Runtime: self(t), Spec: spec})
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := s.Task().Create(t.Context(), &taskapi.CreateTaskRequest{ID: id}); err != nil {
				t.Error(err)
			}
			shims[i] = s
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
	pid := shims[0].PID()
	t.Cleanup(func() { syscall.Kill(pid, syscall.SIGKILL) })
	for _, s := range shims {
		if s.PID() != pid || s.Address() != shims[0].Address() {
			t.Errorf("%s has shim %d at %s, and not %d at %s", s.ID(), s.PID(), s.Address(), pid, shims[0].Address())
		}
	}
	for i, s := range shims {
		if exit, err := m.Delete(t.Context(), s); exit.Status != 3 || err != nil {
			t.Errorf("%s: %+v, %v", s.ID(), exit, err)
		}
		if i < len(shims)-1 && ended(pid) {
			t.Errorf("the shim ended with %s", s.ID())
		}
	}
	testkit.Await(t, 5*time.Second, "the shim's end", func() bool { return ended(pid) })
	h.empty()
}

func TestLoad(t *testing.T) {
	h := newHouse(t, modeGood)
	first := h.manager()
	tear := func(s *manager.Shim, name string) {
		if err := os.WriteFile(filepath.Join(s.Bundle(), name), []byte(`{"vers`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(s *manager.Shim, name string) {
		if err := os.Remove(filepath.Join(s.Bundle(), name)); err != nil {
			t.Fatal(err)
		}
	}
	kill := func(s *manager.Shim) {
		if err := syscall.Kill(s.PID(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-s.Done()
	}
	pids := make(map[string]int)
	for id, then := range map[string]func(*manager.Shim){
		"healthy":       func(*manager.Shim) {},
		"torn":          func(s *manager.Shim) { tear(s, "bootstrap.json") },
		"empty":         func(s *manager.Shim) { os.Truncate(filepath.Join(s.Bundle(), "bootstrap.json"), 0) },
		"missing":       func(s *manager.Shim) { remove(s, "bootstrap.json") },
		"no-address":    func(s *manager.Shim) { remove(s, "bootstrap.json"); remove(s, "address") },
		"torn-config":   func(s *manager.Shim) { tear(s, "config.json") },
		"dead":          kill,
		"dead-and-torn": func(s *manager.Shim) { tear(s, "bootstrap.json"); tear(s, "config.json"); kill(s) },
		"dead-no-clue":  func(s *manager.Shim) { kill(s); remove(s, "shim-binary-path") },
		"dead-stuck":    func(s *manager.Shim) { kill(s); tear(s, "delete-fails") },
	} {
		s := h.startTask(first, id)
		pids[id] = s.PID()
		then(s)
	}
	taskless := h.start(first, "taskless")
	first.Close()
	if err := os.Mkdir(filepath.Join(h.dir, "state/tasks/ns/nothing"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(h.dir, "state/tasks/ns/.removed/x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(h.dir, "root/tasks/ns/before-reboot/x"), 0o700); err != nil {
		t.Fatal(err)
	}
	// One that answers nothing, and one whose files lead nowhere although it lives.
	hung := newHouse(t, modeHung)
	hungDir := filepath.Join(h.dir, "state/tasks/ns/hung")
	startHung(t, hung, hungDir)

	h.config.LoadTimeout = 500 * time.Millisecond
	second := h.manager()
	began := time.Now()
	found, err := second.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 10*h.config.LoadTimeout {
		t.Errorf("took %v", took)
	}
	got := make(map[string]string)
	for _, l := range found {
		if l.Namespace != "ns" {
			t.Errorf("%s is in namespace %s", l.ID, l.Namespace)
		}
		switch {
		case l.Shim != nil && l.Exit == nil && l.Err == nil:
			got[l.ID] = "shim"
			if l.Shim.PID() != pids[l.ID] {
				t.Errorf("%s: pid %d, want %d", l.ID, l.Shim.PID(), pids[l.ID])
			}
		case l.Exit != nil && l.Shim == nil && l.Err == nil:
			got[l.ID] = "exit"
			if l.ID != "nothing" && (l.Exit.Status != 7 || l.Exit.PID != 4242) {
				t.Errorf("%s: %+v", l.ID, l.Exit)
			}
		case l.Err != nil && l.Shim == nil && l.Exit == nil:
			got[l.ID] = "error"
			t.Logf("%s: %v", l.ID, l.Err)
		}
	}
	want := map[string]string{
		"healthy": "shim", "torn": "shim", "empty": "shim", "missing": "shim", "no-address": "shim", "torn-config": "shim",
		"dead": "exit", "dead-and-torn": "exit", "dead-stuck": "error", "dead-no-clue": "error",
		"taskless": "exit", "nothing": "exit", "hung": "error",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	testkit.Await(t, 5*time.Second, "the end of the shim without a task", func() bool { return ended(taskless.PID()) })
	for _, gone := range []string{"state/tasks/ns/.removed", "root/tasks/ns/before-reboot", "state/tasks/ns/nothing", "state/tasks/ns/dead", "root/tasks/ns/dead"} {
		if _, err := os.Lstat(filepath.Join(h.dir, gone)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", gone, err)
		}
	}
	if again, err := second.Load(t.Context()); len(again) != 3 || err != nil { // what could not be found out
		t.Errorf("again: %+v, %v", again, err)
	}
	for _, l := range found {
		if l.Shim != nil {
			if exit, err := second.Delete(t.Context(), l.Shim); exit.Status != 3 || err != nil {
				t.Errorf("delete %s: %+v, %v", l.ID, exit, err)
			}
		}
	}
}

// startHung puts a bundle at dir whose shim takes connections and is silent.
func startHung(t *testing.T, h *house, dir string) {
	t.Helper()
	path := filepath.Join(h.dir, "hung.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{
		"bootstrap.json":   `{"version":3,"address":"unix://` + path + `","protocol":"ttrpc"}`,
		"shim-binary-path": self(t),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEvents(t *testing.T) {
	h := newHouse(t, modeGood)
	m := h.manager()
	forward := forwarder(t, filepath.Join(h.config.State, "events.sock"))

	at := time.Unix(1e9, 123).UTC()
	exit := &events.TaskExit{ContainerID: "c1", ID: "c1", Pid: 1, ExitStatus: 7, ExitedAt: timestamppb.New(at)}
	packed, err := typeurl.MarshalAnyToProto(exit)
	if err != nil {
		t.Fatal(err)
	}
	unknown := &anypb.Any{TypeUrl: "some.body.Elses", Value: []byte{1}}
	for _, test := range []struct {
		payload *anypb.Any
		want    any
	}{
		{packed, exit},
		{unknown, unknown},
	} {
		answered := make(chan error, 1)
		go func() {
			answered <- forward(t.Context(), &types.Envelope{Timestamp: timestamppb.New(at), Namespace: "ns", Topic: "/tasks/exit", Event: test.payload})
		}()
		// Nobody has taken the event: no answer. A later event finds the connection open.
		select {
		case err := <-answered:
			t.Errorf("answered before anybody took it: %v", err)
		case e := <-m.Events():
			want := manager.Event{Time: at, Namespace: "ns", Topic: "/tasks/exit", Message: test.want}
			if diff := cmp.Diff(want, e, protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
		}
		if err := <-answered; err != nil {
			t.Error(err)
		}
	}

	if err := forward(t.Context(), nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no envelope: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := forward(ctx, &types.Envelope{Event: packed}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody takes it: %v", err)
	}

	refused := make(chan error, 1)
	go func() { refused <- forward(t.Context(), &types.Envelope{Event: packed}) }()
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if err := <-refused; err == nil {
		t.Error("Close made an event delivered")
	}
	for e := range m.Events() {
		t.Errorf("after Close: %+v", e)
	}
}

func forwarder(t *testing.T, path string) func(context.Context, *types.Envelope) error {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	t.Cleanup(func() { client.Close() })
	return func(ctx context.Context, e *types.Envelope) error {
		_, err := eventsapi.NewTTRPCEventsClient(client).Forward(ctx, &eventsapi.ForwardRequest{Envelope: e})
		if errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		return errgrpc.ToNative(err)
	}
}

func TestShimsLogIsForwarded(t *testing.T) {
	h := newHouse(t, modeGood)
	var log logged
	h.config.Log = slog.New(slog.NewTextHandler(&log, nil))
	m := h.manager()
	s := h.startTask(m, "c1")
	testkit.Await(t, 5*time.Second, "the shim's line", func() bool { return strings.Contains(log.String(), "c1 serves") })
	for _, want := range []string{"level=WARN", "namespace=ns", "id=c1"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%s is missing in %s", want, log.String())
		}
	}
	if _, err := m.Delete(t.Context(), s); err != nil {
		t.Error(err)
	}
}

type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestPack(t *testing.T) {
	got, err := manager.Pack(&specs.Process{Args: []string{"sh"}, Cwd: "/"})
	want := &anypb.Any{
		TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process",
		Value:   []byte(`{"user":{"uid":0,"gid":0},"args":["sh"],"cwd":"/"}`),
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	if got, err := manager.Pack(&specs.LinuxResources{}); got.GetTypeUrl() != "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources" || err != nil {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := manager.Pack("sh"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v", err)
	}
}
