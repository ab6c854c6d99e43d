package spec_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/shimwright/shimwright/internal/testkit"
	"github.com/shimwright/shimwright/manager"
)

// rootlessDir names, in the environment of this program as the root of a user namespace, where it may work.
const rootlessDir = "SHIMWRIGHT_SPEC_ROOTLESS"

func TestMain(m *testing.M) {
	if dir := os.Getenv(rootlessDir); dir != "" {
		if err := inUserNamespace(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// TestRootless runs a shim as somebody who is root only in a user namespace, and has no cgroups.
func TestRootless(t *testing.T) {
	testkit.RequireRoot(t)
	testkit.NoLeaks(t)
	const host, size = 100000, 65536
	dir, rootfs := publicDir(t), testkit.Rootfs(t)
	public(t, rootfs)
	shim := testkit.Build(t, "./cmd/containerd-shim-runc-v2")
	for _, top := range []string{dir, rootfs} {
		err := filepath.WalkDir(top, func(path string, _ fs.DirEntry, err error) error {
			return errors.Join(err, os.Lchown(path, host, host))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	// The shim and this program may be where only root can go.
	for name, from := range map[string]string{"shim": shim, "self": "/proc/self/exe"} {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(dir, "self"))
	cmd.Env = append(os.Environ(), rootlessDir+"="+dir, "ROOTFS="+rootfs)
	ids := []syscall.SysProcIDMap{{HostID: host, Size: size}}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: ids, GidMappings: ids, Credential: &syscall.Credential{}, GidMappingsEnableSetgroups: true,
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// inUserNamespace runs a container by a shim of its own.
func inUserNamespace(dir string) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Second)
	defer cancel()
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	m, err := manager.New(manager.Config{State: filepath.Join(dir, "state"), Root: filepath.Join(dir, "root"), SocketDir: filepath.Join(dir, "s")})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	go func() {
		for range m.Events() { // ends with the manager
		}
	}()

	out := filepath.Join(dir, "out")
	spec := testkit.Spec(os.Getenv("ROOTFS"), "sh", "-c", "id -u > /out/file; trap 'exit 7' TERM; echo ready >> /out/file; while :; do sleep 0.1; done")
	spec.Linux.CgroupsPath = "" // a path would have to be made
	spec.Mounts = append(spec.Mounts, mount("/out", "bind", out, "bind"))
	if err := os.Mkdir(out, 0o755); err != nil {
		return err
	}
	s, err := m.Start(ctx, manager.StartRequest{ID: "c", Namespace: namespace, Runtime: filepath.Join(dir, "shim"), Spec: spec})
	if err != nil {
		return err
	}
	life := rootlessLife(ctx, s, filepath.Join(out, "file"))
	exit, err := m.Delete(ctx, s)
	if life == nil && err == nil && exit.Status != 7 {
		err = fmt.Errorf("exit %+v", exit)
	}
	return errors.Join(life, err, rootlessLimits(ctx, m, dir))
}

// rootlessLife takes a container through its life, with an exec.
func rootlessLife(ctx context.Context, s *manager.Shim, file string) error {
	task := s.Task()
	if _, err := task.Create(ctx, &taskapi.CreateTaskRequest{ID: s.ID(), Bundle: s.Bundle()}); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	if _, err := task.Start(ctx, &taskapi.StartRequest{ID: s.ID()}); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	for said := ""; said != "0\nready\n"; {
		data, err := os.ReadFile(file)
		if said = string(data); ctx.Err() != nil {
			return fmt.Errorf("the container said %q: %w, %w", said, ctx.Err(), err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	process := &specs.Process{Args: []string{"sh", "-c", "exit 3"}, Cwd: "/", Env: []string{"PATH=/bin"}}
	packed, err := manager.Pack(process)
	if err != nil {
		return err
	}
	if _, err := task.Exec(ctx, &taskapi.ExecProcessRequest{ID: s.ID(), ExecID: "x", Spec: packed}); err != nil {
		return fmt.Errorf("exec: %w", err)
	}
	if _, err := task.Start(ctx, &taskapi.StartRequest{ID: s.ID(), ExecID: "x"}); err != nil {
		return fmt.Errorf("start the exec: %w", err)
	}
	if r, err := task.Wait(ctx, &taskapi.WaitRequest{ID: s.ID(), ExecID: "x"}); err != nil || r.ExitStatus != 3 {
		return fmt.Errorf("wait for the exec: %v, %w", r, err)
	}
	if _, err := task.Delete(ctx, &taskapi.DeleteRequest{ID: s.ID(), ExecID: "x"}); err != nil {
		return fmt.Errorf("delete the exec: %w", err)
	}
	if _, err := task.Kill(ctx, &taskapi.KillRequest{ID: s.ID(), Signal: uint32(unix.SIGTERM)}); err != nil {
		return fmt.Errorf("kill: %w", err)
	}
	if r, err := task.Wait(ctx, &taskapi.WaitRequest{ID: s.ID()}); err != nil || r.ExitStatus != 7 {
		return fmt.Errorf("wait: %v, %w", r, err)
	}
	return nil
}

// rootlessLimits sees limits refused, which nobody could hold a container to.
func rootlessLimits(ctx context.Context, m *manager.Manager, dir string) error {
	spec := testkit.Spec(os.Getenv("ROOTFS"), "true")
	spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: new(int64(10))}
	s, err := m.Start(ctx, manager.StartRequest{ID: "limited", Namespace: namespace, Runtime: filepath.Join(dir, "shim"), Spec: spec})
	if err != nil {
		return err
	}
	_, err = s.Task().Create(ctx, &taskapi.CreateTaskRequest{ID: s.ID(), Bundle: s.Bundle()})
	if err == nil || !strings.Contains(err.Error(), "cgroup") {
		err = fmt.Errorf("create with limits: %w", err)
	} else {
		err = nil
	}
	_, derr := m.Delete(ctx, s)
	return errors.Join(err, derr)
}
