package socket_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/shimwright/shimwright/internal/socket"
	"golang.org/x/sys/unix"
)

func TestAddress(t *testing.T) {
	const daemon = "/run/containerd/containerd.sock"
	got, err := socket.Address(socket.DefaultDir, daemon, "default", "redis")
	// sha256 of /run/containerd/containerd.sock/default/redis, as sha256sum has it
	if want := "unix:///run/containerd/s/f6b99128c07bdbd0902363ba979c22f8ef053e683a7ce24dd016a1ab17092c33"; got != want || err != nil {
		t.Errorf("got  %s, %v\nwant %s", got, err, want)
	}
	debug, err := socket.DebugAddress(socket.DefaultDir, daemon, "default", "redis")
	if debug == got || err != nil {
		t.Errorf("debug: %s, %v", debug, err)
	}
	if same, _ := socket.Address(socket.DefaultDir, daemon, "default", "redis/debug"); same != debug {
		t.Errorf("debug: got %s, want %s", debug, same)
	}
	if _, err := socket.Address("/"+strings.Repeat("d", 40), daemon, "default", "redis"); err != nil {
		t.Errorf("106 bytes: %v", err)
	}
	_, err = socket.Address("/"+strings.Repeat("d", 41), daemon, "default", "redis")
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "shorter") {
		t.Errorf("107 bytes: %v", err)
	}
}

func TestPath(t *testing.T) {
	if path, err := socket.Path("unix:///a/b"); path != "/a/b" || err != nil {
		t.Errorf("got %q, %v", path, err)
	}
	for _, address := range []string{"", "/a/b", "unix://", "unix://a/b", "unix://\x00abstract", "\x00abstract", "@abstract", "unix:///a\x00b", "vsock://1:2"} {
		if _, err := socket.Path(address); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", address, err)
		}
	}
}

func TestListenModesWhateverTheUmask(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o277} {
		top := t.TempDir()
		dir := filepath.Join(top, "run", "s")
		old := syscall.Umask(umask)
		s, err := socket.Listen("unix://" + dir + "/x")
		syscall.Umask(old)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for path, want := range map[string]fs.FileMode{
			filepath.Join(top, "run"): fs.ModeDir | 0o711,
			dir:                       fs.ModeDir | 0o700,
			dir + "/x":                fs.ModeSocket | 0o600,
		} {
			info, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode() != want {
				t.Errorf("umask %#o: %s has mode %s, want %s", umask, path, info.Mode(), want)
			}
		}
	}
}

func TestListenLeavesAnExistingDirectoryAsItIs(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	defer listen(t, "unix://"+dir+"/x").Close()
	if info, _ := os.Stat(dir); info.Mode().Perm() != 0o755 {
		t.Errorf("mode %s", info.Mode())
	}
}

func TestListensAtOnceEndWithOne(t *testing.T) {
	for range 50 {
		address := "unix://" + filepath.Join(t.TempDir(), "s", "x")
		var (
			start, done sync.WaitGroup
			won, lost   atomic.Int32
		)
		start.Add(1)
		for range 8 {
			done.Go(func() {
				start.Wait()
				s, err := socket.Listen(address)
				switch {
				case err == nil:
					won.Add(1)
					t.Cleanup(func() { s.Close() })
				case errdefs.IsAlreadyExists(err):
					lost.Add(1)
					connect(t, address) // at once, not later
				default:
					t.Error(err)
				}
			})
		}
		start.Done()
		done.Wait()
		if won.Load() != 1 || lost.Load() != 7 {
			t.Fatalf("%d made the socket, %d found it", won.Load(), lost.Load())
		}
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	address := "unix://" + filepath.Join(t.TempDir(), "x")
	listen(t, address).Close()
	s := listen(t, address)
	defer s.Close()
	connect(t, address)
}

func TestListenNoticesAListenerWhoseQueueIsFull(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := socket.Listen("unix://" + path); !errdefs.IsAlreadyExists(err) {
			t.Errorf("got %v", err)
		}
	}
}

func TestWhatIsNoSocketIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := socket.Listen("unix://" + path); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Listen: %v", err)
	}
	if err := socket.RemoveStale("unix://" + path); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("RemoveStale: %v", err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

func TestRemove(t *testing.T) {
	dir := t.TempDir()
	address := "unix://" + dir + "/x"
	s := listen(t, address)
	defer s.Close()
	for range 2 {
		if err := s.Remove(); err != nil {
			t.Fatal(err)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}

	another := listen(t, address)
	defer another.Close()
	if err := s.Remove(); err != nil {
		t.Fatal(err)
	}
	connect(t, address)

	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := another.Remove(); err != nil {
		t.Errorf("without a directory: %v", err)
	}
}

func TestRemoveStale(t *testing.T) {
	dir := t.TempDir()
	address := "unix://" + dir + "/x"
	s := listen(t, address)
	if err := socket.RemoveStale(address); err != nil {
		t.Fatal(err)
	}
	connect(t, address)
	s.Close()
	for range 2 {
		if err := socket.RemoveStale(address); err != nil {
			t.Fatal(err)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if err := socket.RemoveStale("unix:///nowhere/at/all"); err != nil {
		t.Errorf("without a directory: %v", err)
	}
}

// TestHandOver takes the way of a shim's start: the helper listens, its child inherits, the helper goes away.
func TestHandOver(t *testing.T) {
	dir := t.TempDir()
	address := "unix://" + dir + "/x"
	helper := listen(t, address)
	f, err := helper.File()
	if err != nil {
		t.Fatal(err)
	}
	server, err := socket.Inherit(f)
	if err != nil {
		t.Fatal(err)
	}
	helper.Close()
	if server.Address() != address {
		t.Errorf("address %s, want %s", server.Address(), address)
	}
	connect(t, address)
	if conn, err := server.Listener().Accept(); err != nil {
		t.Error(err)
	} else {
		conn.Close()
	}
	if err := server.Remove(); err != nil {
		t.Error(err)
	}
	server.Close()
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestInheritRefuses(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := socket.Inherit(null); !errdefs.IsInvalidArgument(err) {
		t.Errorf("/dev/null: %v", err)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	f, _ := tcp.(*net.TCPListener).File()
	if _, err := socket.Inherit(f); !errdefs.IsInvalidArgument(err) {
		t.Errorf("tcp: %v", err)
	}
	gone := listen(t, "unix://"+t.TempDir()+"/x")
	defer gone.Close()
	f, _ = gone.File()
	if err := gone.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := socket.Inherit(f); !errdefs.IsNotFound(err) {
		t.Errorf("removed: %v", err)
	}
}

// TestComeAndGo hammers one address with owners that come and go: at no time are there two.
func TestComeAndGo(t *testing.T) {
	address := "unix://" + filepath.Join(t.TempDir(), "x")
	var (
		owners atomic.Int32
		all    sync.WaitGroup
	)
	for range 8 {
		all.Go(func() {
			for range 100 {
				s, err := socket.Listen(address)
				if errdefs.IsAlreadyExists(err) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if n := owners.Add(1); n != 1 {
					t.Errorf("%d owners", n)
				}
				if err := socket.RemoveStale(address); err != nil {
					t.Error(err)
				}
				connect(t, address)
				owners.Add(-1)
				if err := s.Remove(); err != nil {
					t.Error(err)
				}
				s.Close()
			}
		})
	}
	all.Wait()
}

func listen(t *testing.T, address string) *socket.Socket {
	t.Helper()
	s, err := socket.Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func connect(t *testing.T, address string) {
	t.Helper()
	conn, err := net.Dial("unix", strings.TrimPrefix(address, "unix://"))
	if err != nil {
		t.Error(err)
		return
	}
	conn.Close()
}

// However often a socket is removed, and also when its listener is closed: never its successor, which on some file
// systems gets the same inode number at once.
func TestRemoveSparesTheSuccessor(t *testing.T) {
	address := "unix://" + filepath.Join(t.TempDir(), "s", "a")
	for range 50 {
		old, err := socket.Listen(address)
		if err != nil {
			t.Fatal(err)
		}
		if err := old.Remove(); err != nil {
			t.Fatal(err)
		}
		old.Listener().Close()
		next, err := socket.Listen(address)
		if err != nil {
			t.Fatal(err)
		}
		if err := old.Remove(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(strings.TrimPrefix(address, "unix://")); err != nil {
			t.Fatal("the successor's socket was removed:", err)
		}
		if err := errors.Join(next.Remove(), next.Close()); err != nil {
			t.Fatal(err)
		}
		old.Close()
	}
}
