package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/sys/mountinfo"
	"github.com/shimwright/shimwright/internal/testkit"
	"golang.org/x/sys/unix"
)

// files makes a directory of files; "name=text", "name/" is a directory, "name->target" a link.
func files(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		path, text, _ := strings.Cut(filepath.Join(dir, name), "=")
		var err error
		if link, target, ok := strings.Cut(path, "->"); ok {
			err = os.Symlink(target, link)
		} else if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(path, 0o755)
		} else {
			err = os.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		testkit.Missing(t, "needs %s", name)
	}
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

func erofs(t *testing.T, names ...string) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "layer.erofs")
	run(t, "mkfs.erofs", "--quiet", image, files(t, names...))
	return image
}

func ext4(t *testing.T, names ...string) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "disk.ext4")
	run(t, "mkfs.ext4", "-q", "-d", files(t, names...), image, "4M")
	return image
}

func m(kind, source string, options ...string) *types.Mount {
	return &types.Mount{Type: kind, Source: source, Options: options}
}

// mounted lists the mount points in a bundle, relative to it.
func mounted(t *testing.T, dir string) (points []string) {
	t.Helper()
	all, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		points = append(points, strings.TrimPrefix(m.Mountpoint, dir+"/"))
	}
	return points
}

func listing(t *testing.T, path string) string {
	t.Helper()
	var all []string
	entries, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "lost+found" {
			all = append(all, e.Name())
		}
	}
	return strings.Join(all, " ")
}

// Every kind of mount is made, is one mount in the table, and is gone with all that is behind it.
func TestMountAndUnmount(t *testing.T) {
	testkit.RequireRoot(t)
	writable := func(t *testing.T, path string) {
		if err := os.WriteFile(filepath.Join(path, "new"), nil, 0o600); err != nil {
			t.Error(err)
		}
	}
	readonly := func(t *testing.T, path string) {
		if err := os.WriteFile(filepath.Join(path, "new"), nil, 0o600); !errors.Is(err, unix.EROFS) {
			t.Errorf("a write: %v", err)
		}
	}
	for _, test := range []struct {
		name   string
		mounts func(t *testing.T) []*types.Mount
		want   string
		check  func(t *testing.T, path string)
		points int
	}{
		{"nothing", func(*testing.T) []*types.Mount { return nil }, "", nil, 0},
		{"bind", func(t *testing.T) []*types.Mount { return []*types.Mount{m("bind", files(t, "a"), "rbind", "rw")} }, "a", writable, 1},
		{"read-only bind", func(t *testing.T) []*types.Mount { return []*types.Mount{m("bind", files(t, "a"), "rbind", "ro")} }, "a", readonly, 1},
		{"one upon the other", func(t *testing.T) []*types.Mount {
			return []*types.Mount{m("bind", files(t, "a"), "bind"), m("bind", files(t, "b"), "bind"), m("bind", files(t, "b"), "bind")}
		}, "b", nil, 3},
		{"one in the other", func(t *testing.T) []*types.Mount {
			second := m("bind", files(t, "b"), "bind")
			second.Target = "sub/../sub"
			return []*types.Mount{m("bind", files(t, "sub/"), "bind"), second}
		}, "sub", func(t *testing.T, path string) {
			if got := listing(t, path+"/sub"); got != "b" {
				t.Errorf("sub holds %q", got)
			}
		}, 2},
		{"overlay", func(t *testing.T) []*types.Mount {
			return []*types.Mount{m("overlay", "overlay", "index=off", "workdir="+files(t), "upperdir="+files(t, "u"),
				"lowerdir="+files(t, "a")+":"+files(t, "b")+":"+files(t, "c"))}
		}, "a b c u", writable, 1},
		{"overlay of lower layers", func(t *testing.T) []*types.Mount {
			return []*types.Mount{m("overlay", "overlay", "lowerdir="+files(t, "a")+":"+files(t, "b"))}
		}, "a b", readonly, 1},
		{"erofs", func(t *testing.T) []*types.Mount { return []*types.Mount{m("erofs", erofs(t, "e"), "ro", "loop")} }, "e", readonly, 1},
		{"ext4", func(t *testing.T) []*types.Mount { return []*types.Mount{m("ext4", ext4(t, "x"), "loop")} }, "x", writable, 1},
		{"read-only ext4", func(t *testing.T) []*types.Mount { return []*types.Mount{m("ext4", ext4(t, "x"), "loop", "ro")} }, "x", readonly, 1},
		{"mkfs", func(t *testing.T) []*types.Mount {
			return []*types.Mount{m("mkfs/ext4", files(t)+"/new.img", "loop", "X-containerd.mkfs.size=8MiB", "X-containerd.mkfs.uuid=550e8400-e29b-41d4-a716-446655440000")}
		}, "", writable, 1},
		{"mkfs of what is there", func(t *testing.T) []*types.Mount {
			return []*types.Mount{m("mkfs/ext4", ext4(t, "kept"), "loop", "X-containerd.mkfs.size=8MiB")}
		}, "kept", writable, 1},
		{"loop device", func(t *testing.T) []*types.Mount {
			return []*types.Mount{m("loop", ext4(t, "x")), m("format/ext4", "{{ mount 0 }}")}
		}, "x", writable, 1},
		{"read-only loop device", func(t *testing.T) []*types.Mount {
			return []*types.Mount{m("loop", ext4(t, "x"), "ro"), m("format/ext4", "{{ mount 0 }}", "ro")}
		}, "x", readonly, 1},
		{"erofs layers and a disk for what is written", func(t *testing.T) []*types.Mount {
			return []*types.Mount{
				m("mkfs/ext4", files(t)+"/rw.img", "rw", "loop", "X-containerd.mkfs.fs=ext4", "X-containerd.mkfs.size=8388608"),
				m("erofs", erofs(t, "top"), "ro", "loop"), m("erofs", erofs(t, "middle"), "ro", "loop"), m("erofs", erofs(t, "bottom"), "ro", "loop"),
				m("format/mkdir/overlay", "overlay", "X-containerd.mkdir.path={{ mount 0 }}/upper:0755", "X-containerd.mkdir.path={{ mount 0 }}/work:0755",
					"workdir={{ mount 0 }}/work", "upperdir={{ mount 0 }}/upper", "lowerdir={{ overlay 1 3 }}"),
			}
		}, "bottom middle top", writable, 1},
		{"a directory of a disk", func(t *testing.T) []*types.Mount {
			return []*types.Mount{m("ext4", ext4(t), "loop"), m("format/mkdir/bind", "{{ mount 0 }}/upper", "X-containerd.mkdir.path={{ mount 0 }}/upper:0750:12:34", "rbind")}
		}, "", func(t *testing.T, path string) {
			var st unix.Stat_t
			if err := unix.Stat(path, &st); err != nil || st.Mode&0o777 != 0o750 || st.Uid != 12 || st.Gid != 34 {
				t.Errorf("mode %o, uid %d, gid %d, %v", st.Mode, st.Uid, st.Gid, err)
			}
		}, 1},
		{"the source of an earlier mount", func(t *testing.T) []*types.Mount {
			return []*types.Mount{m("bind", files(t, "in/", "in/a"), "bind"), m("format/bind", "{{ source 0 }}", "bind"), m("format/bind", "{{ source 1 }}/in", "bind", "ro")}
		}, "a", readonly, 1},
		{"a chain and more in its rootfs", func(t *testing.T) []*types.Mount {
			second := m("bind", files(t, "b"), "bind")
			second.Target = "sub"
			return []*types.Mount{m("bind", files(t, "sub/"), "bind"), m("format/bind", "{{ mount 0 }}", "bind"), second}
		}, "sub", func(t *testing.T, path string) {
			if got := listing(t, path+"/sub"); got != "b" {
				t.Errorf("sub holds %q", got)
			}
		}, 2},
		{"mkdir in a plain path", func(t *testing.T) []*types.Mount {
			dir := files(t, "lower/", "lower/a")
			return []*types.Mount{m("mkdir/overlay", "overlay", "X-containerd.mkdir.path="+dir+"/u", "X-containerd.mkdir.path="+dir+"/w:700",
				"lowerdir="+dir+"/lower", "upperdir="+dir+"/u", "workdir="+dir+"/w")}
		}, "a", writable, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			testkit.NoLeaks(t)
			dir := t.TempDir()
			path, err := Mount(t.Context(), dir, test.mounts(t))
			defer Unmount(dir)
			if err != nil {
				t.Fatal(err)
			}
			if points := mounted(t, dir); len(points) != test.points {
				t.Errorf("in the mount table: %v", points)
			}
			if test.points > 0 {
				if got := listing(t, path); got != test.want {
					t.Errorf("the rootfs holds %q, want %q", got, test.want)
				}
			}
			if test.check != nil {
				test.check(t, path)
			}
			for range 2 {
				if err := Unmount(dir); err != nil {
					t.Error(err)
				}
			}
			if points := mounted(t, dir); len(points) != 0 {
				t.Errorf("still in the mount table: %v", points)
			}
		})
	}
}

// Owners are shown as mapped, whatever the kind of mount, and files keep what else they are.
func TestMappedIDs(t *testing.T) {
	testkit.RequireRoot(t)
	maps := []string{"uidmap=0:100000:65536", "gidmap=0:200000:65536"}
	for _, test := range []struct {
		name string
		make func(t *testing.T) []*types.Mount
		ro   bool
	}{
		{"overlay", func(t *testing.T) []*types.Mount {
			return []*types.Mount{m("overlay", "overlay", append(maps, "lowerdir="+files(t, "a")+":"+files(t, "b"), "upperdir="+files(t), "workdir="+files(t))...)}
		}, false},
		{"overlay of one layer with a colon", func(t *testing.T) []*types.Mount {
			return []*types.Mount{m("overlay", "overlay", append(maps, `lowerdir=`+files(t, "b")+":"+files(t, "x:y/", "x:y/a")+`/x\:y`)...)}
		}, true},
		{"bind", func(t *testing.T) []*types.Mount {
			return []*types.Mount{m("bind", files(t, "a"), append(maps, "rbind")...)}
		}, false},
		{"read-only bind", func(t *testing.T) []*types.Mount {
			return []*types.Mount{m("bind", files(t, "a"), append(maps, "rbind", "ro")...)}
		}, true},
		{"erofs", func(t *testing.T) []*types.Mount {
			return []*types.Mount{m("erofs", erofs(t, "a"), append(maps, "ro")...)}
		}, true},
		{"ext4", func(t *testing.T) []*types.Mount {
			return []*types.Mount{m("ext4", ext4(t, "a"), append(maps, "loop")...)}
		}, false},
		{"overlay of erofs layers", func(t *testing.T) []*types.Mount {
			return []*types.Mount{
				m("erofs", erofs(t, "a"), "ro"), m("erofs", erofs(t, "b"), "ro"),
				m("format/overlay", "overlay", append(maps, "lowerdir={{ overlay 0 1 }}")...),
			}
		}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			testkit.NoLeaks(t)
			dir := t.TempDir()
			path, err := Mount(t.Context(), dir, test.make(t))
			defer Unmount(dir)
			if err != nil {
				t.Fatal(err)
			}
			var st unix.Stat_t
			if err := unix.Stat(path+"/a", &st); err != nil || st.Uid != 100000 || st.Gid != 200000 {
				t.Errorf("a belongs to %d:%d, %v", st.Uid, st.Gid, err)
			}
			var fs unix.Statfs_t
			if err := unix.Statfs(path, &fs); err != nil || (fs.Flags&unix.MS_RDONLY != 0) != test.ro {
				t.Errorf("flags %x, %v; read-only %v", fs.Flags, err, test.ro)
			}
			if points := mounted(t, dir); !slices.Equal(points, []string{"rootfs"}) {
				t.Errorf("in the mount table: %v", points)
			}
			if err := Unmount(dir); err != nil {
				t.Error(err)
			}
		})
	}
}

// Options may be longer than the page that mount(2) has for them, with a common directory and without.
func TestLongOptions(t *testing.T) {
	testkit.RequireRoot(t)
	for _, test := range []struct {
		name   string
		layers int
		where  func(i int) string
	}{
		{"together", 60, func(int) string { return "one" }},
		{"together, long names", 60, func(int) string { return "one/" + strings.Repeat("x", 100) }},
		{"apart", 100, func(i int) string { return strings.Repeat(string(rune('a'+i%20)), 80) }},
	} {
		for _, maps := range [][]string{nil, {"uidmap=0:1000:10", "gidmap=0:1000:10"}} {
			t.Run(fmt.Sprint(test.name, len(maps) > 0), func(t *testing.T) {
				testkit.NoLeaks(t)
				top, dir := t.TempDir(), t.TempDir()
				var lower []string
				for i := range test.layers {
					layer := filepath.Join(top, test.where(i), fmt.Sprint("layer", i), fmt.Sprint("file", i))
					if err := os.MkdirAll(layer, 0o755); err != nil {
						t.Fatal(err)
					}
					lower = append(lower, filepath.Dir(layer))
				}
				path, err := Mount(t.Context(), dir, []*types.Mount{m("overlay", "overlay", append(maps, "lowerdir="+strings.Join(lower, ":"),
					"upperdir="+files(t), "workdir="+files(t), "nodev", "userxattr")...)})
				defer Unmount(dir)
				if err != nil {
					t.Fatal(err)
				}
				if got := strings.Fields(listing(t, path)); len(got) != test.layers {
					t.Errorf("%d layers are seen: %v", len(got), got)
				}
				var fs unix.Statfs_t
				if err := unix.Statfs(path, &fs); err != nil || fs.Flags&unix.MS_NODEV == 0 {
					t.Errorf("flags %x, %v", fs.Flags, err)
				}
				if err := Unmount(dir); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// Kernels that do not mount image files themselves get loop devices, which go with the mount.
func TestErofsOnLoopDevices(t *testing.T) {
	testkit.RequireRoot(t)
	testkit.NoLeaks(t)
	at := t.TempDir()
	mm := mount.Mount{Type: "erofs", Source: erofs(t, "a"), Options: []string{"ro", "device=" + erofs(t)}}
	var loops devices
	if err := loops.attachImages(&mm); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(mm.Source, "/dev/loop") || !strings.HasPrefix(mm.Options[1], "device=/dev/loop") {
		t.Errorf("%+v", mm)
	}
	mm.Options = mm.Options[:1]
	err := mm.Mount(at)
	loops.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(at, 0)
	if got := listing(t, at); got != "a" {
		t.Errorf("it holds %q", got)
	}
}

// A mount that fails takes back those before it, and names itself.
func TestFailedMountLeavesNothing(t *testing.T) {
	testkit.RequireRoot(t)
	cancelled, cancel := context.WithCancelCause(t.Context())
	cancel(errdefs.ErrAborted)
	for _, test := range []struct {
		name   string
		ctx    context.Context
		mounts func(t *testing.T) []*types.Mount
		class  error
		want   string
	}{
		{"no source", t.Context(), func(t *testing.T) []*types.Mount {
			return []*types.Mount{m("bind", files(t), "bind"), m("bind", "/no/such", "bind")}
		}, errdefs.ErrInvalidArgument, "mount rootfs: mount 1 (bind, source /no/such): "},
		{"no such type", t.Context(), func(t *testing.T) []*types.Mount { return []*types.Mount{m("nosuchfs", "x")} }, errdefs.ErrInvalidArgument, "mount 0 (nosuchfs, source x)"},
		{"last of a chain", t.Context(), func(t *testing.T) []*types.Mount {
			return []*types.Mount{m("ext4", ext4(t), "loop"), m("loop", ext4(t)), m("format/bind", "{{ mount 0 }}/none", "bind")}
		}, errdefs.ErrInvalidArgument, "mount 2 (format/bind"},
		{"no file system", t.Context(), func(t *testing.T) []*types.Mount {
			return []*types.Mount{m("loop", files(t, "a="+strings.Repeat("a", 4096))+"/a"), m("format/ext4", "{{ mount 0 }}")}
		}, errdefs.ErrInvalidArgument, "mount 1 (format/ext4"},
		{"mapped layer missing", t.Context(), func(t *testing.T) []*types.Mount {
			return []*types.Mount{m("overlay", "overlay", "uidmap=0:1:1", "gidmap=0:1:1", "lowerdir="+files(t)+":/no/such")}
		}, errdefs.ErrInvalidArgument, "map ids of layer /no/such"},
		{"nothing to map", t.Context(), func(t *testing.T) []*types.Mount {
			return []*types.Mount{m("overlay", "overlay", "uidmap=0:1:1", "gidmap=0:1:1")}
		}, errdefs.ErrInvalidArgument, "without lowerdir"},
		{"cannot be mapped", t.Context(), func(t *testing.T) []*types.Mount {
			return []*types.Mount{m("proc", "proc", "uidmap=0:1:1", "gidmap=0:1:1")}
		}, errdefs.ErrInvalidArgument, "map ids: "},
		{"target outside", t.Context(), func(t *testing.T) []*types.Mount {
			second := m("bind", files(t), "bind")
			second.Target = "../../../etc"
			return []*types.Mount{m("bind", files(t), "bind"), second}
		}, errdefs.ErrInvalidArgument, "mount 1"},
		{"given up", cancelled, func(t *testing.T) []*types.Mount { return []*types.Mount{m("bind", files(t), "bind")} }, errdefs.ErrAborted, "aborted"},
		{"mkfs given up", cancelled, func(t *testing.T) []*types.Mount {
			return []*types.Mount{m("mkfs/ext4", files(t)+"/i", "loop", "X-containerd.mkfs.size=8m")}
		}, errdefs.ErrAborted, "aborted"},
		{"mkfs fails", t.Context(), func(t *testing.T) []*types.Mount {
			return []*types.Mount{m("mkfs/ext4", files(t)+"/i", "loop", "X-containerd.mkfs.size=10")}
		}, nil, "mkfs.ext4: exit status 1"},
		{"a link out of a disk", t.Context(), func(t *testing.T) []*types.Mount {
			return []*types.Mount{m("bind", files(t, "out->"+files(t)), "bind"), m("format/mkdir/bind", "{{ mount 0 }}", "bind", "X-containerd.mkdir.path={{ mount 0 }}/out/new")}
		}, errdefs.ErrInvalidArgument, "make directory "},
		{"a link in a directory's place", t.Context(), func(t *testing.T) []*types.Mount {
			return []*types.Mount{m("bind", files(t, "out->"+files(t)), "bind"), m("format/mkdir/bind", "{{ mount 0 }}", "bind", "X-containerd.mkdir.path={{ mount 0 }}/out:0777")}
		}, errdefs.ErrInvalidArgument, "make directory "},
	} {
		t.Run(test.name, func(t *testing.T) {
			testkit.NoLeaks(t)
			dir := t.TempDir()
			mounts := test.mounts(t)
			path, err := Mount(test.ctx, dir, mounts)
			if err == nil || !strings.Contains(err.Error(), test.want) || test.class != nil && !errors.Is(err, test.class) {
				t.Errorf("got %v\nwant %q (%v)", err, test.want, test.class)
			}
			if path != "" {
				t.Errorf("path %q", path)
			}
			if points := mounted(t, dir); len(points) != 0 {
				t.Errorf("in the mount table: %v", points)
			}
			if strings.HasPrefix(mounts[0].Type, "mkfs") {
				if got := listing(t, filepath.Dir(mounts[0].Source)); got != "" {
					t.Errorf("beside the image: %s", got)
				}
			}
		})
	}
}

func TestMissingToolIsNamed(t *testing.T) {
	err := (&image{fs: "nosuch", size: 1}).make(t.Context(), t.TempDir()+"/i")
	if !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), "mkfs.nosuch is not installed") {
		t.Error(err)
	}
}

// What is unmounted need not be what Mount has left: a Create may be killed at any step, and containers mount too.
func TestUnmountAtEveryDepth(t *testing.T) {
	testkit.RequireRoot(t)
	tmpfs := func(t *testing.T, path string) {
		t.Helper()
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", path, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
	}
	for name, prepare := range map[string]func(t *testing.T, path string){
		"repeated": func(t *testing.T, path string) { tmpfs(t, path); tmpfs(t, path); tmpfs(t, path) },
		"nested": func(t *testing.T, path string) {
			tmpfs(t, path)
			tmpfs(t, path+"/a")
			tmpfs(t, path+"/a/b")
			tmpfs(t, path+"/a/b")
		},
		"only below": func(t *testing.T, path string) { tmpfs(t, path+"/a/b/c") },
		"covered": func(t *testing.T, path string) {
			tmpfs(t, path)
			tmpfs(t, path+"/a")
			tmpfs(t, path+"/a/b")
			tmpfs(t, path)
			tmpfs(t, path+"/a")
		},
		"odd names": func(t *testing.T, path string) { tmpfs(t, path+"/a b\n\\c"); tmpfs(t, path+"/a b\n\\c") },
		"not a neighbour": func(t *testing.T, path string) {
			tmpfs(t, path+"/a")
			tmpfs(t, path+"-not")
			t.Cleanup(func() {
				if err := unix.Unmount(path+"-not", 0); err != nil {
					t.Errorf("a neighbour's mount: %v", err)
				}
			})
		},
		"a bundle by a link": func(t *testing.T, path string) {
			tmpfs(t, path+"2/a")
			if err := os.Symlink(path+"2", path); err != nil {
				t.Fatal(err)
			}
		},
		"an empty one by a link": func(t *testing.T, path string) {
			tmpfs(t, path+"2")
			if err := os.Symlink(path+"2", path); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			testkit.NoLeaks(t)
			dir := t.TempDir()
			prepare(t, filepath.Join(dir, "rootfs"))
			for range 2 {
				if err := Unmount(dir); err != nil {
					t.Error(err)
				}
			}
			if points := mounted(t, dir+"/rootfs"); len(points) != 0 {
				t.Errorf("still in the mount table: %v", points)
			}
		})
	}
}

// A mount that somebody uses is waited for, then detached; the loop device goes with the user.
func TestBusyMountIsDetached(t *testing.T) {
	testkit.RequireRoot(t)
	testkit.NoLeaks(t)
	dir := t.TempDir()
	path, err := Mount(t.Context(), dir, []*types.Mount{
		m("ext4", ext4(t), "loop"),
		m("format/mkdir/overlay", "overlay", "X-containerd.mkdir.path={{ mount 0 }}/u", "X-containerd.mkdir.path={{ mount 0 }}/w",
			"lowerdir="+files(t, "a"), "upperdir={{ mount 0 }}/u", "workdir={{ mount 0 }}/w"),
	})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path + "/busy")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Unmount(dir); err != nil {
		t.Error(err)
	}
	if points := mounted(t, dir); len(points) != 0 {
		t.Errorf("still in the mount table: %v", points)
	}
	if _, err := f.WriteString("still good"); err != nil {
		t.Error(err)
	}
}

func TestHundredAtOnce(t *testing.T) {
	testkit.RequireRoot(t)
	testkit.NoLeaks(t)
	lower, disk := erofs(t, "a"), files(t)
	var all sync.WaitGroup
	for i := range 100 {
		dir := t.TempDir()
		all.Go(func() {
			path, err := Mount(context.Background(), dir, []*types.Mount{
				m("mkfs/ext4", fmt.Sprintf("%s/%d", disk, i), "loop", "X-containerd.mkfs.size=1m"), m("erofs", lower, "ro"),
				m("format/mkdir/overlay", "overlay", "X-containerd.mkdir.path={{ mount 0 }}/u", "X-containerd.mkdir.path={{ mount 0 }}/w",
					"lowerdir={{ mount 1 }}", "upperdir={{ mount 0 }}/u", "workdir={{ mount 0 }}/w", "uidmap=0:1000:10", "gidmap=0:1000:10"),
			})
			if err != nil {
				t.Error(err)
				return
			}
			var st syscall.Stat_t
			if err := syscall.Stat(path+"/a", &st); err != nil || st.Uid != 1000 {
				t.Errorf("%d: uid %d, %v", i, st.Uid, err)
			}
			if err := Unmount(dir); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

func TestImageIsMadeOnce(t *testing.T) {
	dir := t.TempDir()
	im := &image{fs: "ext4", size: 1 << 20, uuid: "550e8400-e29b-41d4-a716-446655440000"}
	if _, err := find("mkfs.ext4"); err != nil {
		testkit.Missing(t, "%v", err)
	}
	var before []byte
	for range 2 {
		if err := im.make(t.Context(), dir+"/i"); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(dir + "/i")
		if err != nil || len(data) != 1<<20 {
			t.Fatal(len(data), err)
		}
		if before != nil && !slices.Equal(before, data) {
			t.Error("made anew")
		}
		before = data
	}
	if diff := cmp.Diff("55 0e 84 00", fmt.Sprintf("% x", before[0x468:0x46c])); diff != "" {
		t.Errorf("uuid: %s", diff)
	}
	if got := listing(t, dir); got != "i" {
		t.Errorf("in the directory: %s", got)
	}
}
