package bundle_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/shimwright/shimwright/internal/bundle"
	"github.com/shimwright/shimwright/internal/testkit"
	"github.com/shimwright/shimwright/task"
)

func TestWriteFileIsPrivateWhateverTheUmask(t *testing.T) {
	dir := t.TempDir()
	for _, umask := range []int{0, 0o022, 0o777} {
		old := syscall.Umask(umask)
		err := bundle.WriteFile(dir, "x", []byte("secret"))
		syscall.Umask(old)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(dir, "x"))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != 0o600 {
			t.Errorf("umask %#o: mode %#o, want 0600", umask, got)
		}
	}
}

func TestWriteFileReplacesALink(t *testing.T) {
	dir, other := t.TempDir(), filepath.Join(t.TempDir(), "other")
	write(t, filepath.Dir(other), "other", "untouched")
	if err := os.Symlink(other, filepath.Join(dir, "x")); err != nil {
		t.Fatal(err)
	}
	if err := bundle.WriteFile(dir, "x", []byte("new")); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(other); string(got) != "untouched" {
		t.Errorf("the link's target holds %q", got)
	}
}

func TestWriteFileLeavesNothingOnError(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "x", "full"), 0o700); err != nil { // rename onto it fails
		t.Fatal(err)
	}
	if err := bundle.WriteFile(dir, "x", nil); err == nil {
		t.Fatal("no error")
	}
	if names := list(t, dir); !cmp.Equal(names, []string{"x"}) {
		t.Errorf("left: %q", names)
	}
}

func TestReadersSeeWholeFiles(t *testing.T) {
	dir := t.TempDir()
	a, b := task.Exit{Status: 1, At: time.Unix(1, 0)}, task.Exit{Status: 222, At: time.Unix(2, 123456789)}
	if err := bundle.WriteExit(dir, 1, a); err != nil {
		t.Fatal(err)
	}
	var writers sync.WaitGroup
	for _, e := range []task.Exit{a, b} {
		writers.Go(func() {
			for range 200 {
				if err := bundle.WriteExit(dir, e.Status, e); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 500 {
		pid, e, err := bundle.ReadExit(dir)
		if err != nil || pid != e.Status {
			t.Fatalf("pid %d, %+v, %v", pid, e, err)
		}
	}
	writers.Wait()
	if names := list(t, dir); !cmp.Equal(names, []string{bundle.ExitFile}) {
		t.Errorf("left: %q", names)
	}
}

func TestExitWireForm(t *testing.T) {
	dir := t.TempDir()
	at := time.Date(2026, 9, 1, 10, 0, 0, 123456789, time.FixedZone("somewhere", 7200))
	if err := bundle.WriteExit(dir, 4711, task.Exit{Status: 7, At: at}); err != nil {
		t.Fatal(err)
	}
	const want = `{"Timestamp":"2026-09-01T08:00:00.123456789Z","Pid":4711,"Status":7}`
	if got := read(t, dir, bundle.ExitFile); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	pid, e, err := bundle.ReadExit(dir)
	if err != nil || pid != 4711 || e.Status != 7 || !e.At.Equal(at) {
		t.Errorf("read %d, %+v, %v", pid, e, err)
	}
}

func TestReadExit(t *testing.T) {
	for _, test := range []struct {
		name, data string
		want       error
	}{
		{"containerd's", `{"Timestamp":"2026-09-01T08:00:00.5+02:00","Pid":1,"Status":137}` + "\n", nil},
		{"empty", ``, errdefs.ErrInvalidArgument},
		{"torn", `{"Timestamp":"2026-09-01T08:00:00Z","Pid":47`, errdefs.ErrInvalidArgument},
		{"no time", `{"Pid":1,"Status":1}`, errdefs.ErrInvalidArgument},
		{"negative pid", `{"Timestamp":"2026-09-01T08:00:00Z","Pid":-1,"Status":0}`, errdefs.ErrInvalidArgument},
		{"status too large", `{"Timestamp":"2026-09-01T08:00:00Z","Pid":1,"Status":256}`, errdefs.ErrInvalidArgument},
		{"null", `null`, errdefs.ErrInvalidArgument},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, bundle.ExitFile, test.data)
			if _, _, err := bundle.ReadExit(dir); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
	if _, _, err := bundle.ReadExit(t.TempDir()); !errdefs.IsNotFound(err) {
		t.Errorf("missing: %v", err)
	}
}

func FuzzReadExit(f *testing.F) {
	f.Add([]byte(`{"Timestamp":"2026-09-01T08:00:00.123456789Z","Pid":4711,"Status":7}`))
	f.Add([]byte(`{"Timestamp":"9999-12-31T23:59:59.999999999-23:59","Pid":1,"Status":0}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		write(t, dir, bundle.ExitFile, string(data))
		pid, e, err := bundle.ReadExit(dir)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Fatalf("class of %v", err)
			}
			return
		}
		if err := bundle.WriteExit(dir, pid, e); err != nil {
			return // years that RFC 3339 cannot write in UTC
		}
		pid2, e2, err := bundle.ReadExit(dir)
		if err != nil || pid2 != pid || e2.Status != e.Status || !e2.At.Equal(e.At) {
			t.Fatalf("wrote %d %+v, read %d %+v, %v", pid, e, pid2, e2, err)
		}
	})
}

func TestReadSpec(t *testing.T) {
	for _, test := range []struct {
		name, data string
		wantNil    bool
		want       error
	}{
		{"a spec", `{"ociVersion":"1.2.0","process":{"args":["sh"],"cwd":"/"}}`, false, nil},
		{"an object", `{}`, false, nil},
		{"empty", ``, true, nil},
		{"null", `null`, true, nil},
		{"torn", `{"ociVersion":"1.2.0","proc`, true, errdefs.ErrInvalidArgument},
		{"wrong types", `{"process":7}`, true, errdefs.ErrInvalidArgument},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, bundle.ConfigFile, test.data)
			spec, err := bundle.ReadSpec(dir)
			if !errors.Is(err, test.want) || (spec == nil) != test.wantNil {
				t.Errorf("got %v, %v", spec, err)
			}
		})
	}
	if spec, err := bundle.ReadSpec(t.TempDir()); spec != nil || err != nil {
		t.Errorf("missing: %v, %v", spec, err)
	}
}

func TestGroup(t *testing.T) {
	for _, test := range []struct{ name, config, want string }{
		{"none", `{"ociVersion":"1.2.0"}`, ""},
		{"ours", `{"annotations":{"io.containerd.runc.v2.group":"pod"}}`, "pod"},
		{"kubernetes'", `{"annotations":{"io.kubernetes.cri.sandbox-id":"sandbox"}}`, "sandbox"},
		{"both", `{"annotations":{"io.kubernetes.cri.sandbox-id":"sandbox","io.containerd.runc.v2.group":"pod"}}`, "pod"},
		{"an empty one", `{"annotations":{"io.kubernetes.cri.sandbox-id":"sandbox","io.containerd.runc.v2.group":""}}`, "sandbox"},
		{"torn", `{"annotations":{"io.containerd.runc.v2.group":"pod"}`, ""},
		{"wrong types", `{"annotations":["io.containerd.runc.v2.group"]}`, ""},
		{"empty", ``, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, bundle.ConfigFile, test.config)
			if got := bundle.Group(dir); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	if got := bundle.Group(t.TempDir()); got != "" {
		t.Errorf("missing: %q", got)
	}
}

func TestPID(t *testing.T) {
	dir := t.TempDir()
	if _, err := bundle.ReadPID(dir); !errdefs.IsNotFound(err) {
		t.Errorf("missing: %v", err)
	}
	if err := bundle.WritePID(dir, 4711); err != nil {
		t.Fatal(err)
	}
	if got := read(t, dir, bundle.InitPIDFile); got != "4711" {
		t.Errorf("wire form %q", got)
	}
	if pid, err := bundle.ReadPID(dir); pid != 4711 || err != nil {
		t.Errorf("got %d, %v", pid, err)
	}
	for _, data := range []string{"", "0", "-1", "12x", "99999999999"} {
		write(t, dir, bundle.InitPIDFile, data)
		if _, err := bundle.ReadPID(dir); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", data, err)
		}
	}
}

func TestAddress(t *testing.T) {
	dir := t.TempDir()
	if _, err := bundle.ReadAddress(dir); !errdefs.IsNotFound(err) {
		t.Errorf("missing: %v", err)
	}
	const address = "unix:///run/containerd/s/0123"
	if err := bundle.WriteAddress(dir, address); err != nil {
		t.Fatal(err)
	}
	if got, err := bundle.ReadAddress(dir); got != address || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	for _, data := range []string{"", "/run/s", "unix://rel", "\x00abstract"} {
		write(t, dir, bundle.AddressFile, data)
		if _, err := bundle.ReadAddress(dir); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", data, err)
		}
	}
}

func TestCheckID(t *testing.T) {
	for _, id := range []string{"a", "0", "redis-1", "a.b_c-D", strings.Repeat("x", 76)} {
		if err := bundle.CheckID(id); err != nil {
			t.Errorf("%q: %v", id, err)
		}
	}
	for _, id := range []string{"", ".", "..", "../x", "a/b", ".a", "a.", "-a", "a--b", "a..b", "a b", "ä", "a\x00", strings.Repeat("x", 77)} {
		if err := bundle.CheckID(id); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func write(t *testing.T, dir, name, data string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func list(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// On a file system that is full by the time of the exit, there is room for it.
func TestExitOnAFullFileSystem(t *testing.T) {
	testkit.RequireRoot(t)
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	if err := bundle.Renew(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hog"), make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("fill the file system: %v", err)
	}
	if err := bundle.WritePID(dir, 1); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the file system is not full: %v", err)
	}
	want := task.Exit{Status: 7, At: time.Now().UTC().Truncate(0)}
	if err := bundle.WriteExit(dir, 42, want); err != nil {
		t.Fatal(err)
	}
	if pid, got, err := bundle.ReadExit(dir); err != nil || pid != 42 || got.Status != 7 || !got.At.Equal(want.At) {
		t.Errorf("read %d, %+v, %v", pid, got, err)
	}
}
