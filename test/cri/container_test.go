package cri_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimwright/shimwright/internal/testkit"
)

// Every way in which a container can end is told as what it was.
func TestContainerEnds(t *testing.T) {
	n := newNode(t)
	p := n.pod("ends")
	const deaf = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
	for _, c := range []struct {
		name, script string
		change       func(*cri.ContainerConfig)
		end          func(*container) // nil: it ends by itself
		code         int32
		reason       string
	}{
		{name: "success", script: "exit 0", reason: "Completed"},
		{name: "failure", script: "exit 3", code: 3, reason: "Error"},
		{name: "stopped", script: idle, end: func(c *container) { c.stop(20) }, reason: "Completed"},
		{name: "stopped-with-code", script: "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done", end: func(c *container) { c.stop(20) }, code: 5, reason: "Error"},
		{name: "deaf", script: deaf, end: func(c *container) { c.stop(1) }, code: 137, reason: "Error"},
		{name: "no-grace", script: deaf, end: func(c *container) { c.stop(0) }, code: 137, reason: "Error"},
		{
			name: "own-signal", script: "trap 'exit 6' USR1; echo ready; while :; do sleep 0.05; done",
			change: func(c *cri.ContainerConfig) { c.StopSignal = cri.Signal_SIGNAL_SIGUSR1 },
			end:    func(c *container) { c.stop(20) }, code: 6, reason: "Error",
		},
		{name: "killed", script: deaf, end: func(c *container) { unix.Kill(c.pid(), unix.SIGKILL) }, code: 137, reason: "Error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			change := c.change
			if change == nil {
				change = func(*cri.ContainerConfig) {}
			}
			app := p.shell(c.name, c.script, change)
			if c.end != nil {
				app.printed("ready")
				c.end(app)
			}
			s := app.exited()
			if s.ExitCode != c.code || s.Reason != c.reason {
				t.Errorf("ended with %d, %s; want %d, %s", s.ExitCode, s.Reason, c.code, c.reason)
			}
			if s.CreatedAt > s.StartedAt || s.StartedAt > s.FinishedAt || time.Since(time.Unix(0, s.FinishedAt)) > patience {
				t.Errorf("created at %d, started at %d, finished at %d", s.CreatedAt, s.StartedAt, s.FinishedAt)
			}
			app.stop(1) // once more is no error
			app.remove()
			app.remove()
		})
	}
	t.Run("removed while it runs", func(t *testing.T) {
		app := p.idle("removed")
		app.remove()
		if _, err := ask(n, n.runtime.ContainerStatus, &cri.ContainerStatusRequest{ContainerId: app.id}); err == nil {
			t.Error("it still has a status")
		}
	})
	t.Run("never started", func(t *testing.T) {
		p.create("unstarted", []string{"true"}).remove()
	})
	t.Run("nonexistent command", func(t *testing.T) {
		app := p.create("nosuch", []string{"nosuch"})
		_, err := ask(n, n.runtime.StartContainer, &cri.StartContainerRequest{ContainerId: app.id})
		if want := `exec: "nosuch": executable file not found in $PATH`; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("start: %v; want %q in the message", err, want)
		}
		if s := app.exited(); s.ExitCode != 128 || s.Reason != "StartError" {
			t.Errorf("ended with %d, %s; want 128, StartError", s.ExitCode, s.Reason)
		}
		app.remove()
	})
	if got := len(n.shims()); got != 1 {
		t.Errorf("%d shims, want the pod's", got)
	}
}

// A container that failed is started anew in its pod, by the pod's shim, and everybody who listens hears of it.
func TestContainerRestart(t *testing.T) {
	n := newNode(t)
	events, err := n.runtime.GetContainerEvents(t.Context(), &cri.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	p := n.pod("restarts")
	serving := n.shims()
	seen := []string{"pod created", "pod started"}
	names := map[string]string{p.id: "pod"}
	for attempt := range uint32(3) {
		app := p.shell("app", fmt.Sprintf("echo attempt %d; exit %d", attempt, attempt+1), func(c *cri.ContainerConfig) {
			c.Metadata.Attempt = attempt
			c.LogPath = fmt.Sprintf("app.%d.log", attempt)
		})
		name := fmt.Sprint("app ", attempt)
		names[app.id] = name
		if s := app.exited(); s.ExitCode != int32(attempt+1) || s.Metadata.Attempt != attempt {
			t.Errorf("attempt %d: %v", attempt, s)
		}
		if got, want := app.lines("stdout"), []string{fmt.Sprint("attempt ", attempt)}; !slices.Equal(got, want) {
			t.Errorf("attempt %d: the log is %q, want %q", attempt, got, want)
		}
		app.remove()
		seen = append(seen, name+" created", name+" started", name+" stopped", name+" deleted")
	}
	if got := n.shims(); !slices.Equal(got, serving) {
		t.Errorf("the shims are %v, before they were %v", got, serving)
	}
	p.remove()
	seen = append(seen, "pod stopped", "pod deleted")
	for _, want := range seen {
		e, err := events.Recv()
		if err != nil {
			t.Fatal(err)
		}
		kind := map[cri.ContainerEventType]string{0: "created", 1: "started", 2: "stopped", 3: "deleted"}[e.ContainerEventType]
		if got := names[e.ContainerId] + " " + kind; got != want {
			t.Errorf("event %q, want %q", got, want)
		}
	}
}

// A container that takes more memory than it may is told to have been killed for it.
func TestOOM(t *testing.T) {
	n := newNode(t)
	p := n.pod("oom")
	limited := func(c *cri.ContainerConfig) { c.Linux.Resources.MemoryLimitInBytes = 24 << 20 }
	const greedy = "dd if=/dev/zero of=/dev/null bs=200M count=1"
	t.Run("first process", func(t *testing.T) {
		if s := p.shell("first", "exec "+greedy, limited).exited(); s.ExitCode != 137 || s.Reason != "OOMKilled" {
			t.Errorf("ended with %d, %s; want 137, OOMKilled", s.ExitCode, s.Reason)
		}
	})
	t.Run("child", func(t *testing.T) {
		if s := p.shell("child", greedy+"; exit 3", limited).exited(); s.ExitCode != 3 || s.Reason != "OOMKilled" {
			t.Errorf("ended with %d, %s; want 3, OOMKilled", s.ExitCode, s.Reason)
		}
	})
	t.Run("exec", func(t *testing.T) {
		app := p.idle("exec", limited)
		if r, err := app.try("exec " + greedy); err != nil || r.status != 137 {
			t.Errorf("got %+v, %v; want 137", r, err)
		}
		if s := app.status(); s.State != cri.ContainerState_CONTAINER_RUNNING {
			t.Errorf("the container is %s", s.State)
		}
		app.stop(10)
		if s := app.exited(); s.ExitCode != 0 || s.Reason != "OOMKilled" {
			t.Errorf("ended with %d, %s; want 0, OOMKilled", s.ExitCode, s.Reason)
		}
	})
	t.Run("none", func(t *testing.T) {
		app := p.idle("none", limited)
		app.stop(0)
		if s := app.exited(); s.ExitCode != 137 || s.Reason != "Error" {
			t.Errorf("ended with %d, %s; want 137, Error", s.ExitCode, s.Reason)
		}
	})
}

// A container has the user, rights, mounts and limits that its configuration gives it.
func TestContainerConfig(t *testing.T) {
	n := newNode(t)
	p := n.pod("configured", func(c *cri.PodSandboxConfig) {
		c.Linux.SecurityContext.Privileged = true
		c.Linux.Sysctls = map[string]string{"net.ipv4.ip_local_port_range": "40000 40999", "kernel.shm_rmid_forced": "1"}
	})
	n.write("volume/inner/file", "content")
	security := func(change func(*cri.LinuxContainerSecurityContext)) func(*cri.ContainerConfig) {
		return func(c *cri.ContainerConfig) { change(c.Linux.SecurityContext) }
	}
	mount := func(m *cri.Mount) func(*cri.ContainerConfig) {
		m.HostPath, m.ContainerPath = n.path("volume"), "/volume"
		return func(c *cri.ContainerConfig) { c.Mounts = []*cri.Mount{m} }
	}
	for _, c := range []struct {
		name   string
		change func(*cri.ContainerConfig)
		script string
		want   string
	}{
		{"user", security(func(s *cri.LinuxContainerSecurityContext) {
			s.RunAsUser, s.RunAsGroup = &cri.Int64Value{Value: 1000}, &cri.Int64Value{Value: 2000}
			s.SupplementalGroups = []int64{3000, 3001}
		}), "id -u; id -g; id -G; grep CapEff /proc/self/status", "1000 2000 2000 3000 3001 CapEff: 0000000000000000"},
		{"user by name", security(func(s *cri.LinuxContainerSecurityContext) { s.RunAsUsername = "nobody" }), "id -un", "nobody"},
		{
			"read-only root", security(func(s *cri.LinuxContainerSecurityContext) { s.ReadonlyRootfs = true }),
			"touch /x; touch /dev/shm/x && echo shm", "touch: /x: Read-only file system shm",
		},
		{
			"privileged", security(func(s *cri.LinuxContainerSecurityContext) { s.Privileged = true }),
			"mkdir /m && mount -t tmpfs none /m && echo mounted; test -w /proc/sys/net/ipv4/ip_forward && echo sys; test -b /dev/vda -o -b /dev/sda -o -c /dev/kmsg && echo devices", "mounted sys devices",
		},
		{
			"unprivileged", security(func(*cri.LinuxContainerSecurityContext) {}),
			"mkdir /m; mount -t tmpfs none /m 2>/dev/null || echo refused; ls /dev/kmsg 2>&1 | grep -o 'No such'", "refused No such",
		},
		{"capabilities", security(func(s *cri.LinuxContainerSecurityContext) {
			s.Capabilities = &cri.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"NET_BIND_SERVICE"}}
			s.NoNewPrivs = true
		}), "grep -E 'CapEff|NoNewPrivs' /proc/self/status", "CapEff: 0000000000000400 NoNewPrivs: 1"},
		{"seccomp", security(func(s *cri.LinuxContainerSecurityContext) {
			s.Seccomp = &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}
		}), "grep Seccomp: /proc/self/status; unshare -U true 2>&1 | grep -o 'not permitted'", "Seccomp: 2 not permitted"},
		{
			"masked and read-only paths", security(func(s *cri.LinuxContainerSecurityContext) {
				s.MaskedPaths, s.ReadonlyPaths = []string{"/etc/passwd", "/root"}, []string{"/tmp", "/proc/sys"}
			}), "wc -c </etc/passwd; touch /root/x; touch /tmp/x; touch /proc/sys/kernel/hostname",
			"0 touch: /root/x: Read-only file system touch: /tmp/x: Read-only file system touch: /proc/sys/kernel/hostname: Read-only file system",
		},
		{
			"sysctls", security(func(*cri.LinuxContainerSecurityContext) {}),
			"cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/kernel/shm_rmid_forced", "40000 40999 1",
		},
		{"volume", mount(&cri.Mount{}), "cat /volume/inner/file; touch /volume/new && echo ok", "contentok"},
		{"read-only volume", mount(&cri.Mount{Readonly: true}), "touch /volume/x", "touch: /volume/x: Read-only file system"},
		{"recursively read-only volume", mount(&cri.Mount{Readonly: true, RecursiveReadOnly: true}), "touch /volume/inner/x", "touch: /volume/inner/x: Read-only file system"},
		{"environment", func(c *cri.ContainerConfig) {
			c.Envs, c.WorkingDir = []*cri.KeyValue{{Key: "WHAT", Value: []byte("ever")}}, "/made/for/it"
		}, "echo $WHAT; pwd", "ever /made/for/it"},
		{"device", func(c *cri.ContainerConfig) {
			c.Devices = []*cri.Device{{HostPath: "/dev/zero", ContainerPath: "/dev/nought", Permissions: "rw"}}
		}, "head -c 3 /dev/nought | wc -c", "3"},
		{"limits", func(c *cri.ContainerConfig) {
			c.Linux.Resources = &cri.LinuxContainerResources{
				CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512, MemoryLimitInBytes: 64 << 20, OomScoreAdj: 500, CpusetCpus: "0",
			}
		}, "cat /proc/self/oom_score_adj; grep Cpus_allowed_list /proc/self/status", "500 Cpus_allowed_list: 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			app := p.shell(strings.ReplaceAll(c.name, " ", "-"), "exec 2>&1; "+c.script+"; true", c.change)
			if s := app.exited(); s.ExitCode != 0 {
				t.Errorf("ended with %v", s)
			}
			if got := strings.Join(strings.Fields(strings.Join(app.lines("stdout"), "\n")), " "); got != c.want {
				t.Errorf("%s prints\n%q, want\n%q", c.script, got, c.want)
			}
		})
	}
}

// Many pods live beside each other, each with its own shim.
func TestManyPods(t *testing.T) {
	n := newNode(t)
	const many = 8
	pods := make(chan string, many)
	atOnce(t, many, func(i int) error {
		name := fmt.Sprint("pod-", i)
		config := podConfig(n, name)
		r, err := ask(n, n.runtime.RunPodSandbox, &cri.RunPodSandboxRequest{Config: config})
		if err != nil {
			return err
		}
		pods <- r.PodSandboxId
		p := &pod{node: n, id: r.PodSandboxId, config: config}
		for k := range 2 {
			app, err := p.tryCreate(fmt.Sprint("app-", k), []string{"sh", "-c", idle})
			if err != nil {
				return err
			}
			if _, err := ask(n, n.runtime.StartContainer, &cri.StartContainerRequest{ContainerId: app.id}); err != nil {
				return err
			}
			if r, err := app.try(fmt.Sprintf("exit %d", i)); err != nil {
				return err
			} else if r.status != int32(i) {
				return fmt.Errorf("%s: %+v, want status %d", name, r, i)
			}
		}
		return nil
	})
	if got := len(n.shims()); got != many {
		t.Errorf("%d shims, want %d", got, many)
	}
	close(pods)
	ids := slices.Collect(func(yield func(string) bool) {
		for id := range pods {
			if !yield(id) {
				return
			}
		}
	})
	atOnce(t, len(ids), func(i int) error {
		if _, err := ask(n, n.runtime.StopPodSandbox, &cri.StopPodSandboxRequest{PodSandboxId: ids[i]}); err != nil {
			return err
		}
		_, err := ask(n, n.runtime.RemovePodSandbox, &cri.RemovePodSandboxRequest{PodSandboxId: ids[i]})
		return err
	})
	testkit.Await(t, patience, "no shim is left", func() bool { return len(n.shims()) == 0 })
}

// atOnce runs f n times at once and reports each error.
func atOnce(t *testing.T, n int, f func(i int) error) {
	t.Helper()
	errs := make(chan error, n)
	for i := range n {
		go func() { errs <- f(i) }()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}
