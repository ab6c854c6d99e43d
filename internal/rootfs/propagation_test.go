package rootfs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/api/types"
	"github.com/google/go-cmp/cmp"
	"github.com/shimwright/shimwright/internal/testkit"
	"golang.org/x/sys/unix"
)

// What is mounted below the source of a recursive bind is the machine's: on machines that share their mounts, too, it
// stays when the rootfs is unmounted.
func TestUnmountLeavesTheSourceAlone(t *testing.T) {
	testkit.RequireRoot(t)
	for _, test := range []struct {
		name   string
		mounts func(src string) []*types.Mount
	}{
		{"in place", func(src string) []*types.Mount { return []*types.Mount{m("bind", src, "rbind", "rw")} }},
		{"on a stage", func(src string) []*types.Mount {
			return []*types.Mount{m("bind", src, "rbind"), m("format/bind", "{{ mount 0 }}", "rbind")}
		}},
		{"with more in it", func(src string) []*types.Mount {
			second := m("tmpfs", "more")
			second.Target = "place"
			return []*types.Mount{m("bind", src, "rbind"), second}
		}},
		{"with more upon it", func(src string) []*types.Mount {
			return []*types.Mount{m("bind", src, "rbind"), m("bind", src, "rbind")}
		}},
		{"a stage that fails", func(src string) []*types.Mount {
			return []*types.Mount{m("bind", src, "rbind"), m("format/bind", "{{ mount 0 }}/nosuch", "rbind")}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			testkit.NoLeaks(t)
			src, dir := t.TempDir(), t.TempDir()
			sub := filepath.Join(src, "sub")
			for _, at := range []string{src, sub} {
				if err := os.MkdirAll(at, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := unix.Mount("machine", at, "tmpfs", 0, ""); err != nil {
					t.Fatal(err)
				}
				defer unix.Unmount(at, unix.MNT_DETACH)
				if err := unix.Mount("", at, "", unix.MS_SHARED, ""); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(sub, "file"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(filepath.Join(src, "place"), 0o700); err != nil {
				t.Fatal(err)
			}
			before := mounted(t, src)
			path, err := Mount(t.Context(), dir, test.mounts(src))
			if err == nil {
				if got := listing(t, filepath.Join(path, "sub")); got != "file" {
					t.Errorf("the rootfs's sub holds %q", got)
				}
			}
			if diff := cmp.Diff(before, mounted(t, src)); diff != "" {
				t.Errorf("the source, mounted: %s", diff)
			}
			if err := Unmount(dir); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(before, mounted(t, src)); diff != "" {
				t.Errorf("the source, unmounted: %s", diff)
			}
			if points := mounted(t, dir); len(points) != 0 {
				t.Errorf("still in the mount table: %v", points)
			}
		})
	}
}
