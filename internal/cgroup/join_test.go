package cgroup

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/shimwright/shimwright/internal/testkit"
	"golang.org/x/sys/unix"
)

// hierarchies makes directories with what stands for a kernel's cgroup.procs.
func hierarchies(t *testing.T, dirs ...string) string {
	t.Helper()
	top := t.TempDir()
	for _, dir := range dirs {
		dir = filepath.Join(top, dir)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, procs), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return top
}

func TestJoin(t *testing.T) {
	v2 := hierarchies(t, ".", "a", "a/b")
	v1 := hierarchies(t, "memory", "memory/a/b", "pids", "pids/a/b", "cpu", "unified/a/b")
	if err := os.Symlink("cpu", filepath.Join(v1, "cpuacct")); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		top, path string
		class     error
		joined    []string
	}{
		{v2, "/a/b", nil, []string{"a/b"}},
		{v2, "a", nil, []string{"a"}},
		{v1, "/a/b", nil, []string{"memory/a/b", "pids/a/b", "unified/a/b"}},
		{v1, "/none", errdefs.ErrNotFound, nil},
		{v2, "/none", errdefs.ErrNotFound, nil},
		{v2, "/a/../../x", errdefs.ErrInvalidArgument, nil},
		{v1, "../" + filepath.Base(v2) + "/a", errdefs.ErrInvalidArgument, nil},
		{v2, "", errdefs.ErrInvalidArgument, nil},
	} {
		if err := join(test.top, test.path); !errors.Is(err, test.class) {
			t.Errorf("%s: %v, want %v", test.path, err, test.class)
		}
		var joined []string
		if err := filepath.WalkDir(test.top, func(path string, e os.DirEntry, err error) error {
			if err != nil || e.Name() != procs {
				return err
			}
			if text, _ := os.ReadFile(path); string(text) == "0" {
				rel, _ := filepath.Rel(test.top, filepath.Dir(path))
				joined = append(joined, rel)
			}
			return os.Truncate(path, 0)
		}); err != nil {
			t.Fatal(err)
		}
		if strings.Join(joined, " ") != strings.Join(test.joined, " ") {
			t.Errorf("%s: joined %v, want %v", test.path, joined, test.joined)
		}
	}
}

// A process that joins, and what it starts, is in the group in every hierarchy that has it.
func TestJoinMovesTheProcess(t *testing.T) {
	const path = "/shimwright-joined"
	if os.Getenv("JOIN_AS_CHILD") != "" {
		if err := Join(path); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("/bin/cat", "/proc/self/cgroup").Output()
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s", out)
		return
	}
	testkit.RequireRoot(t)
	testkit.NoLeaks(t)
	dirs, err := filepath.Glob(mountpoint + "/*/" + procs)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(mountpoint, procs)); err == nil {
		dirs = []string{filepath.Join(mountpoint, procs)}
	}
	made := 0
	for _, dir := range dirs {
		if top, err := filepath.EvalSymlinks(filepath.Dir(dir)); err != nil || top != filepath.Dir(dir) || filepath.Base(top) == "cpuset" {
			continue // cpuset's groups start without cpus
		}
		dir := filepath.Dir(dir) + path
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		made++
		t.Cleanup(func() {
			testkit.Await(t, 10*time.Second, "the group's removal", func() bool { return os.Remove(dir) == nil })
		})
	}
	child := exec.Command(os.Args[0], "-test.run=^TestJoinMovesTheProcess$", "-test.v")
	child.Env = append(os.Environ(), "JOIN_AS_CHILD=1")
	out, err := child.CombinedOutput()
	if got := strings.Count(string(out), ":"+path+"\n"); err != nil || made == 0 || got != made {
		t.Errorf("joined %d of %d groups, %v:\n%s", got, made, err, out)
	}
}

// What the kernel refuses is explained. Nothing is moved.
func TestJoinRefused(t *testing.T) {
	testkit.RequireRoot(t)
	testkit.NoLeaks(t)
	top := ""
	for _, dir := range []string{mountpoint, mountpoint + "/unified"} {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			top = dir
		}
	}
	if top == "" {
		testkit.Missing(t, "needs a cgroup v2 hierarchy")
	}
	// A domain beside a threaded group is invalid (Documentation/admin-guide/cgroup-v2.rst, Threads).
	for _, dir := range []string{"", "threads", "invalid"} {
		dir = filepath.Join(top, "shimwright-join", dir)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		})
		if filepath.Base(dir) == "threads" {
			if err := os.WriteFile(filepath.Join(dir, "cgroup.type"), []byte("threaded"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	err := join(top, "/shimwright-join/invalid")
	if !errors.Is(err, errdefs.ErrFailedPrecondition) || !errors.Is(err, unix.EOPNOTSUPP) || !strings.Contains(err.Error(), "threaded") {
		t.Errorf("an invalid group: %v", err)
	}
}
