package wasm

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// DefaultCache is where compiled modules are kept.
const DefaultCache = "/var/lib/shimwright/wasm"

// DefaultCacheSize bounds what is kept, in bytes.
const DefaultCacheSize = 4 << 30

// doneFile is in the directory of a module that has been compiled.
const doneFile = "done"

// Cache keeps compiled modules, each compiled once for all shims of the machine. Whoever can write there owns every
// task, since what it holds is executed: it lets in nobody but root, and a runner gets a read-only view of its own
// module's entry.
type Cache struct {
	Dir     string // empty: DefaultCache
	Size    int64  // bytes; 0: DefaultCacheSize
	Workers int    // threads of a compilation; 0: one for each processor
	Log     *slog.Logger
}

// Compiled is a view of a compiled module: a directory that no name leads to, and nothing can be written to.
type Compiled struct {
	Dir   *os.File // nil: there is none, the runner compiles for itself
	entry string   // where it is kept; empty: nowhere
}

// Close frees the view.
func (c *Compiled) Close() {
	if c.Dir != nil {
		c.Dir.Close()
	}
}

// Get returns the compiled form of a module, compiling it if nobody has. When the cache cannot be used, a full disk for
// one, it is compiled into memory. ErrInvalidArgument: the module cannot be compiled.
func (c *Cache) Get(ctx context.Context, module *os.File) (*Compiled, error) {
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(module, 0, maxModule)); err != nil {
		return nil, fmt.Errorf("read the module: %w", err)
	}
	dir := c.dir()
	entry := filepath.Join(dir, fmt.Sprintf("%x", sum.Sum(nil)))
	compiled, err := c.keep(ctx, entry, module)
	if err == nil || errors.Is(err, errdefs.ErrInvalidArgument) || ctx.Err() != nil {
		return compiled, err
	}
	c.Log.Warn("compiled module not kept: is the disk full, or read-only?", "cache", dir, "err", err)
	memory, err := inMemory()
	if err == nil {
		if err = compile(ctx, module, memory, c.workers()); err == nil {
			return &Compiled{Dir: memory}, seal(memory)
		}
		memory.Close()
	}
	if errors.Is(err, errdefs.ErrInvalidArgument) || ctx.Err() != nil {
		return nil, err
	}
	c.Log.Warn("module is compiled by its own task", "err", err)
	return &Compiled{}, nil
}

// Drop removes an entry that turned out to be of no use.
func (c *Cache) Drop(compiled *Compiled) {
	if compiled.entry == "" {
		return
	}
	if lock, err := lockEntry(compiled.entry); err == nil {
		defer lock.Close()
		_ = os.RemoveAll(compiled.entry)
	}
}

func (c *Cache) dir() string {
	if c.Dir != "" {
		return c.Dir
	}
	return DefaultCache
}

func (c *Cache) workers() int {
	if c.Workers > 0 {
		return c.Workers
	}
	return runtime.NumCPU()
}

// keep finds a module's entry, or makes it. Whoever comes meanwhile waits.
func (c *Cache) keep(ctx context.Context, entry string, module *os.File) (*Compiled, error) {
	if err := os.MkdirAll(filepath.Dir(entry), 0o700); err != nil {
		return nil, err
	}
	if err := os.Chmod(filepath.Dir(entry), 0o700); err != nil {
		return nil, err
	}
	lock, err := lockEntry(entry)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	done := filepath.Join(entry, doneFile)
	if _, err := os.Stat(done); err == nil {
		now := time.Now()
		_ = os.Chtimes(entry, now, now) // used last
		return view(lock, entry)
	}
	began := time.Now()
	c.Log.Info("compiling a module for its first start", "entry", filepath.Base(entry))
	if err := compile(ctx, module, lock, c.workers()); err != nil {
		_ = os.RemoveAll(entry)
		return nil, err
	}
	if err := os.WriteFile(done, nil, 0o644); err != nil {
		_ = os.RemoveAll(entry)
		return nil, err
	}
	c.Log.Info("compiled", "entry", filepath.Base(entry), "took", time.Since(began))
	c.prune(entry)
	return view(lock, entry)
}

// lockEntry makes an entry's directory if there is none, and locks it. A lock on one that was removed meanwhile is none.
func lockEntry(entry string) (*os.File, error) {
	for {
		if err := os.Mkdir(entry, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		f, err := os.Open(entry)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for err = unix.EINTR; errors.Is(err, unix.EINTR); {
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		}
		if err == nil && same(f, entry) {
			return f, nil
		}
		f.Close()
		if err != nil {
			return nil, os.NewSyscallError("flock", err)
		}
	}
}

func same(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

// view is a read-only mount of an entry that is nowhere in the file tree.
func view(entry *os.File, path string) (*Compiled, error) {
	fd, err := unix.OpenTree(int(entry.Fd()), "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("open_tree", err)
	}
	dir := os.NewFile(uintptr(fd), path)
	if err := seal(dir); err != nil {
		dir.Close()
		return nil, err
	}
	return &Compiled{Dir: dir, entry: path}, nil
}

// inMemory is a file system that lives as long as somebody has it open.
func inMemory() (*os.File, error) {
	conf, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(conf)
	if err := unix.FsconfigSetString(conf, "mode", "0755"); err != nil {
		return nil, os.NewSyscallError("fsconfig", err)
	}
	if err := unix.FsconfigCreate(conf); err != nil {
		return nil, os.NewSyscallError("fsconfig", err)
	}
	fd, err := unix.Fsmount(conf, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID)
	if err != nil {
		return nil, os.NewSyscallError("fsmount", err)
	}
	return os.NewFile(uintptr(fd), "compiled"), nil
}

// seal makes a mount read-only, for everybody.
func seal(mount *os.File) error {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID}
	return os.NewSyscallError("mount_setattr", unix.MountSetattr(int(mount.Fd()), "", unix.AT_EMPTY_PATH, &attr))
}

// prune removes the entries that were not used for longest, until the cache is as small as it should be. It leaves
// keep alone, and what somebody is at.
func (c *Cache) prune(keep string) {
	limit := c.Size
	if limit <= 0 {
		limit = DefaultCacheSize
	}
	entries, total := c.list()
	for _, e := range entries {
		if total <= limit {
			return
		}
		if e.path == keep {
			continue
		}
		f, err := os.Open(e.path)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil && os.RemoveAll(e.path) == nil {
			total -= e.size
			c.Log.Info("compiled module removed: the cache is full", "entry", filepath.Base(e.path), "last used", e.used)
		}
		f.Close()
	}
}

// An entry of the cache, as prune sees it.
type entry struct {
	path string
	size int64 // bytes
	used time.Time
}

// list is what the cache holds, what was not used for longest first, and how much that is in bytes.
func (c *Cache) list() (entries []entry, total int64) {
	dirs, _ := os.ReadDir(c.dir()) // nothing: nothing to remove
	for _, d := range dirs {
		e := entry{path: filepath.Join(c.dir(), d.Name())}
		info, err := d.Info()
		if err != nil {
			continue
		}
		e.used = info.ModTime()
		_ = filepath.WalkDir(e.path, func(_ string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				if info, err := d.Info(); err == nil {
					e.size += info.Size()
				}
			}
			return nil
		})
		entries, total = append(entries, e), total+e.size
	}
	slices.SortFunc(entries, func(a, b entry) int { return a.used.Compare(b.used) })
	return entries, total
}
