package wasm_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/shimwright/shimwright/internal/testkit"
)

// pid is that of the container's first process.
func (c *container) pid() int {
	c.h.t.Helper()
	r, err := c.Task().State(c.h.t.Context(), &taskapi.StateRequest{ID: c.id})
	if err != nil {
		c.h.t.Fatal(err)
	}
	return int(r.Pid)
}

// A guest that tries every way out, with root's rights in its container, reads nothing of the host or of another task in
// its pod, and changes nothing there. What it may write to is its own.
func TestNothingIsReached(t *testing.T) {
	h := newHost(t, module(t))
	const secret, mark = "kept-from-guests", "was-here"
	outside := t.TempDir() // where the guest wants to be
	guarded := filepath.Join(outside, "secret")
	volume := t.TempDir() // what it gets, twice
	for _, path := range []string{guarded, filepath.Join(volume, "own")} {
		if err := os.WriteFile(path, []byte(secret), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(volume, "own"), []byte("own"), 0o666); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 20)
	for name, target := range map[string]string{
		"absolute": guarded, "relative": up + guarded[1:], "dir": outside, "up": strings.TrimSuffix(up, "/"),
		"mem": "/proc/self/mem", "root": "/proc/1/root", "cwd": "/proc/self/cwd", "fd": "/proc/self/fd", "exe": "/proc/self/exe",
	} {
		for _, in := range []string{h.rootfs, volume} {
			if err := os.Symlink(target, filepath.Join(in, "planted-"+name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	// In the same pod, and the same pid namespace, is another task with a secret.
	pod := map[string]string{"io.kubernetes.cri.sandbox-id": "esc-pod"}
	native := testkit.Spec(h.rootfs, "/bin/sh", "-c", "echo "+secret+" >/run/secret; echo ready; sleep 3600")
	native.Annotations = pod
	nativeIO := testkit.FIFOs(t)
	other := h.run("esc-pod", native, nativeIO)
	defer func() {
		other.kill(syscall.SIGKILL)
		other.wait("", 137)
		other.delete(137)
	}()
	testkit.Await(t, 20*time.Second, "the other task", func() bool { return strings.Contains(nativeIO.Now(), "ready") })

	var attacks []string
	targets := []string{guarded, up + guarded[1:], "/run/secret", "/proc/1/root/run/secret", "/proc/1/environ", "/proc/1/cwd/run/secret"}
	for _, in := range []string{"", "/rw", "/ro"} {
		for _, name := range []string{"absolute", "relative", "dir/secret", "up" + guarded, "root/run/secret", "root" + guarded, "cwd/run/secret"} {
			targets = append(targets, in+"/planted-"+name)
		}
		attacks = append(attacks, "symlink="+up+guarded[1:]+":"+in+"/made", "symlink="+guarded+":"+in+"/made-absolute",
			"mkdir="+in+"/d", "symlink=../d:"+in+"/d/made", "rename="+in+"/d/made:"+in+"/d/"+up+"made")
		targets = append(targets, in+"/made", in+"/made-absolute", in+"/d/made/"+up+guarded[1:])
	}
	for i, path := range targets {
		attacks = append(attacks, "cat="+path, "ls="+path, "ls="+filepath.Dir(path), "readlink="+path, "append="+path+":"+mark, "write="+path+":"+mark,
			"mkdir="+path+"-"+mark, fmt.Sprintf("link=%s:/rw/stolen-%d", path, i), fmt.Sprintf("cat=/rw/stolen-%d", i),
			fmt.Sprintf("rename=%s:/rw/moved-%d", path, i), fmt.Sprintf("cat=/rw/moved-%d", i), "rename=/rw/own:"+path, "rename="+path+":/rw/own", "rm="+path)
	}
	closed := []string{
		"/proc/self/mem", "/proc/self/environ", "/proc/1/mem", "/proc/1/maps", "/proc/sys/kernel/hostname", "/sys/kernel/uevent_helper",
		"/sys/kernel/notes", "/dev/mem", "/dev/kmsg", "/proc/self/fd/3", "/proc/self/exe", "/planted-mem", "/planted-exe", "/planted-fd/3", "/rw/planted-mem",
	}
	for _, path := range closed {
		attacks = append(attacks, "cat="+path, "append="+path+":"+mark)
	}
	attacks = append(attacks, "ls=/proc", "ls=/sys", "ls=/proc/self/fd", "write=/ro/new:"+mark, "append=/ro/own:"+mark, "rm=/ro/own", "out=tried")
	io := testkit.FIFOs(t)
	spec := h.spec(attacks...)
	spec.Annotations = pod
	for i, ns := range spec.Linux.Namespaces {
		if ns.Type == specs.PIDNamespace {
			spec.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/ns/pid", other.pid())
		}
	}
	spec.Mounts = append(spec.Mounts,
		specs.Mount{Destination: "/rw", Type: "bind", Source: volume, Options: []string{"rbind"}},
		specs.Mount{Destination: "/ro", Type: "bind", Source: volume, Options: []string{"rbind", "ro"}})
	c := h.run("esc-guest", spec, io)
	c.wait("", 0)
	out := io.Output()
	if strings.Contains(out, secret) || !strings.HasSuffix(out, "tried\n") {
		t.Errorf("the guest: %s", out)
	}
	for _, path := range closed {
		for _, attack := range []string{"cat=" + path, "append=" + path + ":" + mark} {
			if !strings.Contains(out, attack+": ") {
				t.Errorf("%s does not fail", attack)
			}
		}
	}
	if got, err := os.ReadFile(guarded); string(got) != secret || err != nil {
		t.Errorf("the secret is %q, %v", got, err)
	}
	if names := names(t, outside); !slices.Equal(names, []string{"secret"}) {
		t.Errorf("beside the secret there are %q", names)
	}
	if got, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/run/secret", other.pid())); strings.TrimSpace(string(got)) != secret || err != nil {
		t.Errorf("the other task's secret is %q, %v", got, err)
	}
	if names := names(t, fmt.Sprintf("/proc/%d/root/run", other.pid())); !slices.Equal(names, []string{"secret"}) {
		t.Errorf("beside the other task's secret there are %q", names)
	}
	c.delete(0)
}

func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

// While a guest runs, its runner has open what the guest may have, and nothing of the host; its environment is not the guest's; the
// user, capabilities and seccomp filter are the spec's.
func TestRunnerIsConfined(t *testing.T) {
	h := newHost(t, module(t))
	io := testkit.FIFOs(t)
	spec := h.spec("env=GOMEMLIMIT", "out=ready", "sleep=1h")
	spec.Process.Env = append(spec.Process.Env, "GODEBUG=madvdontneed=1", "GOGC=200", "GOMEMLIMIT=1GiB", "LD_PRELOAD=/nothing")
	spec.Process.User = specs.User{UID: 1000, GID: 1000}
	spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}, Effective: []string{"CAP_KILL"}, Permitted: []string{"CAP_KILL"}}
	spec.Process.NoNewPrivileges = false // a runner has it in any case
	spec.Annotations = map[string]string{"io.containerd.wasm.preopens": "/tmp", "io.containerd.wasm.listen": "tcp:127.0.0.1:0"}
	spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"keyctl"}, Action: specs.ActErrno}}}
	c := h.run("esc-guest", spec, io)
	testkit.Await(t, 20*time.Second, "the guest's first word", func() bool { return strings.Contains(io.Now(), "ready") })
	proc := fmt.Sprintf("/proc/%d/", c.pid())

	if env, err := os.ReadFile(proc + "environ"); string(env) != "HOME=/\x00" || err != nil { // HOME is libcontainer's
		t.Errorf("the runner's environment is %q, %v", env, err)
	}
	status, err := os.ReadFile(proc + "status")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"NoNewPrivs:\t1\n", "Seccomp:\t2\n", "Uid:\t1000\t1000\t1000\t1000\n", "Gid:\t1000\t1000\t1000\t1000\n", "CapBnd:\t0000000000000020\n", "CapInh:\t0000000000000000\n", "CapEff:\t0000000000000000\n"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("the runner's status has no %q: %s", want, status)
		}
	}
	open := map[string]int{}
	for _, fd := range names(t, proc+"fd") {
		target, err := os.Readlink(proc + "fd/" + fd)
		if err != nil {
			t.Error(err)
			continue
		}
		kind, _, named := strings.Cut(target, ":")
		switch {
		case slices.Contains([]string{"0", "1", "2"}, fd):
			kind = "stream"
		case !named, kind == "anon_inode":
			kind = target
		}
		open[kind]++
		t.Log(fd, target)
	}
	for kind, most := range map[string]int{
		"stream":                 3,
		"/tmp":                   2, // the preopened directory
		"socket":                 2, // the shim's, and the guest's listener
		"anon_inode:[eventpoll]": 1, // Go's
		"anon_inode:[eventfd]":   1,
	} {
		if open[kind] > most {
			t.Errorf("the runner has %d of %s open", open[kind], kind)
		}
		delete(open, kind)
	}
	if len(open) > 0 {
		t.Errorf("the runner has more open: %v", open)
	}
	c.kill(syscall.SIGTERM)
	c.wait("", 143)
	if out, errs := io.Output(), io.Errors(); out != "1GiB\nready\n" || errs != "" {
		t.Errorf("the guest: %q, %q", out, errs)
	}
	c.delete(143)
}
