package testkit

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// RequireRoot is called first by a test that mounts, makes cgroups or starts containers: it skips the
// test without root and CAP_SYS_ADMIN (see [Missing]), and with SHIMWRIGHT_SKIP_ROOT=1 in the environment.
//
// Such tests change the whole machine, and [NoLeaks] looks at all of it. So test processes take turns with
// either, test by test, on a lock that each test holds until its clean-up is done; tests of one process
// share it. A test binary that runs itself again must not call them in the child.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Getenv("SHIMWRIGHT_SKIP_ROOT") == "1" {
		Missing(t, "SHIMWRIGHT_SKIP_ROOT=1")
	}
	if os.Geteuid() != 0 {
		Missing(t, "needs root")
	}
	if !capable(unix.CAP_SYS_ADMIN) {
		Missing(t, "needs CAP_SYS_ADMIN")
	}
	takeTurn(t)
}

// takeTurn waits until no other test process has the machine, and holds it until the test's clean-up is done.
func takeTurn(t testing.TB) {
	t.Helper()
	if err := machine.lock(); err != nil {
		t.Fatalf("lock %s: %v", machine.path, err)
	}
	t.Cleanup(machine.unlock)
}

// capable tells whether the capability is in this process's effective set.
func capable(capability int) bool {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(status)) {
		if set, ok := strings.CutPrefix(line, "CapEff:"); ok {
			bits, err := strconv.ParseUint(strings.TrimSpace(set), 16, 64)
			return err == nil && bits&(1<<capability) != 0
		}
	}
	return false
}

// machine is held by the one process whose tests may change the machine. A directory is locked, so
// that no lock file is left.
var machine = turns{path: "/run"}

type turns struct {
	path string

	mu      sync.Mutex // held while waiting for the turn, so that only one waits
	holders int
	dir     *os.File
}

func (l *turns) lock() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.holders == 0 {
		dir, err := os.Open(l.path)
		if err != nil {
			return err
		}
		if err := flock(dir); err != nil {
			dir.Close()
			return err
		}
		l.dir = dir
	}
	l.holders++
	return nil
}

func (l *turns) unlock() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.holders--; l.holders == 0 {
		l.dir.Close()
	}
}

func flock(f *os.File) error {
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != unix.EINTR {
			return err
		}
	}
}
