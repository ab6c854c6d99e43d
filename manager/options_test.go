package manager_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/shimwright/shimwright/internal/testkit"
	"github.com/shimwright/shimwright/manager"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// createWith creates a container with options, and whatever else r asks for.
func (h *host) createWith(id string, spec *specs.Spec, o proto.Message, r *taskapi.CreateTaskRequest) (*container, error) {
	h.t.Helper()
	s, err := h.Start(h.t.Context(), manager.StartRequest{ID: id, Namespace: "test", Runtime: h.runtime, Spec: spec, Options: o})
	if err != nil {
		return nil, err
	}
	r.ID, r.Bundle = id, s.Bundle()
	if o != nil {
		if r.Options, err = typeurl.MarshalAnyToProto(o); err != nil {
			h.t.Fatal(err)
		}
	}
	if _, err := s.Task().Create(h.t.Context(), r); err != nil {
		_, deleteErr := h.Delete(h.t.Context(), s)
		return nil, errors.Join(err, deleteErr)
	}
	return &container{h, id, s}, nil
}

func (c *container) start() {
	c.h.t.Helper()
	if _, err := c.Task().Start(c.h.t.Context(), &taskapi.StartRequest{ID: c.id}); err != nil {
		c.h.t.Fatal(err)
	}
}

// logger is a logging binary that stores what it gets in files of its directory, by the container's and exec's id.
func logger(t *testing.T) (dir, path string) {
	t.Helper()
	dir = t.TempDir()
	path = filepath.Join(dir, "logger")
	script := fmt.Sprintf(`#!/bin/sh
cd %s
name=$CONTAINER_NAMESPACE.$CONTAINER_ID.$CONTAINER_EXEC_ID
echo $$ >$name.pid
cat <&3 5>&- >$name.out & cat <&4 5>&- >$name.err &
printf x >&5
exec 5>&-
wait
`, dir)
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir, path
}

func stored(t *testing.T, dir, name, want string) {
	t.Helper()
	if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || strings.ReplaceAll(string(got), "\r", "") != want {
		t.Errorf("%s has %q, %v, want %q", name, got, err, want)
	}
}

// When a Delete returns, the loggers of init, exec and terminal have everything and are gone. One whose shim is killed
// ends with the container.
func TestRuncLoggers(t *testing.T) {
	h := newHost(t, manager.Containerd23)
	dir, path := logger(t)
	uri := "binary-v2://" + path
	c, err := h.createWith("c1", h.spec("sh", "-c", "echo out; echo err >&2; exec sleep 1000"), nil, &taskapi.CreateTaskRequest{Stdout: uri, Stderr: uri})
	if err != nil {
		t.Fatal(err)
	}
	c.start()
	for _, id := range []string{"plain", "tty"} {
		tty := id == "tty"
		p := process("sh", "-c", "echo "+id)
		p.Terminal = tty
		packed, err := manager.Pack(p)
		if err != nil {
			t.Fatal(err)
		}
		r := &taskapi.ExecProcessRequest{ID: c.id, ExecID: id, Terminal: tty, Stdout: "binary://" + path, Spec: packed}
		if _, err := c.Task().Exec(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Task().Start(t.Context(), &taskapi.StartRequest{ID: c.id, ExecID: id}); err != nil {
			t.Fatal(err)
		}
		c.wait(id, 0)
		c.deleteExec(id, 0)
		stored(t, dir, "test.c1."+id+".out", id+"\n")
	}
	c.kill("", syscall.SIGKILL)
	c.wait("", 137)
	c.delete(137)
	stored(t, dir, "test.c1..out", "out\n")
	stored(t, dir, "test.c1..err", "err\n")

	killed, err := h.createWith("c2", h.spec("sh", "-c", "echo out; exec sleep 1000"), nil, &taskapi.CreateTaskRequest{Stdout: uri, Stderr: uri})
	if err != nil {
		t.Fatal(err)
	}
	killed.start()
	if err := unix.Kill(shimPID(t, killed), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	killed.delete(137)
	pid, err := os.ReadFile(filepath.Join(dir, "test.c2..pid"))
	if err != nil {
		t.Fatal(err)
	}
	testkit.Await(t, 10*time.Second, "the logger's end", func() bool {
		_, err := os.Stat("/proc/" + strings.TrimSpace(string(pid)))
		return err != nil
	})
	stored(t, dir, "test.c2..out", "out\n")

	// What fails after its logger was started takes it along.
	if _, err := h.createWith("c3", h.spec("nosuch"), nil, &taskapi.CreateTaskRequest{Stdout: uri, Stderr: uri}); err == nil {
		t.Error("nosuch was created")
	}
	h.happened("c1", "create", "start", "added plain", "started plain", "exit plain 0", "delete plain 0",
		"added tty", "started tty", "exit tty 0", "delete tty 0", "exit 137", "delete 137")
}

func shimPID(t *testing.T, c *container) int {
	t.Helper()
	r, err := c.Task().Connect(t.Context(), &taskapi.ConnectRequest{ID: c.id})
	if err != nil {
		t.Fatal(err)
	}
	return int(r.ShimPid)
}

// The options reach the container, in each of the forms that daemons pass.
func TestRuncOptions(t *testing.T) {
	const user = 100123
	for _, dialect := range []manager.Dialect{manager.Containerd23, manager.Containerd17} {
		h := newHost(t, dialect)
		state := filepath.Join(t.TempDir(), "state")
		for about, o := range map[string]proto.Message{
			"message": &runcoptions.Options{IoUid: user, IoGid: user, Root: state, NoNewKeyring: true, NoPivotRoot: true},
			"TOML":    &runtimeoptions.Options{ConfigBody: fmt.Appendf(nil, "IoUid = %d\nIoGid = %[1]d\nRoot = %q\nNoNewKeyring = true\nNoPivotRoot = true\n", user, state)},
		} {
			io := testkit.FIFOs(t)
			spec := h.spec("sh", "-c", "stat -L -c %u:%g /proc/self/fd/1; grep -c _ses.c1 /proc/keys >&2; true")
			spec.Linux.MaskedPaths = nil
			c, err := h.createWith("c1", spec, o, &taskapi.CreateTaskRequest{Stdout: io.Stdout, Stderr: io.Stderr})
			if err != nil {
				t.Fatalf("%s: %v", about, err)
			}
			if _, err := os.Stat(filepath.Join(state, "test", "c1", "state.json")); err != nil {
				t.Errorf("%s: root: %v", about, err)
			}
			var st unix.Stat_t
			if err := unix.Stat(io.Stdout, &st); err != nil || st.Gid != user {
				t.Errorf("%s: stdout belongs to %d:%d, %v", about, st.Uid, st.Gid, err)
			}
			c.start()
			c.wait("", 0)
			c.delete(0)
			if out := io.Output(); !strings.HasSuffix(out, ":100123\n") {
				t.Errorf("%s: stdout belongs to %q in the container", about, out)
			}
			if keys := io.Errors(); keys != "0\n" {
				t.Errorf("%s: %s keyrings of the container's own", about, keys)
			}
		}
		_, err := h.createWith("c2", h.spec("true"), &runtimeoptions.Options{ConfigBody: []byte("IoUid = 1\nColour = 'red'")}, &taskapi.CreateTaskRequest{})
		if err == nil || !strings.Contains(err.Error(), `line 2: unknown key "Colour"`) {
			t.Errorf("unknown option: %v", err)
		}
	}
}

// A user namespace's root can open its streams anew if the options make it their owner.
func TestRuncStreamsInUserNamespace(t *testing.T) {
	const root = 100123
	h := newHost(t, manager.Containerd23)
	if err := os.Chmod(filepath.Dir(h.rootfs), 0o755); err != nil { // the way to the root file system
		t.Fatal(err)
	}
	for name, o := range map[string]*runcoptions.Options{"owned\nagain\n": {IoUid: root, IoGid: root}, "foreign\n": {}} {
		word, _, _ := strings.Cut(name, "\n")
		spec := h.spec("sh", "-c", "echo "+word+"; echo again >/proc/self/fd/1")
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		spec.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: root, Size: 1000}}
		spec.Linux.GIDMappings = spec.Linux.UIDMappings
		io := testkit.FIFOs(t)
		c, err := h.createWith("c1", spec, o, &taskapi.CreateTaskRequest{Stdout: io.Stdout, Stderr: io.Stderr})
		if err != nil {
			t.Fatal(err)
		}
		c.start()
		want := 0
		if word == "foreign" {
			want = 1
		}
		c.wait("", uint32(want))
		c.delete(want)
		if out, err := io.Output(), io.Errors(); out != name || (want == 1) != strings.Contains(err, "ermission denied") {
			t.Errorf("%s: %q, %q", word, out, err)
		}
	}
}

// The shim starts in the cgroup that the options name, in every hierarchy that has it; its containers are in their own.
func TestShimCgroup(t *testing.T) {
	h := newHost(t, manager.Containerd23)
	tops := []string{"/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids"}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.procs"); err == nil {
		tops = []string{"/sys/fs/cgroup"}
	}
	const group = "/shimwright-shim"
	var lines []string
	for _, top := range tops {
		dir := top + group
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			testkit.Await(t, 10*time.Second, "the group's removal", func() bool { err := os.Remove(dir); return err == nil || os.IsNotExist(err) })
		})
		lines = append(lines, filepath.Base(top))
	}
	c, err := h.createWith("c1", h.spec("true"), &runcoptions.Options{ShimCgroup: group}, &taskapi.CreateTaskRequest{})
	if err != nil {
		t.Fatal(err)
	}
	in, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", shimPID(t, c)))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(in), ":"+group+"\n"); got != len(tops) {
		t.Errorf("the shim is in %d groups of %v:\n%s", got, lines, in)
	}
	state, err := c.Task().State(t.Context(), &taskapi.StateRequest{ID: c.id})
	if err != nil {
		t.Fatal(err)
	}
	if in, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", state.Pid)); strings.Contains(string(in), ":"+group+"\n") {
		t.Errorf("the container is in the shim's groups:\n%s", in)
	}
	c.start()
	c.wait("", 0)
	c.delete(0)

	for path, says := range map[string]string{"/no/such/group": "make it first", group + "/../../x": "without .."} {
		s, err := h.Start(t.Context(), manager.StartRequest{ID: "c2", Namespace: "test", Runtime: h.runtime, Spec: h.spec("true"), Options: &runcoptions.Options{ShimCgroup: path}})
		if err == nil {
			t.Errorf("%s: started", path)
			if _, err := h.Delete(t.Context(), s); err != nil && !errdefs.IsNotFound(err) {
				t.Error(err)
			}
		} else if !strings.Contains(err.Error(), "option shim_cgroup: cgroup") || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
