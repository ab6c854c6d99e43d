package wasi

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero/experimental/sys"
)

// Whatever two paths a guest names, and links them with each other, it stays in its directory.
func FuzzPaths(f *testing.F) {
	top := f.TempDir()
	dir, secret := filepath.Join(top, "guest"), filepath.Join(top, "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o644); err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{"../secret", "/../secret", "sub/../../secret", "up/secret", "up/", "absolute", "sub/up/../secret", "a/b", ".", "", "/", "\x00", "a\x00b", "...", "sub//../up/./secret", strings.Repeat("x", 300)} {
		f.Add(seed, "made")
		f.Add("made", seed)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, target := range map[string]string{"up": "..", "absolute": secret, "sub/up": "../.."} {
			link(t, target, filepath.Join(dir, name))
		}
		d, err := Open(dir, false)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		d.Symlink(a, b)
		d.Rename(b, "sub/"+b)
		d.Link(a, b)
		for _, path := range []string{a, b, a + "/" + b, b + "/secret", "sub/" + b} {
			for _, flag := range []sys.Oflag{sys.O_RDONLY, sys.O_RDWR | sys.O_CREAT} {
				file, errno := d.OpenFile(path, flag, 0o644)
				if errno != 0 {
					continue
				}
				buf := make([]byte, 16)
				if n, _ := file.Pread(buf, 0); string(buf[:max(n, 0)]) == "secret" {
					t.Errorf("%q is the secret", path)
				}
				file.Write([]byte("x"))
				file.Close()
			}
			d.Mkdir(path, 0o755)
			d.Unlink(path)
			d.Rmdir(path)
			d.Rename("sub", path)
		}
		entries, err := os.ReadDir(top)
		got, readErr := os.ReadFile(secret)
		if err != nil || len(entries) != 2 || readErr != nil || string(got) != "secret" {
			t.Fatalf("%q and %q: outside there are %v, and the secret is %q", a, b, entries, got)
		}
	})
}
