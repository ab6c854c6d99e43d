package wasm

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/shimwright/shimwright/internal/testkit"
)

// empty is (module (func (export "_start"))), made another module by a custom section with a name.
func empty(name string) []byte {
	const module = "\x00asm\x01\x00\x00\x00\x01\x04\x01\x60\x00\x00\x03\x02\x01\x00\x07\x0a\x01\x06_start\x00\x00\x0a\x04\x01\x02\x00\x0b"
	return append([]byte(module), append([]byte{0, byte(len(name) + 1), byte(len(name))}, name...)...)
}

func write(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// log counts what a cache says.
type log struct {
	mu    sync.Mutex
	lines []string
	t     *testing.T
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(p))
	return len(p), nil
}

func (l *log) count(what string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if strings.Contains(line, what) {
			n++
		}
	}
	return n
}

func newCache(t *testing.T, dir string) (*Cache, *log) {
	t.Helper()
	testkit.RequireRoot(t)
	l := &log{t: t}
	t.Cleanup(func() { t.Logf("%s", l.lines) })
	return &Cache{Dir: dir, Log: slog.New(slog.NewTextHandler(l, nil))}, l
}

func request(t *testing.T, path string) Request {
	f, err := os.Open(path) // closed by its Run
	if err != nil {
		t.Fatal(err)
	}
	return Request{Program: &Program{Path: path, Function: Start, File: f}, Args: []string{path}, Cwd: "/", Preopens: []Preopen{{Path: "/"}}}
}

// Many first starts of one module, in caches of their own as many shims have them, compile it once.
func TestCompiledOnce(t *testing.T) {
	dir, path := filepath.Join(t.TempDir(), "cache"), write(t, "m.wasm", empty("once"))
	c, l := newCache(t, dir)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			mine := *c
			compiled, err := mine.Get(t.Context(), open(t, path))
			if err != nil {
				t.Error(err)
				return
			}
			defer compiled.Close()
			if compiled.Dir == nil || compiled.entry == "" {
				t.Error("not kept")
			}
		})
	}
	wg.Wait()
	if n := l.count("msg=compiled"); n != 1 {
		t.Errorf("compiled %d times", n)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the cache lets in others: %v, %v", info.Mode(), err)
	}
}

// A view of an entry shows that entry to every user, and lets nobody change it, not even root.
func TestViewIsReadOnly(t *testing.T) {
	c, _ := newCache(t, filepath.Join(t.TempDir(), "cache"))
	compiled, err := c.Get(t.Context(), open(t, write(t, "m.wasm", empty("view"))))
	if err != nil {
		t.Fatal(err)
	}
	defer compiled.Close()
	at := fmt.Sprintf("/proc/self/fd/%d/.", compiled.Dir.Fd())
	files := 0
	err = filepath.WalkDir(at, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if want := fs.FileMode(0o004); err != nil || info.Mode()&want == 0 {
			t.Errorf("%s cannot be read by all: %v", path, info.Mode())
		}
		if d.Type().IsRegular() {
			files++
			if f, err := os.OpenFile(path, os.O_WRONLY, 0); !errors.Is(err, unix.EROFS) {
				t.Errorf("%s can be written: %v", path, err)
				f.Close()
			}
		}
		return nil
	})
	if err != nil || files < 2 {
		t.Errorf("%d files, %v", files, err)
	}
	if err := os.WriteFile(at+"/new", nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("something can be added: %v", err)
	}
}

// What the cache holds is torn: it is made anew, and the module runs.
func TestTornEntryHeals(t *testing.T) {
	dir, path := filepath.Join(t.TempDir(), "cache"), write(t, "m.wasm", empty("torn"))
	c, l := newCache(t, dir)
	play(t, c, request(t, path), "")
	for name, damage := range map[string]func(path string) error{
		"truncated": func(path string) error { return os.Truncate(path, 7) },
		"empty":     func(path string) error { return os.Truncate(path, 0) },
		"garbage":   func(path string) error { return os.WriteFile(path, []byte(strings.Repeat("\xff", 4096)), 0o644) },
		"gone":      os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			compiled := l.count("msg=compiled")
			damaged := 0
			err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.Type().IsRegular() && d.Name() != doneFile {
					damaged++
					return damage(path)
				}
				return err
			})
			if err != nil || damaged != 1 {
				t.Fatalf("%d files damaged, %v", damaged, err)
			}
			if _, errs, status := play(t, c, request(t, path), ""); status != 0 || errs != "" {
				t.Errorf("status %d, %q", status, errs)
			}
			if n := l.count("msg=compiled") - compiled; n != 1 {
				t.Errorf("compiled %d times", n)
			}
			if _, errs, status := play(t, c, request(t, path), ""); status != 0 || errs != "" || l.count("msg=compiled")-compiled != 1 {
				t.Errorf("again: status %d, %q", status, errs)
			}
		})
	}
}

// A cache that cannot be used costs time, not tasks.
func TestWithoutCache(t *testing.T) {
	testkit.RequireRoot(t)
	testkit.NoLeaks(t)
	file := write(t, "file", nil)
	full := t.TempDir()
	if err := unix.Mount("tmpfs", full, "tmpfs", 0, "size=4k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(full, 0); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(full, "fill"), make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	readOnly := t.TempDir()
	if err := unix.Mount("tmpfs", readOnly, "tmpfs", unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(readOnly, 0); err != nil {
			t.Error(err)
		}
	})
	for name, dir := range map[string]string{"no directory": file + "/cache", "full": full + "/cache", "read-only": readOnly + "/cache"} {
		t.Run(name, func(t *testing.T) {
			c, l := newCache(t, dir)
			if _, errs, status := play(t, c, request(t, write(t, "m.wasm", empty(name))), ""); status != 0 || errs != "" {
				t.Errorf("status %d, %q", status, errs)
			}
			if l.count("is the disk full") != 1 || l.count("compiled by its own task") != 0 {
				t.Error("nobody was told, or it was not compiled outside")
			}
		})
	}
}

// The cache is bounded: what was not used for longest goes, what is in use stays.
func TestCacheIsBounded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	c, _ := newCache(t, dir)
	first := write(t, "first.wasm", empty("first"))
	get := func(path string) {
		t.Helper()
		compiled, err := c.Get(t.Context(), open(t, path))
		if err != nil {
			t.Fatal(err)
		}
		compiled.Close()
	}
	get(first)
	_, one := c.list()
	c.Size = 3 * one
	for i := range 6 {
		get(write(t, "m.wasm", empty(fmt.Sprintf("number %d", i))))
		time.Sleep(10 * time.Millisecond) // the order is that of times in the file system
		get(first)
	}
	entries, total := c.list()
	if len(entries) > 3 || total > c.Size {
		t.Errorf("%d entries with %d bytes, at most %d were asked for", len(entries), total, c.Size)
	}
	if kept := entries[len(entries)-1]; !strings.Contains(kept.path, hash(t, first)) {
		t.Errorf("what was used last has gone; %s is there", kept.path)
	}
}

func hash(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(data))
}

// A module that cannot be compiled is the caller's error, leaves nothing, and is not tried again in memory.
func TestBadModule(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	c, l := newCache(t, dir)
	_, err := c.Get(t.Context(), open(t, write(t, "bad.wasm", []byte("\x00asm\x01\x00\x00\x00\xff\xff"))))
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("%v", err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) > 0 || l.count("WARN") > 0 {
		t.Errorf("left: %v", entries)
	}
}

// A compilation can be given up.
func TestGiveUp(t *testing.T) {
	c, _ := newCache(t, filepath.Join(t.TempDir(), "cache"))
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	cancel(gone)
	if _, err := c.Get(ctx, open(t, write(t, "m.wasm", empty("given up")))); !errors.Is(err, gone) && !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
