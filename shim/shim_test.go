package shim_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	events "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/shimwright/shimwright/internal/bootstrap"
	"github.com/shimwright/shimwright/internal/bundle"
	"github.com/shimwright/shimwright/internal/socket"
	"github.com/shimwright/shimwright/internal/testkit"
	"github.com/shimwright/shimwright/shim"
	"github.com/shimwright/shimwright/task"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// The test binary is the shim when it is asked to be: what is tested is what an author gets.
const asShim = "SHIM_TEST_AS_SHIM"

func TestMain(m *testing.M) {
	if os.Getenv(asShim) != "" {
		shim.Run("io.example.host.v1", newHost, shim.WithVersion("v1.2.3", "abcdef"), shim.WithInterceptor(refuseLevitation),
			shim.WithStartHooks(before, nil), shim.WithStartHooks(nil, after))
	}
	os.Exit(m.Run())
}

// host runs config.json's args as plain processes of the host.
type host struct{}

// before and after are start hooks of the author's own.
func before(_ context.Context, s *shim.Start) error {
	switch os.Getenv("SHIM_TEST_HOOK") {
	case "umask":
		unix.Umask(0o127)
	case "fails before":
		return fmt.Errorf("the stars are not aligned: %w", errdefs.ErrAlreadyExists)
	}
	return nil
}

func after(_ context.Context, s *shim.Start) error {
	switch os.Getenv("SHIM_TEST_HOOK") {
	case "umask":
		s.Log.Info("started", "pid", s.PID)
		facts := fmt.Sprintln(s.Name, s.ID, s.Namespace, s.Bundle, s.Address, s.Events, s.Options.GetTypeUrl(), s.PID)
		return os.WriteFile("facts", []byte(facts), 0o600)
	case "fails after":
		return fmt.Errorf("the stars have moved: %w", errdefs.ErrAlreadyExists)
	}
	return nil
}

func newHost(_ context.Context, env *shim.Env) (task.Runtime, error) {
	if os.Getenv("SHIM_TEST_FAIL_INIT") != "" && env.Serving {
		return nil, errors.New("the moon is in the wrong phase")
	}
	if os.Getenv("SHIM_TEST_EXIT_IN_INIT") != "" && env.Serving {
		os.Exit(3)
	}
	if os.Getenv("SHIM_TEST_CHILD") != "" && env.Serving {
		vmm := exec.Command("/bin/sleep", "9")
		vmm.Stderr = os.Stderr
		if err := vmm.Start(); err != nil {
			return nil, err
		}
	}
	return host{}, nil
}

// RegisterTTRPC adds a service of the author's own.
func (host) RegisterTTRPC(s *ttrpc.Server) error {
	s.RegisterService("io.example.Extra", &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"Echo": func(_ context.Context, unmarshal func(any) error) (any, error) {
			in := new(wrapperspb.StringValue)
			if err := unmarshal(in); err != nil {
				return nil, err
			}
			return wrapperspb.String("echo " + in.Value), nil
		},
	}})
	return nil
}

// refuseLevitation is an interceptor of the author's own.
func refuseLevitation(ctx context.Context, u ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
	resp, err := method(ctx, u)
	if v, ok := resp.(*wrapperspb.StringValue); ok && v.Value == "echo levitate" {
		return nil, fmt.Errorf("%s: gravity: %w", info.FullMethod, errdefs.ErrPermissionDenied)
	}
	return resp, err
}

func (host) Create(_ context.Context, r *task.CreateRequest) (task.Task, error) {
	if r.Spec == nil {
		return nil, fmt.Errorf("no config.json: %w", errdefs.ErrInvalidArgument)
	}
	cmd := exec.Command(r.Spec.Process.Args[0], r.Spec.Process.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = r.IO.Stdin, r.IO.Stdout, r.IO.Stderr
	return &process{cmd: cmd}, nil
}

type process struct {
	cmd *exec.Cmd
	mu  sync.Mutex
	pid int
}

func (p *process) PID() int { p.mu.Lock(); defer p.mu.Unlock(); return p.pid }
func (p *process) Start(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.cmd.Start(); err != nil {
		return err
	}
	p.pid = p.cmd.Process.Pid
	return nil
}

func (p *process) Kill(_ context.Context, s syscall.Signal, _ bool) error {
	return p.cmd.Process.Signal(s)
}

func (p *process) Wait() task.Exit              { _ = p.cmd.Wait(); return task.ExitOf(p.cmd.ProcessState) }
func (p *process) Delete(context.Context) error { return nil }

// site is a daemon's side: a bundle, a socket directory, and an event service.
type site struct {
	t          *testing.T
	id, bundle string
	sockets    string
	daemon     string // the ttrpc address
	binary     string // empty: this test's own
	extensions []*anypb.Any

	mu     sync.Mutex
	events []string
}

func newSite(t *testing.T, id string, annotations map[string]string, args ...string) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "shim") // short: socket paths are
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &site{t: t, id: id, sockets: dir + "/s", daemon: dir + "/d"}
	s.bundle = s.newBundle(dir+"/"+id, annotations, args...)
	srv, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	events.RegisterTTRPCEventsService(srv, s)
	l, err := net.Listen("unix", s.daemon)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = srv.Serve(context.Background(), l) }() // ends with Close
	t.Cleanup(func() { srv.Close() })
	return s
}

func (s *site) newBundle(dir string, annotations map[string]string, args ...string) string {
	s.t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		s.t.Fatal(err)
	}
	spec, err := json.Marshal(specs.Spec{Version: specs.Version, Process: &specs.Process{Args: args, Cwd: "/"}, Annotations: annotations})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, bundle.ConfigFile), spec, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return dir
}

func (s *site) Forward(_ context.Context, r *events.ForwardRequest) (*emptypb.Empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, strings.TrimPrefix(r.Envelope.Topic, "/tasks/"))
	return &emptypb.Empty{}, nil
}

func (s *site) told() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events)
}

// command is the binary called for container id in bundle dir, as a daemon calls it.
func (s *site) command(id, dir, action string, flags ...string) *exec.Cmd {
	binary, err := s.binary, error(nil)
	if binary == "" {
		binary, err = os.Executable()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(binary, append(append([]string{"-namespace", "test", "-address", "/run/daemon.sock", "-publish-binary", "/bin/true", "-id", id}, flags...), action)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), asShim+"=1", "TTRPC_ADDRESS="+s.daemon, "GRPC_ADDRESS=/run/daemon.sock", "NAMESPACE=test", "MAX_SHIM_VERSION=2", "GORACE=atexit_sleep_ms=0")
	return cmd
}

// params are what a daemon of 2.3 or later writes to stdin.
func (s *site) params(id string) []byte {
	p := bootstrap.Params{Dialect: bootstrap.Protobuf, ID: id, Namespace: "test", SocketDir: s.sockets, GRPCAddress: "/run/daemon.sock", TTRPCAddress: s.daemon}
	p.Extensions = s.extensions
	b, err := p.Encode()
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

// start starts a shim as 2.3 does and returns its address.
func (s *site) start(id, dir string, env ...string) (string, error) {
	cmd := s.command(id, dir, "start")
	cmd.Stdin = bytes.NewReader(s.params(id))
	cmd.Env = append(cmd.Env, env...)
	return reply(cmd)
}

// up starts a shim for the site's own container, and connects to it.
func (s *site) up() *client {
	s.t.Helper()
	address, err := s.start(s.id, s.bundle)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.connect(address)
}

// reply runs start. Like daemons of 2.x do, it takes stdout and stderr together.
func reply(cmd *exec.Cmd) (string, error) {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	r, err := bootstrap.ParseReply(out)
	if err != nil {
		return "", err
	}
	return r.Address, nil
}

// client is a connected shim.
type client struct {
	*ttrpc.Client
	t       *testing.T
	address string
	pid     int
}

func (s *site) connect(address string) *client {
	s.t.Helper()
	conn, err := net.Dial("unix", strings.TrimPrefix(address, "unix://"))
	if err != nil {
		s.t.Fatal(err)
	}
	c := &client{ttrpc.NewClient(conn), s.t, address, 0}
	s.t.Cleanup(func() { c.Close() })
	resp := new(taskapi.ConnectResponse)
	if err := c.call("Connect", &taskapi.ConnectRequest{ID: s.id}, resp); err != nil {
		s.t.Fatal(err)
	}
	c.pid = int(resp.ShimPid)
	s.t.Cleanup(func() { _ = syscall.Kill(c.pid, syscall.SIGKILL) })
	return c
}

func (c *client) call(method string, req, resp any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return errgrpc.ToNative(c.Call(ctx, "containerd.task.v2.Task", method, req, resp))
}

func (c *client) must(method string, req any) {
	c.t.Helper()
	if err := c.call(method, req, &emptypb.Empty{}); err != nil {
		c.t.Fatalf("%s: %v", method, err)
	}
}

// gone waits until the shim has ended and removed its socket.
func (c *client) gone() {
	c.t.Helper()
	eventually(c.t, "the shim's end", func() bool {
		_, err := os.Stat(strings.TrimPrefix(c.address, "unix://"))
		return errors.Is(err, fs.ErrNotExist) && !running(c.pid)
	})
}

// running tells whether pid is there and is no zombie.
func running(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.Contains(stat, []byte(") Z "))
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not come", what)
		}
	}
}

// One binary serves all daemons; each gets an answer that it understands, and nothing else.
func TestThreeDialects(t *testing.T) {
	if os.Geteuid() != 0 {
		testkit.Missing(t, "the older dialects put sockets into %s: needs root", socket.DefaultDir)
	}
	for _, d := range []bootstrap.Dialect{bootstrap.Bare, bootstrap.JSON, bootstrap.Protobuf} {
		t.Run(fmt.Sprint(d), func(t *testing.T) {
			s := newSite(t, "dialect", nil, "/bin/sh", "-c", "echo $1; exit 7", "sh", "x")
			cmd := s.command(s.id, s.bundle, "start")
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			switch d {
			case bootstrap.Bare:
				cmd.Env = slices.DeleteFunc(cmd.Env, func(e string) bool { return strings.HasPrefix(e, "MAX_SHIM_VERSION") })
			case bootstrap.Protobuf:
				cmd.Stdin = bytes.NewReader(s.params(s.id))
			}
			out, err := cmd.Output()
			if err != nil || stderr.Len() > 0 {
				t.Fatalf("start: %v, stderr %q", err, stderr.String())
			}
			switch d {
			case bootstrap.Bare:
				if !bytes.HasPrefix(out, []byte("unix:///run/containerd/s/")) {
					t.Errorf("reply %q", out)
				}
			case bootstrap.JSON:
				var r struct {
					Version           int
					Address, Protocol string
				}
				if err := json.Unmarshal(out, &r); err != nil || r.Version != 2 || r.Protocol != "ttrpc" {
					t.Errorf("reply %q: %v", out, err)
				}
			}
			r, err := bootstrap.ParseReply(out)
			if err != nil {
				t.Fatal(err)
			}
			if noted, err := bundle.ReadAddress(s.bundle); err != nil || noted != r.Address {
				t.Errorf("noted address %q, %v; answered %q", noted, err, r.Address)
			}
			c := s.connect(r.Address)
			c.must("Create", &taskapi.CreateTaskRequest{ID: s.id, Bundle: s.bundle})
			c.must("Start", &taskapi.StartRequest{ID: s.id})
			wait := new(taskapi.WaitResponse)
			if err := c.call("Wait", &taskapi.WaitRequest{ID: s.id}, wait); err != nil || wait.ExitStatus != 7 {
				t.Errorf("wait: %v, %v", wait, err)
			}
			c.must("Delete", &taskapi.DeleteRequest{ID: s.id})
			c.must("Shutdown", &taskapi.ShutdownRequest{ID: s.id})
			c.gone()
			if got := s.told(); !slices.Equal(got, []string{"create", "start", "exit", "delete"}) {
				t.Errorf("events %v", got)
			}
		})
	}
}

func TestSocketIsPrivate(t *testing.T) {
	s := newSite(t, "modes", nil, "/bin/true")
	c := s.up()
	for path, want := range map[string]fs.FileMode{strings.TrimPrefix(c.address, "unix://"): fs.ModeSocket | 0o600, s.sockets: fs.ModeDir | 0o700} {
		if st, err := os.Stat(path); err != nil || st.Mode() != want {
			t.Errorf("%s: %v, %v; want %v", path, st.Mode(), err, want)
		}
	}
	if pgid, err := unix.Getpgid(c.pid); err != nil || pgid != c.pid {
		t.Errorf("process group %d of process %d: %v", pgid, c.pid, err)
	}
	own, _ := os.ReadFile("/proc/self/oom_score_adj")
	its, _ := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", c.pid))
	a, _ := strconv.Atoi(strings.TrimSpace(string(own)))
	b, _ := strconv.Atoi(strings.TrimSpace(string(its)))
	if b != min(a+1, 1000) {
		t.Errorf("OOM score %d, its daemon's is %d", b, a)
	}
	c.must("Shutdown", &taskapi.ShutdownRequest{})
	c.gone()
}

// An author's services share the listener, and their interceptors see every method; errors keep their class.
func TestAuthorsServiceAndInterceptor(t *testing.T) {
	s := newSite(t, "extra", nil, "/bin/true")
	c := s.up()
	out := new(wrapperspb.StringValue)
	if err := c.Call(t.Context(), "io.example.Extra", "Echo", wrapperspb.String("hi"), out); err != nil || out.Value != "echo hi" {
		t.Errorf("echo: %v, %v", out, err)
	}
	err := c.Call(t.Context(), "io.example.Extra", "Echo", wrapperspb.String("levitate"), out)
	if !errors.Is(errgrpc.ToNative(err), errdefs.ErrPermissionDenied) {
		t.Errorf("levitate: %v", err)
	}
	c.must("Shutdown", &taskapi.ShutdownRequest{})
	c.gone()
}

// What the container starts with: three descriptors and nothing of the shim's.
func TestNoDescriptorReachesTheContainer(t *testing.T) {
	s := newSite(t, "fds", nil, "/bin/sh", "-c", "ls /proc/$$/fd")
	out := filepath.Join(s.bundle, "out")
	c := s.up()
	c.must("Create", &taskapi.CreateTaskRequest{ID: s.id, Bundle: s.bundle, Stdout: "file://" + out})
	c.must("Start", &taskapi.StartRequest{ID: s.id})
	c.must("Wait", &taskapi.WaitRequest{ID: s.id})
	if got, _ := os.ReadFile(out); string(got) != "0\n1\n2\n" {
		t.Errorf("descriptors %q", got)
	}
	c.must("Delete", &taskapi.DeleteRequest{ID: s.id})
	c.must("Shutdown", &taskapi.ShutdownRequest{})
	c.gone()
}

// A runtime that cannot be made: start says why, and leaves nothing.
func TestStartFailsClean(t *testing.T) {
	s := newSite(t, "fails", nil, "/bin/true")
	_, err := s.start(s.id, s.bundle, "SHIM_TEST_FAIL_INIT=1")
	if err == nil || !strings.Contains(err.Error(), "the moon is in the wrong phase") {
		t.Errorf("start: %v", err)
	}
	if left, _ := os.ReadDir(s.sockets); len(left) > 0 {
		t.Errorf("left in %s: %v", s.sockets, left)
	}
	if _, err := s.start(s.id, s.bundle); err != nil {
		t.Errorf("start after a failed one: %v", err)
	} else {
		addr, _ := bundle.ReadAddress(s.bundle)
		c := s.connect(addr)
		c.must("Shutdown", &taskapi.ShutdownRequest{})
		c.gone()
	}
}

// Hooks know who is started, and the serving process inherits what was done before it.
func TestStartHooks(t *testing.T) {
	s := newSite(t, "hooks", map[string]string{"io.containerd.runc.v2.group": "g"}, "/bin/true")
	options, err := anypb.New(new(runcoptions.Options))
	if err != nil {
		t.Fatal(err)
	}
	s.extensions = []*anypb.Any{options}
	address, err := s.start(s.id, s.bundle, "SHIM_TEST_HOOK=umask")
	if err != nil {
		t.Fatal(err)
	}
	c := s.connect(address)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.pid))
	if err != nil || !strings.Contains(string(status), "\nUmask:\t0127\n") {
		t.Errorf("the serving process did not inherit the umask: %v", err)
	}
	want := fmt.Sprintln("io.example.host.v1", s.id, "test", s.bundle, "/run/daemon.sock", s.daemon, options.TypeUrl, c.pid)
	if got, err := os.ReadFile(filepath.Join(s.bundle, "facts")); err != nil || string(got) != want {
		t.Errorf("facts %q, %v, want %q", got, err, want)
	}
	// Another container of the group has nothing made for it.
	second := s.newBundle(filepath.Dir(s.bundle)+"/second", map[string]string{"io.containerd.runc.v2.group": "g"}, "/bin/true")
	if again, err := s.start("second", second, "SHIM_TEST_HOOK=fails before"); err != nil || again != address {
		t.Errorf("the second of the group: %q, %v", again, err)
	}
	c.must("Shutdown", &taskapi.ShutdownRequest{})
	c.gone()
}

func TestFailingStartHooksLeaveNothing(t *testing.T) {
	testkit.NoLeaks(t)
	for hook, says := range map[string]string{"fails before": "the stars are not aligned", "fails after": "the stars have moved"} {
		s := newSite(t, "hooks", nil, "/bin/true")
		if _, err := s.start(s.id, s.bundle, "SHIM_TEST_HOOK="+hook); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", hook, err)
		}
		if left, _ := os.ReadDir(s.sockets); len(left) > 0 {
			t.Errorf("%s left %v", hook, left)
		}
	}
}

// A cookie of its own for the shim's group where the kernel has core scheduling; elsewhere it is asked for in vain, and
// the start says so and leaves nothing.
func TestCoreScheduling(t *testing.T) {
	testkit.NoLeaks(t)
	cookie := func(pid int) (c uint64, err error) {
		err = unix.Prctl(unix.PR_SCHED_CORE, unix.PR_SCHED_CORE_GET, uintptr(pid), unix.PR_SCHED_CORE_SCOPE_THREAD, uintptr(unsafe.Pointer(&c)))
		return c, err
	}
	_, kernel := cookie(0)
	s := newSite(t, "cores", nil, "/bin/true")
	address, err := s.start(s.id, s.bundle, "SCHED_CORE=1")
	if kernel != nil {
		if err == nil || !strings.Contains(err.Error(), "core scheduling: the kernel or the processor has none; unset SCHED_CORE: prctl: "+kernel.Error()) {
			t.Errorf("start on a kernel that says %v: %v", kernel, err)
		}
		if left, _ := os.ReadDir(s.sockets); len(left) > 0 {
			t.Errorf("left %v", left)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	c := s.connect(address)
	if own, err := cookie(0); err != nil || own != 0 {
		t.Errorf("the daemon's cookie %#x, %v", own, err)
	}
	if its, err := cookie(c.pid); err != nil || its == 0 {
		t.Errorf("the shim's cookie %#x, %v", its, err)
	}
	c.must("Shutdown", &taskapi.ShutdownRequest{})
	c.gone()
}

// Whatever goes wrong after the serving process was started: it is gone, and so is its socket.
func TestStartThatCannotAnswerLeavesNothing(t *testing.T) {
	nothing := func(t *testing.T, s *site) {
		t.Helper()
		eventually(t, "the socket's end", func() bool { left, _ := os.ReadDir(s.sockets); return len(left) == 0 })
		if out, err := s.command(s.id, s.bundle, "delete").CombinedOutput(); err != nil {
			t.Errorf("delete: %v: %s", err, out)
		}
	}
	t.Run("bundle cannot be written", func(t *testing.T) {
		s := newSite(t, "mute", nil, "/bin/true")
		if err := os.Mkdir(filepath.Join(s.bundle, bundle.AddressFile), 0o700); err != nil {
			t.Fatal(err)
		}
		if address, err := s.start(s.id, s.bundle); err == nil {
			t.Errorf("start: %s", address)
		}
		if err := os.Remove(filepath.Join(s.bundle, bundle.AddressFile)); err != nil {
			t.Fatal(err)
		}
		nothing(t, s)
	})
	t.Run("nobody reads the answer", func(t *testing.T) {
		s := newSite(t, "unheard", nil, "/bin/true")
		cmd := s.command(s.id, s.bundle, "start")
		cmd.Stdin = bytes.NewReader(s.params(s.id))
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		cmd.Stdout = w
		if err := cmd.Run(); err == nil || cmd.ProcessState.ExitCode() != 1 {
			t.Errorf("start: %v", err)
		}
		w.Close()
		nothing(t, s)
	})
	t.Run("runtime that ends the process", func(t *testing.T) {
		s := newSite(t, "suicide", nil, "/bin/true")
		if address, err := s.start(s.id, s.bundle, "SHIM_TEST_EXIT_IN_INIT=1"); err == nil {
			t.Errorf("start: %s", address)
		}
		nothing(t, s)
	})
	t.Run("start is killed", func(t *testing.T) {
		s := newSite(t, "halfway", nil, "/bin/true")
		for i := range 20 {
			cmd := s.command(s.id, s.bundle, "start")
			cmd.Stdin = bytes.NewReader(s.params(s.id))
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(i) * 10 * time.Millisecond) // any moment will do
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			eventually(t, "the shim's end", func() bool {
				if out, err := s.command(s.id, s.bundle, "delete").CombinedOutput(); err != nil {
					t.Fatalf("delete: %v: %s", err, out)
				}
				left, _ := os.ReadDir(s.sockets)
				return len(left) == 0
			})
		}
	})
}

// A process that the runtime starts for itself may keep the shim's stderr: start does not wait for it.
func TestRuntimesChildKeepsStderr(t *testing.T) {
	s := newSite(t, "vmm", nil, "/bin/true")
	begin := time.Now()
	address, err := s.start(s.id, s.bundle, "SHIM_TEST_CHILD=1")
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 8*time.Second { // it would wait for 10
		t.Errorf("start took %v", took)
	}
	c := s.connect(address)
	c.must("Shutdown", &taskapi.ShutdownRequest{})
	c.gone()
}

// Any number of starts of one group at once end with one shim, also when the first of them fails.
func TestOneShimForAGroup(t *testing.T) {
	for _, annotation := range []string{"io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"} {
		t.Run(annotation, func(t *testing.T) {
			s := newSite(t, "pod", nil, "/bin/true")
			const n = 12
			addresses := make([]string, n)
			var wg sync.WaitGroup
			for i := range n {
				id := fmt.Sprintf("member%d", i)
				dir := s.newBundle(filepath.Join(filepath.Dir(s.bundle), id), map[string]string{annotation: "pod"}, "/bin/true")
				var env []string
				if i%4 == 0 {
					env = []string{"SHIM_TEST_FAIL_INIT=1"}
				}
				wg.Go(func() {
					a, err := s.start(id, dir, env...)
					if err != nil && env == nil {
						t.Errorf("%s: %v", id, err)
					}
					addresses[i] = a
				})
			}
			wg.Wait()
			pids := map[int]bool{}
			var c *client
			for i, a := range addresses {
				if a == "" {
					continue
				}
				c = s.connect(a)
				pids[c.pid] = true
				if i%4 != 0 && a != addresses[1] {
					t.Errorf("addresses differ: %s and %s", a, addresses[1])
				}
			}
			if len(pids) != 1 {
				t.Errorf("%d shims for one group", len(pids))
			}
			c.must("Shutdown", &taskapi.ShutdownRequest{})
			c.gone()
			if left, _ := os.ReadDir(s.sockets); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// A shim that was killed leaves a socket; the next start replaces it, and delete removes it and tells the noted exit.
func TestAfterSIGKILL(t *testing.T) {
	s := newSite(t, "killed", nil, "/bin/sh", "-c", "exit 7")
	c := s.up()
	c.must("Create", &taskapi.CreateTaskRequest{ID: s.id, Bundle: s.bundle})
	c.must("Start", &taskapi.StartRequest{ID: s.id})
	wait := new(taskapi.WaitResponse)
	if err := c.call("Wait", &taskapi.WaitRequest{ID: s.id}, wait); err != nil {
		t.Fatal(err)
	}
	kill := func(pid int) {
		t.Helper()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "its end", func() bool { return !running(pid) })
	}
	kill(c.pid)
	kill(s.up().pid) // over the stale socket

	for range 2 { // repeated: the same
		out, err := s.command(s.id, s.bundle, "delete", "-bundle", s.bundle).Output()
		if err != nil {
			t.Fatal(err)
		}
		resp := new(taskapi.DeleteResponse)
		if err := proto.Unmarshal(out, resp); err != nil {
			t.Fatal(err)
		}
		if resp.ExitStatus != 7 || !resp.ExitedAt.AsTime().Equal(wait.ExitedAt.AsTime()) {
			t.Errorf("delete: %v, wait said %v", resp, wait)
		}
		if left, _ := os.ReadDir(s.sockets); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
}

// delete of what never was, with nothing or garbage in the bundle: 137, now.
func TestDeleteOfNothing(t *testing.T) {
	s := newSite(t, "nothing", nil)
	for _, garbage := range []string{"", "{", "\x00\xff"} {
		for _, name := range []string{bundle.ConfigFile, bundle.ExitFile, bundle.AddressFile, bundle.InitPIDFile} {
			if err := os.WriteFile(filepath.Join(s.bundle, name), []byte(garbage), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		out, err := s.command(s.id, s.bundle, "delete").Output()
		resp := new(taskapi.DeleteResponse)
		if err := errors.Join(err, proto.Unmarshal(out, resp)); err != nil || resp.ExitStatus != 137 || resp.ExitedAt.AsTime().Before(time.Now().Add(-time.Minute)) {
			t.Errorf("delete with %q: %v, %v", garbage, resp, err)
		}
	}
}

func TestSIGTERMDoesNotDropTasks(t *testing.T) {
	s := newSite(t, "term", nil, "/bin/sleep", "60")
	c := s.up()
	c.must("Create", &taskapi.CreateTaskRequest{ID: s.id, Bundle: s.bundle})
	c.must("Start", &taskapi.StartRequest{ID: s.id})
	for range 3 {
		if err := syscall.Kill(c.pid, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		c.must("State", &taskapi.StateRequest{ID: s.id})
	}
	c.must("Kill", &taskapi.KillRequest{ID: s.id, Signal: 9})
	c.must("Wait", &taskapi.WaitRequest{ID: s.id})
	c.must("Delete", &taskapi.DeleteRequest{ID: s.id})
	if err := syscall.Kill(c.pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	c.gone()
}

// SIGUSR1 writes every stack to the log; a log that nobody reads fills up and holds up nothing.
func TestLogNeverBlocks(t *testing.T) {
	s := newSite(t, "log", nil, "/bin/true")
	fifo := filepath.Join(s.bundle, bundle.LogFile)
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(fifo, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	cmd := s.command(s.id, s.bundle, "start", "-debug")
	cmd.Stdin = bytes.NewReader(s.params(s.id))
	address, err := reply(cmd)
	if err != nil {
		t.Fatal(err)
	}
	c := s.connect(address)
	for range 300 { // far more than a pipe holds
		if err := syscall.Kill(c.pid, syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		c.must("Connect", &taskapi.ConnectRequest{ID: s.id})
	}
	var log []byte
	buf := make([]byte, 64<<10)
	if err := reader.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for !bytes.Contains(log, []byte("goroutine ")) {
		n, err := reader.Read(buf)
		if err != nil {
			t.Fatalf("the log has no stacks: %v", err)
		}
		log = append(log, buf[:n]...)
	}
	if !bytes.Contains(log, []byte("msg=serving")) {
		t.Errorf("the log begins with %.200q", log)
	}
	c.must("Shutdown", &taskapi.ShutdownRequest{})
	c.gone()
	if left, _ := os.ReadDir(s.sockets); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// Without config.json, or with one that has no process, start works: sandbox shims have none.
func TestStartWithoutSpec(t *testing.T) {
	for name, config := range map[string]string{"missing": "", "empty": "{}", "torn": "{"} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, "bare", nil)
			path := filepath.Join(s.bundle, bundle.ConfigFile)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if config != "" {
				if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			c := s.up()
			err := c.call("Create", &taskapi.CreateTaskRequest{ID: s.id, Bundle: s.bundle}, &emptypb.Empty{})
			if name != "empty" && !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Errorf("create: %v", err)
			}
			if name == "empty" && !errors.Is(err, errdefs.ErrInternal) { // this test's runtime panics: it survives that
				t.Errorf("create: %v", err)
			}
			c.must("Shutdown", &taskapi.ShutdownRequest{})
			c.gone()
		})
	}
}

func TestCommandLine(t *testing.T) {
	s := newSite(t, "cmd", nil)
	for _, c := range []struct {
		name   string
		args   []string
		stdin  string
		code   int
		stdout string
		stderr string
	}{
		{"by hand", nil, "", 1, "", "runs containers for containerd"},
		{"version", []string{"-v"}, "", 0, "Version:  v1.2.3", ""},
		{"long version", []string{"-version"}, "", 0, "Revision: abcdef", ""},
		{"help", []string{"-h"}, "", 0, "-namespace", ""},
		{"no namespace", []string{"-id", "x", "start"}, "", 1, "", "-namespace is required"},
		{"bad id", []string{"-namespace", "n", "-id", "../x", "start"}, "", 1, "", "-id"},
		{"no id", []string{"-namespace", "n", "delete"}, "", 1, "", "-id"},
		{"unknown flag", []string{"-fly", "start"}, "", 1, "", "-fly"},
		{"unknown action", []string{"-namespace", "n", "-id", "x", "fly"}, "", 1, "", "fly"},
		{"garbage on stdin", []string{"-namespace", "n", "-id", "x", "start"}, "\xff\xff\xff", 1, "", "stdin"},
		{"garbage for info", []string{"-info"}, "\xff\xff\xff", 1, "", "stdin"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := s.command("", s.bundle, "")
			cmd.Args = append(cmd.Args[:1], c.args...)
			cmd.Stdin = strings.NewReader(c.stdin)
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			_ = cmd.Run()
			if cmd.ProcessState.ExitCode() != c.code || !strings.Contains(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) {
				t.Errorf("exit code %d, stdout %q, stderr %q", cmd.ProcessState.ExitCode(), stdout.String(), stderr.String())
			}
			if c.name == "by hand" && strings.Count(stderr.String(), "\n") != 2 {
				t.Errorf("want two lines: %q", stderr.String())
			}
			if c.stderr == "" && stderr.Len() > 0 || c.stdout == "" && stdout.Len() > 0 {
				t.Errorf("too much said: stdout %q, stderr %q", stdout.String(), stderr.String())
			}
		})
	}
}

func TestInfo(t *testing.T) {
	s := newSite(t, "info", nil)
	cmd := s.command("", s.bundle, "")
	cmd.Args = append(cmd.Args[:1], "-info")
	out, err := cmd.Output()
	info := new(types.RuntimeInfo)
	if err := errors.Join(err, proto.Unmarshal(out, info)); err != nil || info.Name != "io.example.host.v1" || info.Version.Version != "v1.2.3" {
		t.Errorf("info: %v, %v", info, err)
	}
}

// The shim's end does not wait for a daemon that is away longer than it has to.
func TestShutdownWithoutDaemon(t *testing.T) {
	s := newSite(t, "away", nil, "/bin/true")
	s.daemon = "/nowhere/at/all"
	c := s.up()
	c.must("Create", &taskapi.CreateTaskRequest{ID: s.id, Bundle: s.bundle})
	c.must("Delete", &taskapi.DeleteRequest{ID: s.id})
	c.must("Shutdown", &taskapi.ShutdownRequest{})
	c.gone()
}
