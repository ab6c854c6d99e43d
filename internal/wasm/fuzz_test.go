package wasm

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// What a file begins with is told without panic, and only what has the magic bytes is a module.
func FuzzSniff(f *testing.F) {
	for _, seed := range []string{"", "\x00asm\x01\x00\x00\x00", "\x00asm\x0d\x00\x01\x00", "\x00asm", "\x7fELF", "#!/bin/sh", "(module)", "\x00asm\x01\x00\x00\x00\x05\x04\x01\x04\x01\x01", "\x00asm\x01\x00\x00\x00\x01\xff\xff\xff\xff\x0f"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := sniff(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		module := bytes.HasPrefix(data, []byte("\x00asm\x01\x00\x00\x00"))
		if (k == kindModule) != module || (k.refuse("x") == nil) != module {
			t.Errorf("%q is %d, %v", data, k, k.refuse("x"))
		}
		total := 0
		sections(data, func(_ byte, content []byte) { total += len(content) })
		if total > len(data) {
			t.Errorf("sections of %d bytes in %d", total, len(data))
		}
		hint(data)
	})
}

// Whatever a spec says, what is run lies in the container.
func FuzzSelect(f *testing.F) {
	top := f.TempDir()
	rootfs, volume := filepath.Join(top, "rootfs"), filepath.Join(top, "volume")
	for path, module := range map[string]string{
		filepath.Join(rootfs, "bin/app"):    "inside",
		filepath.Join(volume, "app"):        "volume",
		filepath.Join(top, "secret"):        "outside",
		filepath.Join(top, "other/bin/app"): "outside",
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			f.Fatal(err)
		}
		if err := os.WriteFile(path, empty(module), 0o644); err != nil {
			f.Fatal(err)
		}
	}
	for name, target := range map[string]string{"up": "../..", "absolute": filepath.Join(top, "secret"), "secret": "../secret", "magic": "/proc/self/cwd", "other": filepath.Join(top, "other")} {
		for _, in := range []string{rootfs, volume} {
			if err := os.Symlink(target, filepath.Join(in, name)); err != nil {
				f.Fatal(err)
			}
		}
	}
	for _, seed := range [][3]string{
		{"/bin/app", "/", "/mnt"},
		{"app", "bin", "/mnt"},
		{"../secret", "/", "/mnt"},
		{"/mnt/app#f", "/", "/mnt"},
		{"/mnt/../../secret", "/mnt", "/mnt/"},
		{"/absolute", "", ""},
		{"/up/secret", "..", "/"},
		{"/mnt/up/secret", "/", "mnt"},
		{"/other/bin/app", "//", "/bin/.."},
		{"secret", "/mnt/up", "/mnt"},
		{"\x00", "\x00", "\x00"},
		{"#", "", ""},
		{strings.Repeat("a/", 3000), "", ""},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[1])
	}
	f.Fuzz(func(t *testing.T, arg, cwd, mount, path string) {
		v := View{Root: rootfs, Bundle: top, Mounts: []specs.Mount{{Destination: mount, Type: "bind", Source: "volume"}, {Destination: "/tmp", Type: "tmpfs"}}}
		p, err := Select(v, &specs.Process{Args: []string{arg}, Cwd: cwd, Env: []string{"PATH=" + path}}, map[string]string{"run.oci.handler": "wasm"})
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("%v has no class", err)
			}
			return
		}
		defer p.File.Close()
		data, err := read(p.File)
		if err != nil || bytes.Contains(data, []byte("outside")) {
			t.Errorf("%q in %q, with %q and PATH %q, is %s, %v", arg, cwd, mount, path, p.File.Name(), err)
		}
	})
}
