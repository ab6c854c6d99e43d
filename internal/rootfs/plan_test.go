package rootfs

import (
	"errors"
	"strings"
	"testing"
	gotemplate "text/template"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

func TestPlan(t *testing.T) {
	bind := &types.Mount{Type: "bind", Source: "/a", Options: []string{"rbind", "ro"}}
	overlay := &types.Mount{Type: "format/mkdir/overlay", Source: "overlay", Options: []string{
		"X-containerd.mkdir.path={{ mount 0 }}/upper:0755", "lowerdir={{ overlay 1 0 }}", "upperdir={{ mount 0 }}/upper",
	}}
	for _, test := range []struct {
		name   string
		mounts []*types.Mount
		first  int
		stage  bool
	}{
		{"one", []*types.Mount{bind}, 0, false},
		{"two in the rootfs", []*types.Mount{bind, {Type: "bind", Source: "/b", Target: "/etc", Options: []string{"rbind"}}}, 0, false},
		{"braces without format", []*types.Mount{{Type: "bind", Source: "/{{ mount 7 }}"}}, 0, false},
		{"what a template builds on is not in the rootfs", []*types.Mount{bind, bind, overlay}, 2, true},
		{"nor what comes before any transform", []*types.Mount{bind, {Type: "mkdir/overlay"}}, 1, true},
		{"a transform of the first mount needs no stage", []*types.Mount{{Type: "mkfs/ext4", Source: "/i", Options: []string{"X-containerd.mkfs.size=8MiB"}}}, 0, false},
		{"a loop device is not in the rootfs", []*types.Mount{{Type: "loop", Source: "/i"}, {Type: "format/ext4", Source: "{{ mount 0 }}"}}, 1, true},
		{"a mapping needs a stage", []*types.Mount{{Type: "bind", Options: []string{"uidmap=0:1000:1", "gidmap=0:1000:1,1:2000:5"}}}, 0, true},
		{"mkdir before format", []*types.Mount{bind, {Type: "mkdir/format/overlay", Options: []string{"X-containerd.mkdir.path={{ mount 0 }}/x"}}}, 1, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := newPlan(test.mounts)
			if err != nil {
				t.Fatal(err)
			}
			if p.first != test.first || p.stage != test.stage || len(p.steps) != len(test.mounts) {
				t.Errorf("first %d, stage %v, %d steps", p.first, p.stage, len(p.steps))
			}
		})
	}
}

// What can never work is refused before anything is mounted, and the error names the mount.
func TestPlanRefuses(t *testing.T) {
	one := func(kind, source string, options ...string) []*types.Mount {
		return []*types.Mount{{Type: "bind", Source: "/a"}, {Type: kind, Source: source, Options: options}}
	}
	for _, test := range []struct {
		name   string
		mounts []*types.Mount
		want   string
	}{
		{"nil", []*types.Mount{nil}, "mount 0 is missing"},
		{"itself", one("format/bind", "{{ mount 1 }}"), "mount 1 (format/bind, source {{ mount 1 }}): template names mounts 1 to 1, and 1 come before"},
		{"later", one("format/overlay", "overlay", "lowerdir={{ overlay 0 4 }}"), "names mounts 0 to 4, and 1 come before"},
		{"negative", one("format/bind", "{{ mount -1 }}"), "names mounts -1 to -1"},
		{"in target", []*types.Mount{{Type: "format/bind", Target: "{{ target 0 }}"}}, "and 0 come before"},
		{"open", one("format/bind", "{{ mount 0"), `template "{{ mount 0"`},
		{"pipeline", one("format/bind", "{{ mount 0 | print }}"), "are known"},
		{"no number", one("format/bind", "{{ mount a }}"), "are known"},
		{"no argument", one("format/bind", "{{ mount }}"), "are known"},
		{"too many arguments", one("format/bind", "{{ mount 0 0 }}"), "are known"},
		{"unknown function", one("format/bind", "{{ env 0 }}"), "are known"},
		{"unknown transform", one("zip/ext4", "/a"), `unknown transform "zip"`},
		{"loop at last", one("loop", "/a"), "the last mount has to be a file system"},
		{"below the rootfs", []*types.Mount{{Type: "bind"}, {Type: "mkdir/bind", Target: "/etc"}}, "is the rootfs and cannot be below it"},
		{"mkdir without transform", one("overlay", "overlay", "X-containerd.mkdir.path=/a"), "needs a transform that type overlay does not name"},
		{"mkdir up", one("format/mkdir/overlay", "o", "X-containerd.mkdir.path={{ mount 0 }}/../a"), "no way up"},
		{"mkdir up in a plain path", one("mkdir/overlay", "o", "X-containerd.mkdir.path=/a/../b"), "no way up"},
		{"mkdir relative", one("mkdir/overlay", "o", "X-containerd.mkdir.path=a"), "the path is absolute"},
		{"mkdir of the root", one("mkdir/overlay", "o", "X-containerd.mkdir.path=//"), "the path is absolute"},
		{"mkdir of a mount", one("format/mkdir/overlay", "o", "X-containerd.mkdir.path={{ mount 0 }}"), "the path is absolute"},
		{"mkdir beside a mount", one("format/mkdir/overlay", "o", "X-containerd.mkdir.path={{ mount 0 }}x"), "the path is absolute"},
		{"mkdir mode", one("mkdir/overlay", "o", "X-containerd.mkdir.path=/a:1777"), "the mode is octal"},
		{"mkdir uid alone", one("mkdir/overlay", "o", "X-containerd.mkdir.path=/a:755:1"), "PATH[:MODE[:UID:GID]]"},
		{"mkdir uid", one("mkdir/overlay", "o", "X-containerd.mkdir.path=/a:755:-1:0"), "uid and gid are numbers"},
		{"mkdir key", one("mkdir/overlay", "o", "X-containerd.mkdir.mode=755"), "only path="},
		{"mkfs size missing", one("mkfs/ext4", "/a"), "needs the option X-containerd.mkfs.size"},
		{"mkfs size", one("mkfs/ext4", "/a", "X-containerd.mkfs.size=big"), "is a number of bytes"},
		{"mkfs system", one("mkfs/ext4", "/a", "X-containerd.mkfs.fs=ntfs", "X-containerd.mkfs.size=1g"), "are known"},
		{"mkfs uuid", one("mkfs/ext4", "/a", "X-containerd.mkfs.uuid=-x", "X-containerd.mkfs.size=1g"), "is no UUID"},
		{"mkfs key", one("mkfs/ext4", "/a", "X-containerd.mkfs.label=a", "X-containerd.mkfs.size=1g"), "are known"},
		{"uidmap alone", one("bind", "/a", "uidmap=0:1:1"), "uidmap and gidmap go together"},
		{"bad map", one("bind", "/a", "uidmap=0:1", "gidmap=0:1:1"), `id mapping "0:1"`},
		{"empty map", one("bind", "/a", "uidmap=0:1:0", "gidmap=0:1:1"), `id mapping "0:1:0"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			_, err := Mount(t.Context(), dir, test.mounts)
			if !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v\nwant %q", err, test.want)
			}
		})
	}
	_, err := newPlan(one("erofs", "/a", "X-containerd.dmverity=/m"))
	if !errors.Is(err, errdefs.ErrNotImplemented) {
		t.Errorf("dm-verity: %v", err)
	}
}

func TestSizes(t *testing.T) {
	for in, want := range map[string]int64{
		"1": 1, "4096": 4096, "8k": 8192, "64MiB": 64 << 20, "64 MB": 64 << 20, "1.5g": 3 << 29, "2TiB": 2 << 40, "7b": 7,
		"": 0, "-1": 0, "1x": 0, "1e9": 0, "0": 0, "MiB": 0, "1.2.3": 0, "1kk": 0, "9999999P": 0,
	} {
		if got, ok := parseSize(in); got != want && (ok || want != 0) || ok != (want != 0) {
			t.Errorf("%q: %d, %v; want %d", in, got, ok, want)
		}
	}
}

func TestLayers(t *testing.T) {
	got := layers(`/a:/b\:c:/d\\e::/f`)
	if diff := cmp.Diff([]string{"/a", "/b:c", `/d\e`, "", "/f"}, got); diff != "" {
		t.Error(diff)
	}
}

var earlierMounts = []made{{"/s0", "", "/m/0"}, {"/s1", "/t1", "/m/1"}, {"/s2", "", "/dev/loop7"}}

// goTemplate fills in a template as the daemon does.
func goTemplate(s string) (string, error) {
	all := func(first, last int) (string, error) {
		if min(first, last) < 0 || max(first, last) >= len(earlierMounts) {
			return "", errdefs.ErrInvalidArgument
		}
		return places(earlierMounts, first, last), nil
	}
	field := func(of func(made) string) func(int) (string, error) {
		return func(i int) (string, error) {
			if i < 0 || i >= len(earlierMounts) {
				return "", errdefs.ErrInvalidArgument
			}
			return of(earlierMounts[i]), nil
		}
	}
	t, err := gotemplate.New("").Funcs(gotemplate.FuncMap{
		"source": field(func(m made) string { return m.source }), "target": field(func(m made) string { return m.target }),
		"mount": field(func(m made) string { return m.at }), "overlay": all,
	}).Parse(s)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = t.Execute(&b, nil)
	return b.String(), err
}

func ours(s string) (string, error) {
	t, err := parseTemplate(s)
	if err == nil {
		err = t.check(len(earlierMounts))
	}
	if err != nil {
		return "", err
	}
	return t.fill(earlierMounts), nil
}

func TestTemplates(t *testing.T) {
	for in, want := range map[string]string{
		"":                              "",
		"plain }} text":                 "plain }} text",
		"{{ source 0 }}":                "/s0",
		"{{source 1}}x":                 "/s1x",
		"{{ target 1 }}/a":              "/t1/a",
		"{{ mount 2 }}":                 "/dev/loop7",
		"{{ overlay 0 2 }}":             "/m/0:/m/1:/dev/loop7",
		"{{ overlay 1 0 }}":             "/m/1:/m/0",
		"{{ overlay 1 1 }}":             "/m/1",
		"a={{mount 0}}:{{\tmount\t1 }}": "a=/m/0:/m/1",
	} {
		got, err := ours(in)
		if err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
		if theirs, err := goTemplate(in); err != nil || theirs != want {
			t.Errorf("%q: the daemon makes %q of it, %v", in, theirs, err)
		}
	}
}

// What is accepted means what it means to the daemon.
func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"{{ source 0 }}", "{{ overlay 2 0 }}/x", "{{mount 1}}{{ target 1}}", "{{ mount 3 }}", "{{", "}}", "{{ mount 01 }}", "{{- mount 0 -}}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ours(s)
		if err != nil {
			if !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		if theirs, err := goTemplate(s); err != nil || theirs != got {
			t.Errorf("%q: %q; the daemon makes %q of it, %v", s, got, theirs, err)
		}
	})
}
