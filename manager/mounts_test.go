package manager_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/shimwright/shimwright/internal/testkit"
	"github.com/shimwright/shimwright/manager"
)

// A shim makes a whole chain of mounts itself, a container runs on it, and nothing of it stays: not when the task is
// deleted, nor when Create fails after the mounts, nor when the shim is killed.
func TestRuncMountChain(t *testing.T) {
	h := newHost(t, manager.Containerd23)
	layer := filepath.Join(t.TempDir(), "layer.erofs")
	if _, err := exec.LookPath("mkfs.erofs"); err != nil {
		testkit.Missing(t, "needs mkfs.erofs (make deps)")
	}
	if out, err := exec.Command("mkfs.erofs", "--quiet", layer, h.rootfs).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, test := range []struct {
		name, command string
		status        int
		fails, killed bool
	}{
		{"deleted", "touch /new && grep -q '^overlay / overlay rw' /proc/mounts && exit 7", 7, false, false},
		{"create fails", "", 0, true, false},
		{"shim killed", "sleep 1000", 137, false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx := t.Context()
			spec := testkit.Spec("rootfs", "sh", "-c", test.command)
			if test.fails {
				spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/false"}}}
			}
			s, err := h.Start(ctx, manager.StartRequest{ID: "chain", Namespace: "test", Runtime: h.runtime, Spec: spec})
			if err != nil {
				t.Fatal(err)
			}
			rootfs := filepath.Join(s.Bundle(), "rootfs")
			_, err = s.Task().Create(ctx, &taskapi.CreateTaskRequest{ID: "chain", Bundle: s.Bundle(), Rootfs: []*types.Mount{
				{Type: "mkfs/ext4", Source: filepath.Join(t.TempDir(), "disk"), Options: []string{"loop", "X-containerd.mkfs.size=16MiB"}},
				{Type: "erofs", Source: layer, Options: []string{"ro", "loop"}},
				{Type: "format/mkdir/overlay", Source: "overlay", Options: []string{
					"X-containerd.mkdir.path={{ mount 0 }}/upper:0755", "X-containerd.mkdir.path={{ mount 0 }}/work:0755",
					"workdir={{ mount 0 }}/work", "upperdir={{ mount 0 }}/upper", "lowerdir={{ overlay 1 1 }}",
				}},
			}})
			table, readErr := os.ReadFile("/proc/self/mountinfo")
			if readErr != nil {
				t.Error(readErr)
			}
			want := 1
			if test.fails {
				want = 0
			}
			if got := strings.Count(string(table), " "+rootfs); got != want {
				t.Errorf("%d mounts, want %d", got, want)
			}
			if (err != nil) != test.fails {
				t.Errorf("create: %v", err)
			}
			if err == nil {
				if _, err := s.Task().Start(ctx, &taskapi.StartRequest{ID: "chain"}); err != nil {
					t.Error(err)
				}
				if test.killed {
					if err := syscall.Kill(s.PID(), syscall.SIGKILL); err != nil {
						t.Error(err)
					}
				} else if r, err := s.Task().Wait(ctx, &taskapi.WaitRequest{ID: "chain"}); err != nil || int(r.ExitStatus) != test.status {
					t.Errorf("it ended with %v, %v; want %d", r.GetExitStatus(), err, test.status)
				}
			}
			began := time.Now()
			if _, err := h.Delete(ctx, s); err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("deleting took %v", took)
			}
		})
	}
}
