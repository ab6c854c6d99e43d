package cri_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
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
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimwright/shimwright/internal/testkit"
)

const (
	// What hack/tools.sh says.
	containerdTools = "containerd-2.4.2"
	cniTools        = "cni-1.9.1"

	shim = "containerd-shim-runc-v2"

	// namespace is where the CRI plugin keeps everything.
	namespace = "k8s.io"

	// patience is how long anything may take that takes a second on a slow machine.
	patience = 30 * time.Second
)

// foreign is the directory of a shim that is not this project's, if the tests are to run against one.
var foreign = os.Getenv("SHIMWRIGHT_TEST_SHIM")

// A node is a containerd with its CRI plugin, in directories and a network namespace of the test's own, and a
// connection to it.
type node struct {
	t       *testing.T
	dir     string // everything that it writes, short enough for sockets
	tools   string
	shim    string // the shim binary that it finds
	cgroup  string // the parent of its pods' cgroups
	network *network

	sockets []string // shims' sockets that were there before

	cmd *exec.Cmd // nil while it is not running
	log *os.File

	conn    *grpc.ClientConn
	runtime cri.RuntimeServiceClient
	images  cri.ImageServiceClient
}

// newNode starts a node that has the images. When the test is done all pods are removed, and nothing may be left
// of them: no process, mount, network namespace, cgroup, socket, state, bundle or work directory.
func newNode(t *testing.T) *node {
	t.Helper()
	testkit.RequireRoot(t)
	n := &node{
		t:       t,
		tools:   tools(t),
		shim:    filepath.Join(foreign, shim),
		cgroup:  "/shimwright-" + strings.ToLower(rand.Text()[:8]),
		sockets: sockets(),
	}
	if foreign == "" {
		n.shim = testkit.Build(t, "./cmd/"+shim)
	}
	t.Cleanup(n.scour)
	testkit.NoLeaks(t)
	t.Cleanup(n.removeParents)
	n.network = newNetwork(t)

	var err error
	if n.dir, err = os.MkdirTemp("", "cri-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(n.dir); err != nil {
			t.Error(err)
		}
	})
	// A pod's user must get to its volumes.
	if err := os.Chmod(n.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	n.write("config.toml", n.config())
	n.write("cni/10-test.conflist", fmt.Sprintf(`{
		"cniVersion": "1.0.0", "name": "test",
		"plugins": [{"type": "ptp", "ipam": {
			"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.88.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]
		}}]
	}`, n.path("leases")))
	if n.log, err = os.OpenFile(n.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.log.Close() })
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", n.complaints())
		}
	})

	if n.conn, err = grpc.NewClient("unix://"+n.path("containerd.sock"), grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.conn.Close() })
	n.runtime, n.images = cri.NewRuntimeServiceClient(n.conn), cri.NewImageServiceClient(n.conn)
	n.start()
	t.Cleanup(func() {
		n.removePods()
		n.nothingLeft()
		n.stop(syscall.SIGTERM)
	})
	n.load()
	return n
}

// tools finds the directory that `make deps` installs tools below.
func tools(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("SHIMWRIGHT_TOOLS")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(cache, "shimwright", "tools")
	}
	for _, name := range []string{containerdTools + "/containerd", containerdTools + "/ctr", cniTools + "/ptp", cniTools + "/host-local"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			testkit.Missing(t, "needs %s (make deps): %v", name, err)
		}
	}
	return dir
}

func (n *node) path(name string) string { return filepath.Join(n.dir, name) }

func (n *node) write(name, content string) {
	n.t.Helper()
	if err := os.MkdirAll(filepath.Dir(n.path(name)), 0o755); err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(n.path(name), []byte(content), 0o644); err != nil {
		n.t.Fatal(err)
	}
}

// config is the daemon's. What is of no use here would only make it start later.
func (n *node) config() string {
	return fmt.Sprintf(`version = 3
root = %[1]q
state = %[2]q
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.erofs"]
[grpc]
  address = %[3]q
[plugins."io.containerd.internal.v1.opt"]
  path = %[4]q
[plugins."io.containerd.nri.v1.nri"]
  disable = true
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = %[5]q
[plugins."io.containerd.cri.v1.runtime"]
  netns_mounts_under_state_dir = true
  cdi_spec_dirs = []
  restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = [%[6]q]
  conf_dir = %[7]q
  use_internal_loopback = true
[plugins."io.containerd.cri.v1.runtime".containerd]
  default_runtime_name = "runc"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.path]
  runtime_type = "io.containerd.runc.v2"
  runtime_path = %[8]q
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.toml]
  runtime_type = "io.containerd.other.v1"
  runtime_path = %[8]q
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.toml.options]
  Root = %[9]q
`, n.path("root"), n.path("state"), n.path("containerd.sock"), n.path("opt"), pauseImage, filepath.Join(n.tools, cniTools), n.path("cni"), n.shim, n.path("runc"))
}

// start starts the daemon in the node's network and waits until pods can be run.
func (n *node) start() {
	n.t.Helper()
	n.cmd = exec.Command(filepath.Join(n.tools, containerdTools, "containerd"), "--config", n.path("config.toml"))
	n.cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(n.shim)+":"+os.Getenv("PATH"))
	n.cmd.Stdout, n.cmd.Stderr = n.log, n.log
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // a test that runs out of time cleans up nothing
	if err := n.network.do(n.cmd.Start); err != nil {
		n.t.Fatal(err)
	}
	var last error
	defer func() {
		if n.t.Failed() {
			n.t.Logf("the last answer: %v", last)
		}
	}()
	testkit.Await(n.t, patience, "the daemon is ready", func() bool {
		n.conn.ResetConnectBackoff()
		ctx, cancel := context.WithTimeout(n.t.Context(), patience)
		defer cancel()
		status, err := n.runtime.Status(ctx, &cri.StatusRequest{})
		last = err
		for _, c := range status.GetStatus().GetConditions() {
			if (c.Type == cri.RuntimeReady || c.Type == cri.NetworkReady) && !c.Status {
				last = fmt.Errorf("%s: %s: %s", c.Type, c.Reason, c.Message)
			}
		}
		return last == nil
	})
}

// stop sends the daemon a signal and waits for its end.
func (n *node) stop(sig syscall.Signal) {
	n.t.Helper()
	if n.cmd == nil {
		return
	}
	if err := n.cmd.Process.Signal(sig); err != nil {
		n.t.Errorf("signal the daemon: %v", err)
	}
	stuck := time.AfterFunc(patience, func() { n.cmd.Process.Kill() })
	err := n.cmd.Wait()
	if !stuck.Stop() {
		n.t.Errorf("the daemon did not stop in %v", patience)
	} else if sig == syscall.SIGTERM && err != nil {
		n.t.Errorf("the daemon stopped with: %v", err)
	}
	n.cmd = nil
}

// load gives the node its images.
func (n *node) load() {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(n.tools, containerdTools, "ctr"),
		"--address", n.path("containerd.sock"), "--namespace", namespace, "images", "import", "-")
	cmd.Stdin = bytes.NewReader(images(n.t))
	if out, err := cmd.CombinedOutput(); err != nil {
		n.t.Fatalf("ctr images import: %v\n%s", err, out)
	}
	for _, name := range []string{busyboxImage, pauseImage} {
		testkit.Await(n.t, patience, "the image "+name, func() bool {
			return call(n, n.images.ImageStatus, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: name}}).Image != nil
		})
	}
}

// removePods removes every pod that the test has left.
func (n *node) removePods() {
	if n.cmd == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	pods, err := n.runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		n.t.Error(err)
		return
	}
	for _, p := range pods.Items {
		if _, err := n.runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.Id}); err != nil {
			n.t.Errorf("stop pod %s: %v", p.Metadata.Name, err)
		}
		if _, err := n.runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.Id}); err != nil {
			n.t.Errorf("remove pod %s: %v", p.Metadata.Name, err)
		}
	}
}

// nothingLeft checks the daemon's own records. [testkit.NoLeaks] looks at everything else.
func (n *node) nothingLeft() {
	n.t.Helper()
	for _, dir := range []string{
		"state/io.containerd.runtime.v2.task/" + namespace, "root/io.containerd.runtime.v2.task/" + namespace,
		"state/io.containerd.grpc.v1.cri/containers", "state/io.containerd.grpc.v1.cri/sandboxes",
		"state/io.containerd.grpc.v1.cri/netns", "state/netns",
	} {
		entries, err := os.ReadDir(n.path(dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			n.t.Error(err)
		}
		for _, e := range entries {
			n.t.Errorf("left behind: %s/%s", dir, e.Name())
		}
	}
}

// complaints is the daemon's log without what tells of no trouble.
func (n *node) complaints() string {
	log, err := os.ReadFile(n.path("log"))
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

var boring = regexp.MustCompile(`msg="(loading plugin|skip loading plugin|connecting to shim)`)

// cgroups lists the parent of the pods' cgroups in each hierarchy.
func (n *node) cgroups() []string {
	one, _ := filepath.Glob("/sys/fs/cgroup" + n.cgroup)
	many, _ := filepath.Glob("/sys/fs/cgroup/*" + n.cgroup)
	return append(one, many...)
}

// removeParents removes what nobody removes in a daemon's life, if it is empty.
func (n *node) removeParents() {
	for _, dir := range n.cgroups() {
		unix.Rmdir(dir)
	}
	for _, dir := range []string{"/run/containerd/runc/" + namespace, "/var/lib/cni/results", "/var/lib/cni"} {
		unix.Rmdir(dir)
	}
}

// scour is the last of the clean-ups, after leaks were reported: it keeps a failed test's pods from staying on the
// machine.
func (n *node) scour() {
	if !n.t.Failed() {
		return
	}
	for range 500 {
		if !n.killAll() {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for _, line := range slices.Backward(slices.Collect(strings.Lines(string(mounts)))) {
		if point := strings.Fields(line)[4]; n.dir != "" && strings.HasPrefix(point, n.dir+"/") {
			unix.Unmount(point, unix.MNT_DETACH)
		}
	}
	for range 500 { // a process just killed may still be there
		for _, top := range n.cgroups() {
			children, _ := filepath.Glob(top + "/*/")
			for _, dir := range append(children, top) {
				unix.Rmdir(dir)
			}
		}
		if len(n.cgroups()) == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	for _, path := range sockets() {
		if !slices.Contains(n.sockets, path) {
			os.Remove(path)
		}
	}
	os.RemoveAll("/run/containerd/runc/" + namespace)
	if n.dir != "" {
		os.RemoveAll(n.dir)
	}
}

// killAll kills the node's shims and what is in its cgroups, and tells whether there was anything.
func (n *node) killAll() (some bool) {
	for _, pid := range n.shims() {
		some = unix.Kill(pid, unix.SIGKILL) == nil || some
	}
	for _, top := range n.cgroups() {
		filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.Name() != "cgroup.procs" {
				return nil
			}
			list, _ := os.ReadFile(path)
			for _, field := range strings.Fields(string(list)) {
				var pid int
				if _, err := fmt.Sscan(field, &pid); err == nil && pid > 1 {
					unix.Kill(pid, unix.SIGKILL)
					some = true
				}
			}
			return nil
		})
	}
	return some
}

// shims are the pids of the processes that run the shim's binary for this node.
func (n *node) shims() []int {
	var pids []int
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range paths {
		cmdline, _ := os.ReadFile(path)
		var pid int
		fmt.Sscanf(path, "/proc/%d/", &pid)
		if exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); exe == n.shim && strings.Contains(string(cmdline), n.path("containerd.sock")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// sockets lists the sockets of the machine's shims.
func sockets() []string {
	paths, _ := filepath.Glob("/run/containerd/s/*")
	return paths
}
