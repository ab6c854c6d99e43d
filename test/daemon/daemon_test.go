package daemon_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shimwright/shimwright/internal/testkit"
)

const (
	shim = "containerd-shim-runc-v2"

	// patience is how long anything may take that takes a second on a slow machine.
	patience = 30 * time.Second
)

// foreign is the directory of a shim that is not this project's, if the tests are to run against one.
var foreign = os.Getenv("SHIMWRIGHT_TEST_SHIM")

// A daemon is a containerd of the test's own: its directories, its socket, its namespace.
type daemon struct {
	t *testing.T
	release
	dir    string // everything that it writes, short enough for sockets
	tools  string // has containerd and ctr
	shim   string // the shim binary that it finds
	ns     string // the containerd namespace that the test uses
	rootfs string

	sockets []string // shims' sockets that were there before

	cmd *exec.Cmd // nil while it is not running
	log *os.File
}

// newDaemon starts a daemon. When the test is done the daemon is stopped, and nothing may be left of the
// containers: no process, mount, cgroup, socket, state, bundle or work directory.
func newDaemon(t *testing.T) *daemon {
	t.Helper()
	return newDaemonLogging(t, "info")
}

// newDaemonLogging starts a daemon that logs at that level. Its shims are told debug or info.
func newDaemonLogging(t *testing.T, level string) *daemon {
	t.Helper()
	return newDaemonOf(t, chosen(t), level)
}

// newDaemonOf starts a daemon of that release.
func newDaemonOf(t *testing.T, r release, level string) *daemon {
	t.Helper()
	testkit.RequireRoot(t)
	d := &daemon{t: t, release: r, tools: r.tools(t), ns: "shimwright-" + strings.ToLower(rand.Text()[:8]), sockets: sockets()}
	d.shim = filepath.Join(foreign, shim)
	if foreign == "" {
		d.shim = testkit.Build(t, "./cmd/"+shim)
	}
	t.Cleanup(d.scour)
	testkit.NoLeaks(t)
	t.Cleanup(d.removeCgroups)
	t.Cleanup(func() { _ = os.Remove("/run/containerd/runc/" + d.ns) }) // it stays when its last container goes, as with runc

	var err error
	if d.dir, err = os.MkdirTemp("", "shimwright-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(d.dir); err != nil {
			t.Error(err)
		}
	})
	config := r.config(d.path("root"), d.path("state"), d.path("containerd.sock"), level)
	if err := os.WriteFile(d.path("config.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if d.log, err = os.OpenFile(d.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.log.Close() })
	d.rootfs = testkit.Rootfs(t)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", d.complaints())
		}
	})
	d.start()
	t.Cleanup(func() {
		d.nothingLeft()
		d.stop(syscall.SIGTERM)
	})
	return d
}

func (d *daemon) path(name string) string { return filepath.Join(d.dir, name) }

// start starts the daemon and waits until it answers.
func (d *daemon) start() {
	d.t.Helper()
	d.cmd = exec.Command(filepath.Join(d.tools, "containerd"), "--config", d.path("config.toml"))
	d.cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(d.shim)+":"+os.Getenv("PATH"))
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // a test that runs out of time cleans up nothing
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	testkit.Await(d.t, patience, "the daemon's socket", func() bool {
		conn, err := net.Dial("unix", d.path("containerd.sock"))
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	d.ok("version")
}

// stop sends the daemon a signal and waits for its end.
func (d *daemon) stop(sig syscall.Signal) {
	d.t.Helper()
	if d.cmd == nil {
		return
	}
	if err := d.cmd.Process.Signal(sig); err != nil {
		d.t.Errorf("signal the daemon: %v", err)
	}
	stuck := time.AfterFunc(patience, func() { d.cmd.Process.Kill() })
	err := d.cmd.Wait()
	if !stuck.Stop() {
		d.t.Errorf("the daemon did not stop in %v", patience)
	} else if sig == syscall.SIGTERM && err != nil {
		d.t.Errorf("the daemon stopped with: %v", err)
	}
	d.cmd = nil
}

// nothingLeft checks the daemon's own record of containers.
func (d *daemon) nothingLeft() {
	d.t.Helper()
	for _, dir := range []string{"state", "root"} {
		tasks := filepath.Join(d.path(dir), "io.containerd.runtime.v2.task", d.ns)
		entries, err := os.ReadDir(tasks)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			d.t.Error(err)
		}
		for _, e := range entries {
			d.t.Errorf("left behind: %s", filepath.Join(tasks, e.Name()))
		}
	}
}

// complaints is the daemon's log without what tells of no trouble.
func (d *daemon) complaints() string {
	log, err := os.ReadFile(d.path("log"))
	if err != nil {
		return err.Error()
	}
	var lines []string
	for line := range strings.Lines(string(log)) {
		if !boring.MatchString(line) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-60):], "")
}

var boring = regexp.MustCompile(`level=(trace|debug|DEBUG)|msg="(loading plugin|skip loading plugin|connecting to shim)`)

// cgroups lists the namespace's directory in each cgroup hierarchy: the parents of its containers' cgroups.
// Nobody removes them in a daemon's life.
func (d *daemon) cgroups() []string {
	one, _ := filepath.Glob("/sys/fs/cgroup/" + d.ns)
	many, _ := filepath.Glob("/sys/fs/cgroup/*/" + d.ns)
	return append(one, many...)
}

func (d *daemon) removeCgroups() {
	for _, dir := range d.cgroups() {
		unix.Rmdir(dir)
	}
}

// scour is the last of the clean-ups, after leaks were reported: it keeps a failed test's containers from
// staying on the machine.
func (d *daemon) scour() {
	if !d.t.Failed() {
		return
	}
	left := func() (some bool) {
		for _, top := range d.cgroups() {
			filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
				if err != nil {
					return nil
				}
				switch e.Name() {
				case "cgroup.procs":
					some = killAll(path) || some
				case "freezer.state": // the frozen do not die
					os.WriteFile(path, []byte("THAWED"), 0)
				}
				return nil
			})
		}
		shims, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, path := range shims {
			if cmdline, _ := os.ReadFile(path); strings.Contains(string(cmdline), d.ns) {
				var pid int
				fmt.Sscanf(path, "/proc/%d/", &pid)
				some = unix.Kill(pid, unix.SIGKILL) == nil || some
			}
		}
		return some
	}
	for range 500 {
		if !left() {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if point := strings.Fields(line)[4]; d.dir != "" && strings.HasPrefix(point, d.dir+"/") {
			unix.Unmount(point, unix.MNT_DETACH)
		}
	}
	for range 500 { // a process just killed may still be there
		for _, top := range d.cgroups() {
			children, _ := filepath.Glob(top + "/*/")
			for _, dir := range append(children, top) {
				unix.Rmdir(dir)
			}
		}
		if len(d.cgroups()) == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	for _, path := range sockets() {
		if !slices.Contains(d.sockets, path) {
			os.Remove(path)
		}
	}
	os.RemoveAll(filepath.Join("/run/containerd/runc", d.ns))
	if d.dir != "" {
		os.RemoveAll(d.dir)
	}
}

// sockets lists the sockets of the machine's shims.
func sockets() []string {
	paths, _ := filepath.Glob("/run/containerd/s/*")
	return paths
}

// killAll kills the processes that a cgroup.procs lists and tells whether there were any.
func killAll(procs string) bool {
	list, _ := os.ReadFile(procs)
	for _, field := range strings.Fields(string(list)) {
		var pid int
		if _, err := fmt.Sscan(field, &pid); err == nil && pid > 1 {
			unix.Kill(pid, unix.SIGKILL)
		}
	}
	return len(list) > 0
}
