package container_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/shimwright/shimwright/internal/enginetest"
	"github.com/shimwright/shimwright/internal/testkit"
	"github.com/shimwright/shimwright/task"
)

// many is how many processes or threads make a crowd: 10,000, but fewer where the kernel has room for fewer, which is
// user-mode Linux.
func many(t *testing.T) int {
	t.Helper()
	data, err := os.ReadFile("/proc/sys/kernel/threads-max")
	if err != nil {
		t.Fatal(err)
	}
	room, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	return min(10000, room/16)
}

// Whatever is in a container, killing and deleting it takes a short time and leaves nothing.
func TestEndOfACrowd(t *testing.T) {
	h := newHost(t)
	crowd, err := os.ReadFile(testkit.Build(t, "./internal/testkit/crowd"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(h.Rootfs, "crowd"), crowd, 0o755); err != nil {
		t.Fatal(err)
	}
	n := strconv.Itoa(many(t))
	pause := func(t *testing.T, c task.Task) {
		if err := c.(task.Pauser).Pause(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	killInit := func(t *testing.T, c task.Task) {
		if err := c.Kill(t.Context(), syscall.SIGKILL, false); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		args   []string
		shared bool // it has no pid namespace
		first  func(*testing.T, task.Task)
	}{
		"orphans":                         {args: []string{"orphans", n}},
		"orphans, shared pids":            {args: []string{"orphans", n}, shared: true},
		"orphans, init dead":              {args: []string{"orphans", "500"}, first: killInit},
		"orphans, shared pids, init dead": {args: []string{"orphans", "500"}, shared: true, first: killInit},
		"paused":                          {args: []string{"orphans", "500"}, first: pause},
		"paused, shared pids":             {args: []string{"orphans", "500"}, shared: true, first: pause},
		"threads":                         {args: []string{"threads", n}},
		"threads, shared pids":            {args: []string{"threads", n}, shared: true},
		"fork bomb":                       {args: []string{"bomb"}},
		"fork bomb, shared pids":          {args: []string{"bomb"}, shared: true},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"/crowd"}, test.args...)
			spec := testkit.Spec(h.Rootfs, args...)
			if test.shared {
				spec = h.HostPID(args...)
			}
			if test.args[0] == "bomb" {
				spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: new(int64(300))}
			}
			r, out := h.Request("c", spec)
			c, err := h.Make(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Delete(t.Context()) }()
			if err := c.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if line := make([]byte, 6); true {
				_ = out.SetReadDeadline(time.Now().Add(2 * time.Minute))
				if _, err := out.Read(line); err != nil || string(line) != "ready\n" {
					t.Fatalf("%q, %v", line, err)
				}
			}
			if test.first != nil {
				test.first(t, c)
			}
			began := time.Now()
			if err := c.Kill(t.Context(), syscall.SIGKILL, true); err != nil && test.first == nil {
				t.Errorf("kill: %v", err)
			}
			killed := time.Since(began)
			enginetest.ExitsWith(t, c, 137)
			if err := c.Delete(t.Context()); err != nil {
				t.Errorf("delete: %v", err)
			}
			took := time.Since(began)
			t.Logf("%s %s: kill %v, to the end of delete %v", name, strings.Join(test.args, " "), killed, took)
			if took > 10*time.Second {
				t.Errorf("%v is too long", took)
			}
			h.NothingLeft(r)
			if left := processesOf(t, "/crowd"); left > 0 {
				t.Errorf("%d processes are left", left)
			}
		})
	}
}

// processesOf counts the living processes whose first argument is path.
func processesOf(t *testing.T, path string) (n int) {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		if data, err := os.ReadFile(line); err == nil && strings.HasPrefix(string(data), fmt.Sprintf("%s\x00", path)) {
			n++
		}
	}
	return n
}
