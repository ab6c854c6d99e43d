package cri_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimwright/shimwright/internal/testkit"
)

// A pod is one shim: the pause container and two others are its children and share its namespaces. A runtime
// handler names the shim by its type or by its path, and may have options.
func TestPod(t *testing.T) {
	n := newNode(t)
	// What kubelets choose a handler's pods by. "" is the default handler.
	handlers := make(map[string]*cri.RuntimeHandlerFeatures)
	for _, h := range call(n, n.runtime.Status, &cri.StatusRequest{}).RuntimeHandlers {
		handlers[h.Name] = h.Features
	}
	for _, handler := range []string{"", "runc", "path", "toml"} {
		if f := handlers[handler]; f == nil || !f.UserNamespaces || !f.RecursiveReadOnlyMounts {
			t.Errorf("handler %q has the features %v, want all", handler, f)
		}
	}
	for _, handler := range []string{"runc", "path", "toml"} {
		t.Run(handler, func(t *testing.T) {
			p := n.podOf(handler, "web-"+handler)
			app, side := p.idle("app"), p.idle("side")
			pids := []int{p.pid(), app.pid(), side.pid()}
			shims := n.shims()
			if len(shims) != 1 {
				t.Fatalf("the shims %v run for one pod", shims)
			}
			for _, pid := range pids {
				if got := parent(t, pid); got != shims[0] {
					t.Errorf("process %d is the child of %d, want the shim %d", pid, got, shims[0])
				}
			}
			for _, kind := range []string{"net", "ipc", "uts"} {
				for _, pid := range pids[1:] {
					if got, want := ns(t, pid, kind), ns(t, pids[0], kind); got != want {
						t.Errorf("process %d is in %s, the pause container in %s", pid, got, want)
					}
				}
			}
			for _, kind := range []string{"pid", "mnt"} {
				if a, b := ns(t, pids[1], kind), ns(t, pids[2], kind); a == b {
					t.Errorf("both containers are in %s", a)
				}
			}
			if got, want := app.output("hostname"), "web-"+handler; got != want {
				t.Errorf("the hostname is %q, want %q", got, want)
			}
			states := "/run/containerd/runc"
			if handler == "toml" {
				states = n.path("runc")
			}
			if _, err := os.Stat(filepath.Join(states, namespace, app.id)); err != nil {
				t.Errorf("the state is not where the handler's options say: %v", err)
			}
			if s := p.status().Status; s.State != cri.PodSandboxState_SANDBOX_READY || s.RuntimeHandler != handler {
				t.Errorf("the status is %v", s)
			}

			p.remove()
			if left := n.shims(); len(left) > 0 {
				t.Errorf("with the pod gone the shims %v are left", left)
			}
			if cgroups := n.cgroups(); len(cgroups) > 0 {
				for _, dir := range cgroups {
					if entries, _ := os.ReadDir(dir); hasDir(entries) {
						t.Errorf("with the pod gone %s has %v", dir, entries)
					}
				}
			}
			p.remove() // once more is no error
		})
	}
	t.Run("that cannot be made", func(t *testing.T) {
		config := podConfig(n, "mended")
		config.Linux.Sysctls = map[string]string{"net.no.such": "1"}
		_, err := ask(n, n.runtime.RunPodSandbox, &cri.RunPodSandboxRequest{Config: config})
		if want := "sysctl net.no.such"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("run: %v; want %q in the message", err, want)
		}
		if left := n.shims(); len(left) > 0 {
			t.Errorf("the shims %v are left", left)
		}
		n.pod("mended").idle("app")
	})
}

func hasDir(entries []os.DirEntry) bool {
	for _, e := range entries {
		if e.IsDir() {
			return true
		}
	}
	return false
}

// Containers see each other and the node as their pod says.
func TestPodNamespaces(t *testing.T) {
	n := newNode(t)
	daemon := n.cmd.Process.Pid
	for _, c := range []struct {
		name   string
		change func(*cri.PodSandboxConfig)
		with   map[string]bool // kind of namespace: the node's; else the pod's
	}{
		{"shared-pid", sharedPID, map[string]bool{"pid": false, "net": false, "ipc": false}},
		{"host-network", hostNetwork, map[string]bool{"net": true, "uts": true, "ipc": false}},
		{"host-pid", func(c *cri.PodSandboxConfig) { namespaces(c).Pid = cri.NamespaceMode_NODE }, map[string]bool{"pid": true, "net": false}},
		{"host-all", func(c *cri.PodSandboxConfig) {
			hostNetwork(c)
			namespaces(c).Pid, namespaces(c).Ipc = cri.NamespaceMode_NODE, cri.NamespaceMode_NODE
		}, map[string]bool{"pid": true, "net": true, "ipc": true, "uts": true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := n.pod(c.name, c.change)
			app := p.idle("app")
			for kind, node := range c.with {
				want := ns(t, p.pid(), kind)
				if node {
					want = ns(t, daemon, kind)
				} else if want == ns(t, daemon, kind) {
					t.Errorf("the pod is in the node's %s", want)
				}
				if got := ns(t, app.pid(), kind); got != want {
					t.Errorf("the container is in %s, want %s", got, want)
				}
			}
			p.remove()
		})
	}
	t.Run("target", func(t *testing.T) {
		p := n.pod("debugged")
		app := p.idle("app")
		debug := p.idle("debug", func(c *cri.ContainerConfig) {
			c.Linux.SecurityContext.NamespaceOptions = &cri.NamespaceOption{Pid: cri.NamespaceMode_TARGET, TargetId: app.id}
		})
		if got, want := ns(t, debug.pid(), "pid"), ns(t, app.pid(), "pid"); got != want {
			t.Errorf("the debugging container is in %s, its target in %s", got, want)
		}
		app.stop(10) // and with it goes all that is in its pid namespace
		if got := debug.exited().ExitCode; got != 137 {
			t.Errorf("the debugging container ended with %d, want 137", got)
		}
	})
}

// In a pod with one pid namespace the pause container buries the orphans, and a container's end is the end of what
// it started, and of nothing else.
func TestSharedPIDNamespace(t *testing.T) {
	n := newNode(t)
	p := n.pod("shared", sharedPID)
	side := p.idle("side")
	app := p.shell("app", "sleep 1001 & sleep 1002 & setsid sh -c 'sleep 0.01 & sleep 1003' & exec sleep 1004")
	running := func(what string) bool {
		return strings.Contains(side.output("ps -o args"), what)
	}
	for _, what := range []string{"/pause", "sleep 1001", "sleep 1002", "sleep 1003", "sleep 1004", "sleep 1000"} {
		testkit.Await(t, patience, what+" runs", func() bool { return running(what) })
	}
	app.stop(0)
	if got := app.exited().ExitCode; got != 137 {
		t.Errorf("killed, the container ended with %d, want 137", got)
	}
	for _, what := range []string{"sleep 1001", "sleep 1002", "sleep 1003", "sleep 1004"} {
		if running(what) {
			t.Errorf("%s outlives its container", what)
		}
	}
	if !running("sleep 1000") || side.status().State != cri.ContainerState_CONTAINER_RUNNING {
		t.Error("the container beside has gone too")
	}
	testkit.Await(t, patience, "no zombies in the pod", func() bool {
		return !strings.Contains(side.output("ps -o stat"), "Z")
	})
}

// Pods reach each other over their own network, and those of the node's over the node's.
func TestPodNetwork(t *testing.T) {
	n := newNode(t)
	a, b, host := n.pod("a"), n.pod("b"), n.pod("host", hostNetwork)
	a.shell("server", "while :; do echo hello from $(hostname) | nc -l -p 7000; done")
	near, far, node := a.idle("near"), b.idle("far"), host.idle("node")
	for _, c := range []struct {
		who     *container
		address string
	}{{near, "127.0.0.1"}, {near, a.address()}, {far, a.address()}, {node, a.address()}} {
		c.who.await(fmt.Sprintf("nc %s 7000 </dev/null | grep -qx 'hello from a'", c.address))
	}
	if a.address() == b.address() || net.ParseIP(a.address()) == nil {
		t.Errorf("the pods' addresses are %q and %q", a.address(), b.address())
	}
	if got := host.address(); got != "" {
		t.Errorf("the pod with the node's network has the address %q of its own", got)
	}
}

// Root in a pod with a user namespace is nobody outside, its files are its own all the same, and it can open its
// own streams.
func TestUserNamespace(t *testing.T) {
	n := newNode(t)
	const first, length = 200000, 65536
	mapping := []*cri.IDMapping{{HostId: first, ContainerId: 0, Length: length}}
	p := n.pod("userns", func(c *cri.PodSandboxConfig) {
		namespaces(c).UsernsOptions = &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: mapping, Gids: mapping}
	})
	n.write("volume/file", "from outside")
	if err := os.Chmod(n.path("volume"), 0o777); err != nil {
		t.Fatal(err)
	}
	volume := func(c *cri.ContainerConfig) {
		c.Mounts = []*cri.Mount{{ContainerPath: "/volume", HostPath: n.path("volume"), UidMappings: mapping, GidMappings: mapping}}
	}
	app, user := p.idle("app", volume), p.idle("user", volume, func(c *cri.ContainerConfig) {
		c.Linux.SecurityContext.RunAsUser, c.Linux.SecurityContext.RunAsGroup = &cri.Int64Value{Value: 1000}, &cri.Int64Value{Value: 1000}
	})
	for _, c := range []*container{app, user} {
		if got, want := ns(t, c.pid(), "user"), ns(t, p.pid(), "user"); got != want || got == ns(t, os.Getpid(), "user") {
			t.Errorf("the container is in %s, the pause container in %s", got, want)
		}
	}
	for _, c := range []struct {
		who          *container
		script, want string
	}{
		{app, "id -u; stat -c %u:%g /bin/busybox /volume/file", "0\n0:0\n0:0"},
		{app, "cat /proc/self/uid_map | tr -s ' '", fmt.Sprintf(" 0 %d %d", first, length)},
		{app, "touch /mine /volume/mine && chown 5:6 /mine && stat -c %u:%g /mine", "5:6"},
		{app, "cat /volume/file", "from outside"},
		{user, "id -u; touch /volume/users; stat -c %u /volume/users", "1000\n1000"},
		{app, "echo again >/proc/self/fd/1; echo again >/dev/stdout", "again\nagain"},
		{user, "echo again >/dev/stdout", "again"},
	} {
		if got := c.who.output(c.script); strings.TrimSpace(got) != strings.TrimSpace(c.want) {
			t.Errorf("%s prints %q, want %q", c.script, got, c.want)
		}
	}
	for pid, want := range map[int]int{app.pid(): first, user.pid(): first + 1000, p.pid(): first} {
		if got := ownerOf(t, fmt.Sprintf("/proc/%d", pid)); got != want {
			t.Errorf("outside, process %d is of user %d, want %d", pid, got, want)
		}
	}
	// Through an idmapped mount root's file is root's outside as well.
	for name, want := range map[string]int{"mine": 0, "users": 1000} {
		if got := ownerOf(t, n.path("volume/"+name)); got != want {
			t.Errorf("outside, the volume's file %s is of user %d, want %d", name, got, want)
		}
	}
	// A container's own streams can be opened again, whoever its user is.
	for _, c := range []*cri.Int64Value{{Value: 0}, {Value: 1000}} {
		writer := p.shell(fmt.Sprint("writer-", c.Value), "echo once; echo again >/dev/stdout; echo error >/dev/stderr", func(config *cri.ContainerConfig) {
			config.Linux.SecurityContext.RunAsUser = c
		})
		if s := writer.exited(); s.ExitCode != 0 {
			t.Errorf("as user %d: %v; the log is %q", c.Value, s, writer.lines(""))
		}
		if got, want := strings.Join(writer.lines("stdout"), " "), "once again"; got != want {
			t.Errorf("as user %d: stdout is %q, want %q", c.Value, got, want)
		}
	}
	if s := app.exec(true, "tty; exit 3").ended(); s.status != 3 || s.stdout != "/dev/pts/0\n" {
		t.Errorf("on a terminal: %+v", s)
	}
}
