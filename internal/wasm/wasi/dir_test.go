package wasi

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero/experimental/sys"
)

// world is a directory for a guest, with a secret beside it.
func world(t *testing.T, readOnly bool) (d *Dir, dir, secret string) {
	t.Helper()
	top := t.TempDir()
	dir, secret = filepath.Join(top, "guest"), filepath.Join(top, "secret")
	for _, sub := range []string{"", "sub", "sub/deep"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for path, text := range map[string]string{secret: "secret", filepath.Join(dir, "file"): "mine"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	d, err := Open(dir, readOnly)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d, dir, secret
}

func link(t *testing.T, target, name string) {
	t.Helper()
	if err := os.Symlink(target, name); err != nil {
		t.Fatal(err)
	}
}

// Whatever a path says and whatever links there are, planted or made, a guest stays in its directory.
func TestNothingLeadsOut(t *testing.T) {
	d, dir, secret := world(t, false)
	link(t, secret, filepath.Join(dir, "absolute"))
	link(t, "../secret", filepath.Join(dir, "relative"))
	link(t, "../../secret", filepath.Join(dir, "sub/relative"))
	link(t, "..", filepath.Join(dir, "up"))
	link(t, "/", filepath.Join(dir, "root"))
	link(t, "sub/../../..", filepath.Join(dir, "winding"))
	link(t, "/proc/self/root", filepath.Join(dir, "magic"))
	if errno := d.Symlink("../secret", "made"); errno != 0 {
		t.Fatal(errno)
	}
	if errno := d.Symlink(secret, "made-absolute"); errno != sys.EPERM {
		t.Errorf("an absolute link can be made: %v", errno)
	}
	paths := []string{
		"absolute", "relative", "sub/relative", "made", "up/secret", "root" + secret, "winding/secret", "magic" + secret,
		"absolute/", "up/", "root/", "winding/", "magic/", "../secret", "../../../../../.." + secret, "sub/../../secret", "/../secret", "sub/deep/../../../secret", secret,
	}
	for _, path := range paths {
		for _, flag := range []sys.Oflag{sys.O_RDONLY, sys.O_WRONLY, sys.O_RDWR | sys.O_CREAT, sys.O_WRONLY | sys.O_TRUNC} {
			f, errno := d.OpenFile(path, flag, 0o644)
			if errno != 0 {
				continue
			}
			_, _ = f.Write([]byte("x"))
			buf := make([]byte, 16)
			if n, _ := f.Pread(buf, 0); strings.Contains(string(buf[:n]), "secret") {
				t.Errorf("%s with flags %#x reads the secret", path, flag)
			}
			f.Close()
		}
		d.Unlink(path)
		d.Mkdir(path, 0o755)
		d.Rename("file", path)
		d.Rename(path, "file")
		d.Link("file", path)
		d.Link(path, "stolen")
		d.Utimens(path, 1, 1)
		d.Rmdir(path)
	}
	got, err := os.ReadFile(secret)
	info, serr := os.Stat(secret)
	if err != nil || serr != nil || string(got) != "secret" || info.ModTime().Unix() < 1000 {
		t.Errorf("the secret is now %q, %v, %v", got, err, info)
	}
	entries, err := os.ReadDir(filepath.Dir(dir))
	if err != nil || len(entries) != 2 {
		t.Errorf("beside the guest's directory there are %v, %v", entries, err)
	}
}

// The kernel's own state cannot be opened, whichever way leads there; its existence can be seen.
func TestKernelStateIsClosed(t *testing.T) {
	d, err := Open("/", false)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	dir := t.TempDir()
	link(t, "/proc/self/mem", filepath.Join(dir, "mem"))
	link(t, "/proc", filepath.Join(dir, "proc"))
	for _, path := range []string{
		"proc/self/mem", "proc/self/environ", "proc", "proc/self/fd/0", "proc/self/root/etc/passwd", "sys/kernel",
		dir + "/mem", dir + "/proc/1/environ", dir + "/proc/self/cwd", "proc/self/task",
	} {
		for _, flag := range []sys.Oflag{sys.O_RDONLY, sys.O_RDWR, sys.O_RDONLY | sys.O_DIRECTORY} {
			if f, errno := d.OpenFile(strings.TrimPrefix(path, "/"), flag, 0); errno == 0 {
				t.Errorf("%s can be opened with flags %#x", path, flag)
				f.Close()
			}
		}
	}
	if target, errno := d.Readlink("proc/self/exe"); errno == 0 {
		t.Errorf("/proc/self/exe is %s", target)
	}
	if _, errno := d.Stat("proc"); errno != 0 {
		t.Errorf("stat /proc: %v", errno)
	}
	for _, path := range []string{"/proc", "/sys", "/proc/self/task"} {
		if _, err := Open(path, true); err == nil {
			t.Errorf("%s can be given to a guest", path)
		}
	}
}

func TestReadOnly(t *testing.T) {
	d, _, _ := world(t, true)
	for name, errno := range map[string]sys.Errno{
		"mkdir":    d.Mkdir("x", 0o755),
		"rmdir":    d.Rmdir("sub/deep"),
		"unlink":   d.Unlink("file"),
		"rename":   d.Rename("file", "x"),
		"link":     d.Link("file", "x"),
		"symlink":  d.Symlink("file", "x"),
		"utimens":  d.Utimens("file", 1, 1),
		"write":    failure(d.OpenFile("file", sys.O_WRONLY, 0)),
		"truncate": failure(d.OpenFile("file", sys.O_RDONLY|sys.O_TRUNC, 0)),
		"create":   failure(d.OpenFile("x", sys.O_RDONLY|sys.O_CREAT, 0o644)),
	} {
		if errno != sys.EROFS {
			t.Errorf("%s: %v", name, errno)
		}
	}
	if errno := failure(d.OpenFile("file", sys.O_RDONLY, 0)); errno != 0 {
		t.Errorf("read: %v", errno)
	}
}

func failure(f sys.File, errno sys.Errno) sys.Errno {
	if f != nil {
		f.Close()
	}
	return errno
}

func TestFile(t *testing.T) {
	d, dir, _ := world(t, false)
	f, errno := d.OpenFile("sub/new", sys.O_RDWR|sys.O_CREAT|sys.O_EXCL, 0o640)
	if errno != 0 {
		t.Fatal(errno)
	}
	if n, errno := f.Write([]byte("hello")); n != 5 || errno != 0 {
		t.Errorf("write: %d, %v", n, errno)
	}
	if n, errno := f.Pwrite([]byte("J"), 0); n != 1 || errno != 0 {
		t.Errorf("pwrite: %d, %v", n, errno)
	}
	if at, errno := f.Seek(-4, 2); at != 1 || errno != 0 {
		t.Errorf("seek: %d, %v", at, errno)
	}
	buf := make([]byte, 8)
	if n, errno := f.Read(buf); string(buf[:n]) != "ello" || errno != 0 {
		t.Errorf("read: %q, %v", buf[:n], errno)
	}
	if n, errno := f.Read(buf); n != 0 || errno != 0 {
		t.Errorf("read at the end: %d, %v", n, errno)
	}
	if errno := f.SetAppend(true); errno != 0 || !f.IsAppend() {
		t.Errorf("append: %v", errno)
	}
	if _, errno := f.Seek(0, 0); errno != 0 {
		t.Error(errno)
	}
	if _, errno := f.Write([]byte("!")); errno != 0 {
		t.Error(errno)
	}
	if errno := f.Truncate(5); errno != 0 {
		t.Error(errno)
	}
	if errno := f.Utimens(1e9, 2e9); errno != 0 {
		t.Error(errno)
	}
	st, errno := f.Stat()
	if errno != 0 || st.Size != 5 || st.Mode != 0o640 || st.Atim != 1e9 || st.Mtim != 2e9 || st.Nlink != 1 {
		t.Errorf("stat: %+v, %v", st, errno)
	}
	if errno := f.Close(); errno != 0 {
		t.Error(errno)
	}
	if errno := f.Close(); errno != 0 {
		t.Errorf("closed twice: %v", errno)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "sub/new")); string(got) != "Jello" || err != nil {
		t.Errorf("the file has %q, %v", got, err)
	}
	for _, change := range []sys.Errno{
		d.Utimens("sub/new", sys.UTIME_OMIT, 3e9), d.Rename("sub/new", "renamed"), d.Link("renamed", "linked"), d.Symlink("linked", "symbolic"),
	} {
		if change != 0 {
			t.Error(change)
		}
	}
	if target, errno := d.Readlink("symbolic"); target != "linked" || errno != 0 {
		t.Errorf("readlink: %q, %v", target, errno)
	}
	if st, errno := d.Stat("symbolic"); errno != 0 || !st.Mode.IsRegular() || st.Mtim != 3e9 {
		t.Errorf("stat: %+v, %v", st, errno)
	}
	if st, errno := d.Lstat("symbolic"); errno != 0 || st.Mode.Type() != fs.ModeSymlink {
		t.Errorf("lstat: %+v, %v", st, errno)
	}
	if errno := d.Unlink("sub"); errno != sys.EISDIR {
		t.Errorf("unlink of a directory: %v", errno)
	}
	if errno := d.Rmdir("sub"); errno != sys.ENOTEMPTY {
		t.Errorf("rmdir of a full directory: %v", errno)
	}
	if errno := failure(d.OpenFile("symbolic", sys.O_RDONLY|sys.O_NOFOLLOW, 0)); errno != sys.ELOOP {
		t.Errorf("open of a link, not followed: %v", errno)
	}
	if errno := failure(d.OpenFile("file", sys.O_RDONLY|sys.O_DIRECTORY, 0)); errno != sys.ENOTDIR {
		t.Errorf("open of a file as directory: %v", errno)
	}
}

// A directory of any size is read in pieces of any size, each entry once, and again from its beginning.
func TestReaddir(t *testing.T) {
	d, dir, _ := world(t, false)
	var want []string
	for i := range 700 {
		name := "file-with-a-name-of-some-length-" + string(rune('a'+i%26)) + strings.Repeat("x", i/26)
		if err := os.WriteFile(filepath.Join(dir, "sub", name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		want = append(want, name)
	}
	want = append(want, "deep")
	slices.Sort(want)
	f, errno := d.OpenFile("sub", sys.O_RDONLY|sys.O_DIRECTORY, 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	defer f.Close()
	for _, size := range []int{1, 7, 100, 10000, -1} {
		var got []string
		for {
			entries, errno := f.Readdir(size)
			if errno != 0 {
				t.Fatal(errno)
			}
			for _, e := range entries {
				got = append(got, e.Name)
				if (e.Type == fs.ModeDir) != (e.Name == "deep") || e.Ino == 0 {
					t.Errorf("%+v", e)
				}
			}
			if size < 0 || len(entries) < size {
				break
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("in pieces of %d there are %d entries, want %d", size, len(got), len(want))
		}
		if _, errno := f.Seek(0, 0); errno != 0 {
			t.Error(errno)
		}
	}
	if n, errno := f.Read(make([]byte, 1)); errno != sys.EISDIR {
		t.Errorf("read of a directory: %d, %v", n, errno)
	}
	if _, errno := f.Seek(1, 0); errno != sys.EINVAL {
		t.Errorf("seek in a directory: %v", errno)
	}
}
