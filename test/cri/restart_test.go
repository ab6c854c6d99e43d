package cri_test

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimwright/shimwright/internal/testkit"
)

// Pods do not notice that the daemon dies and comes back, and it finds them as they are, with what they have printed.
func TestDaemonRestart(t *testing.T) {
	n := newNode(t)
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			p := n.pod("survivor-" + strings.ReplaceAll(sig.String(), " ", "-"))
			app := p.shell("app", "i=0; trap 'exit 0' TERM; while :; do i=$((i+1)); echo $i; sleep 0.01; done")
			mortal := p.shell("mortal", "while ! test -e /go; do sleep 0.01; done; echo last words; exit 5")
			mortal.await("true")
			app.printed("10")
			pid, root, shims := app.pid(), mortal.pid(), n.shims()
			n.stop(sig)
			// Now it ends, with nobody to tell.
			if err := unix.Mknod(fmt.Sprintf("/proc/%d/root/go", root), unix.S_IFREG|0o600, 0); err != nil {
				t.Fatal(err)
			}
			testkit.Await(t, patience, "the container has ended", func() bool { return unix.Kill(root, 0) != nil })
			n.start()

			if s := p.status().Status; s.State != cri.PodSandboxState_SANDBOX_READY {
				t.Errorf("the pod is %s", s.State)
			}
			if got := n.shims(); !slices.Equal(got, shims) {
				t.Errorf("the shims are %v, before they were %v", got, shims)
			}
			// Containerd's own shim may not tell of it any more.
			if s := mortal.exited(); s.ExitCode != 5 && foreign == "" {
				t.Errorf("the container that ended meanwhile: %v", s)
			}
			if s := app.status(); s.State != cri.ContainerState_CONTAINER_RUNNING || app.pid() != pid {
				t.Errorf("the container that did not: %v", s)
			}
			if got := app.output("echo alive"); got != "alive" {
				t.Errorf("an exec prints %q", got)
			}
			if got := app.exec(false, "exit 3").ended(); got.status != 3 {
				t.Errorf("a streaming exec: %+v", got)
			}
			count := len(app.lines(""))
			testkit.Await(t, patience, "the log goes on", func() bool { return len(app.lines("")) > count+5 })
			again := p.idle("again")
			if got := parent(t, again.pid()); !slices.Equal([]int{got}, shims) {
				t.Errorf("a new container is the child of %d, want %v", got, shims)
			}
			app.stop(10)
			if got := app.exited().ExitCode; got != 0 {
				t.Errorf("stopped, it ended with %d", got)
			}
			if lines := app.lines(""); strings.Join(lines, "\n")+"\n" != numbers(len(lines)) {
				t.Errorf("lines are missing: %q", lines)
			}
			p.remove()
		})
	}
}

// A shim that is killed takes its pod with it, and no other. The pod is told to be down, and can be removed.
func TestShimKilled(t *testing.T) {
	if foreign != "" {
		t.Skip("containerd's own shim leaves its socket")
	}
	n := newNode(t)
	p := n.pod("victim")
	app := p.idle("app")
	serving := n.shims()[0]
	other := n.pod("other").idle("app")
	if err := unix.Kill(serving, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	testkit.Await(t, patience, "the pod is not ready", func() bool {
		return p.status().Status.State == cri.PodSandboxState_SANDBOX_NOTREADY
	})
	if s := app.exited(); s.ExitCode == 0 {
		t.Errorf("its container: %v", s)
	}
	if got := other.output("echo alive"); got != "alive" {
		t.Errorf("the other pod's container prints %q", got)
	}
	app.remove()
	p.remove()
	if got := len(n.shims()); got != 1 {
		t.Errorf("%d shims, want the other pod's", got)
	}
}

// A pause container that dies alone is a pod that is not ready.
func TestPauseKilled(t *testing.T) {
	n := newNode(t)
	p := n.pod("headless")
	app := p.idle("app")
	if err := unix.Kill(p.pid(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	testkit.Await(t, patience, "the pod is not ready", func() bool {
		return p.status().Status.State == cri.PodSandboxState_SANDBOX_NOTREADY
	})
	if s := app.status(); s.State != cri.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the container is %s", s.State)
	}
	app.stop(10)
	if got := app.exited().ExitCode; got != 0 {
		t.Errorf("stopped, it ended with %d", got)
	}
	p.remove()
}
