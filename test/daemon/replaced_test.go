package daemon_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/shimwright/shimwright/internal/testkit"
)

// The shim's binary is replaced while containers run, containerd's by this project's and the other way round. Those that
// run keep theirs; what comes after them has the new one, also the delete of a shim of the other kind.
func TestShimReplaced(t *testing.T) {
	theirs, err := exec.LookPath(shim)
	if err != nil {
		testkit.Missing(t, "needs containerd's shim in PATH (make deps): %v", err)
	}
	if _, err := exec.LookPath("runc"); err != nil {
		testkit.Missing(t, "needs runc in PATH (make deps): %v", err)
	}
	ours := testkit.Build(t, "./cmd/"+shim)
	for _, test := range []struct{ name, before, after string }{
		{"theirs by ours", theirs, ours},
		{"ours by theirs", ours, theirs},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newDaemonOf(t, releases[len(releases)-1], "info") // the one that containerd's shim comes with
			d.stop(syscall.SIGTERM)
			d.shim = d.path("bin/" + shim)
			d.install(test.before)
			d.start()

			group := []string{"--detach", "--null-io", "--annotation", "io.containerd.runc.v2.group=pod"}
			d.ok(d.rootfsRun(group, "pod", "sleep", "1000")...)
			d.detached("stays", obedient("stays", 5)...)
			d.detached("exited", obedient("exited", 7)...)
			d.detached("killed", "sleep", "1000")
			d.execDetached("killed", "child", "sh", "-c", "setsid sleep 1000 & sleep 1000")
			for _, name := range []string{"stays", "exited"} {
				d.awaitReady(name)
			}
			d.install(test.after)
			d.stop(syscall.SIGKILL)
			d.start()
			w := d.watch()

			d.want("exec in a container of the old shim", d.exec("stays", "e", "sh", "-c", "echo alive; exit 3"), result{"alive\n", "", 3})
			d.detached("new", "sleep", "1000")
			if got := readlink(d.shimOf("new"), "exe"); got != d.shim {
				t.Errorf("the shim of a new container is %s, want %s", got, d.shim)
			}
			d.ok(d.rootfsRun(group, "joined", "sleep", "1000")...)
			if got, want := d.shimOf("joined"), d.shimOf("pod"); got != want {
				t.Errorf("the shim of a container that joined a pod is %d, that of the pod is %d", got, want)
			}

			leaky := []string{d.socket("killed"), d.socket("exited")}
			signal(t, d.shimOf("killed"), syscall.SIGKILL)
			w.expect("killed", "exit(137)", "delete(137)")
			d.ok("container", "rm", "killed")

			exited := d.shimOf("exited")
			d.kill("exited", "SIGTERM")
			w.await("exited", "exit(7)")
			testkit.Await(t, patience, "the note of the exit", func() bool { // containerd's shim tells first and notes then
				_, err := os.Stat(filepath.Join(d.bundle("exited"), "exit.json"))
				return err == nil
			})
			signal(t, exited, syscall.SIGKILL)
			w.expect("exited", "exit(7)", "exit(7)", "delete(7)")
			d.ok("container", "rm", "exited")
			for _, path := range leaky {
				if err := os.Remove(path); test.after == ours && !os.IsNotExist(err) {
					t.Errorf("the socket of a shim that was killed is left: %v", err) // as containerd's delete leaves it
				}
			}

			d.kill("stays", "SIGTERM")
			w.await("stays", "exit(5)")
			d.awaitStatus("stays", "STOPPED")
			if got := d.remove("stays"); got != 5 {
				t.Errorf("the container that stayed ended with %d, want 5", got)
			}
			for _, id := range []string{"new", "joined", "pod"} {
				d.end(id)
			}
		})
	}
}

// socket is where the shim of a container listens.
func (d *daemon) socket(id string) string {
	d.t.Helper()
	data, err := os.ReadFile(filepath.Join(d.bundle(id), "bootstrap.json"))
	var answer struct{ Address string }
	if err == nil {
		err = json.Unmarshal(data, &answer)
	}
	if err != nil {
		d.t.Fatal(err)
	}
	return strings.TrimPrefix(answer.Address, "unix://")
}

// install puts the binary where the daemon looks for shims, at once.
func (d *daemon) install(binary string) {
	d.t.Helper()
	data, err := os.ReadFile(binary)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(d.shim), 0o755)
	}
	if err == nil {
		err = os.WriteFile(d.shim+".new", data, 0o755)
	}
	if err == nil {
		err = os.Rename(d.shim+".new", d.shim)
	}
	if err != nil {
		d.t.Fatal(err)
	}
}
