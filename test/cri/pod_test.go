package cri_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimwright/shimwright/internal/testkit"
)

// ask makes a call that may fail, from any goroutine of the test.
func ask[Q, R any](n *node, method func(context.Context, Q, ...grpc.CallOption) (R, error), request Q) (R, error) {
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	return method(ctx, request)
}

// call makes a call that must succeed.
func call[Q, R any](n *node, method func(context.Context, Q, ...grpc.CallOption) (R, error), request Q) R {
	n.t.Helper()
	response, err := ask(n, method, request)
	if err != nil {
		n.t.Fatalf("%T: %v", request, err)
	}
	return response
}

// A pod is a sandbox that runs.
type pod struct {
	*node
	id      string
	handler string
	config  *cri.PodSandboxConfig
}

// pod runs a pod with a network of its own by the default runtime.
func (n *node) pod(name string, changes ...func(*cri.PodSandboxConfig)) *pod {
	n.t.Helper()
	return n.podOf("", name, changes...)
}

// podOf runs a pod by a runtime handler.
func (n *node) podOf(handler, name string, changes ...func(*cri.PodSandboxConfig)) *pod {
	n.t.Helper()
	config := podConfig(n, name)
	for _, change := range changes {
		change(config)
	}
	p := &pod{node: n, handler: handler, config: config}
	p.id = call(n, n.runtime.RunPodSandbox, &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: handler}).PodSandboxId
	return p
}

// podConfig is a plain pod's: a network, and a pid namespace for each container.
func podConfig(n *node, name string) *cri.PodSandboxConfig {
	return &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Uid: name, Namespace: "test"},
		Hostname:     name,
		LogDirectory: n.path("logs/" + name),
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent: n.cgroup,
			SecurityContext: &cri.LinuxSandboxSecurityContext{
				NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER},
			},
		},
	}
}

// namespaces are a pod's namespace options, to be changed.
func namespaces(c *cri.PodSandboxConfig) *cri.NamespaceOption {
	return c.Linux.SecurityContext.NamespaceOptions
}

func sharedPID(c *cri.PodSandboxConfig) { namespaces(c).Pid = cri.NamespaceMode_POD }

// hostNetwork gives a pod the node's network, and with it the node's name.
func hostNetwork(c *cri.PodSandboxConfig) {
	namespaces(c).Network = cri.NamespaceMode_NODE
	c.Hostname = ""
}

func (p *pod) status() *cri.PodSandboxStatusResponse {
	p.t.Helper()
	return call(p.node, p.runtime.PodSandboxStatus, &cri.PodSandboxStatusRequest{PodSandboxId: p.id, Verbose: true})
}

// pid is that of the pause container's process.
func (p *pod) pid() int {
	p.t.Helper()
	return pidOf(p.t, p.status().Info)
}

// address is the pod's in the node's network.
func (p *pod) address() string {
	p.t.Helper()
	return p.status().Status.GetNetwork().GetIp()
}

func (p *pod) stop() {
	p.t.Helper()
	call(p.node, p.runtime.StopPodSandbox, &cri.StopPodSandboxRequest{PodSandboxId: p.id})
}

func (p *pod) remove() {
	p.t.Helper()
	p.stop()
	call(p.node, p.runtime.RemovePodSandbox, &cri.RemovePodSandboxRequest{PodSandboxId: p.id})
}

// pidOf reads a verbose status.
func pidOf(t *testing.T, info map[string]string) int {
	t.Helper()
	var details struct{ PID int }
	if err := json.Unmarshal([]byte(info["info"]), &details); err != nil {
		t.Fatal(err)
	}
	return details.PID
}

// A container is one of a pod.
type container struct {
	*pod
	id     string
	config *cri.ContainerConfig
}

// create makes a container of the busybox image.
func (p *pod) create(name string, command []string, changes ...func(*cri.ContainerConfig)) *container {
	p.t.Helper()
	c, err := p.tryCreate(name, command, changes...)
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

func (p *pod) tryCreate(name string, command []string, changes ...func(*cri.ContainerConfig)) (*container, error) {
	config := &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name},
		Image:    &cri.ImageSpec{Image: busyboxImage},
		Command:  command,
		LogPath:  name + ".log",
		Linux: &cri.LinuxContainerConfig{
			Resources:       &cri.LinuxContainerResources{},
			SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: namespaces(p.config)},
		},
	}
	for _, change := range changes {
		change(config)
	}
	r, err := ask(p.node, p.runtime.CreateContainer, &cri.CreateContainerRequest{PodSandboxId: p.id, Config: config, SandboxConfig: p.config})
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", name, err)
	}
	return &container{pod: p, id: r.ContainerId, config: config}, nil
}

func (c *container) start() *container {
	c.t.Helper()
	call(c.node, c.runtime.StartContainer, &cri.StartContainerRequest{ContainerId: c.id})
	return c
}

// shell runs a script in a new container.
func (p *pod) shell(name, script string, changes ...func(*cri.ContainerConfig)) *container {
	p.t.Helper()
	return p.create(name, []string{"sh", "-c", script}, changes...).start()
}

// idle runs a container that ends at SIGTERM and never by itself.
func (p *pod) idle(name string, changes ...func(*cri.ContainerConfig)) *container {
	p.t.Helper()
	return p.shell(name, idle, changes...)
}

const idle = "trap 'exit 0' TERM; echo ready; while :; do sleep 1000 & wait $!; done"

func (c *container) status() *cri.ContainerStatus {
	c.t.Helper()
	return call(c.node, c.runtime.ContainerStatus, &cri.ContainerStatusRequest{ContainerId: c.id}).Status
}

func (c *container) pid() int {
	c.t.Helper()
	return pidOf(c.t, call(c.node, c.runtime.ContainerStatus, &cri.ContainerStatusRequest{ContainerId: c.id, Verbose: true}).Info)
}

// exited waits for the container's end and returns how it ended.
func (c *container) exited() *cri.ContainerStatus {
	c.t.Helper()
	var s *cri.ContainerStatus
	testkit.Await(c.t, patience, c.config.Metadata.Name+" has exited", func() bool {
		s = c.status()
		return s.State == cri.ContainerState_CONTAINER_EXITED
	})
	return s
}

func (c *container) stop(seconds int64) {
	c.t.Helper()
	call(c.node, c.runtime.StopContainer, &cri.StopContainerRequest{ContainerId: c.id, Timeout: seconds})
}

func (c *container) remove() {
	c.t.Helper()
	call(c.node, c.runtime.RemoveContainer, &cri.RemoveContainerRequest{ContainerId: c.id})
}

// A result is what a command printed and how it ended.
type result struct {
	stdout, stderr string
	status         int32
}

// try runs a script in the container. It may be called from any goroutine of the test.
func (c *container) try(script string) (result, error) {
	r, err := ask(c.node, c.runtime.ExecSync, &cri.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"sh", "-c", script}})
	return result{string(r.GetStdout()), string(r.GetStderr()), r.GetExitCode()}, err
}

// output is what a script prints that must succeed in the container.
func (c *container) output(script string) string {
	c.t.Helper()
	r, err := c.try(script)
	if err != nil || r.status != 0 {
		c.t.Fatalf("%s: %+v, %v", script, r, err)
	}
	return strings.TrimSpace(r.stdout)
}

// await waits until a script succeeds in the container.
func (c *container) await(script string) {
	c.t.Helper()
	testkit.Await(c.t, patience, script, func() bool {
		r, err := c.try(script)
		return err == nil && r.status == 0
	})
}

// logFile is where the container's log is.
func (c *container) logFile() string {
	return filepath.Join(c.pod.config.LogDirectory, c.config.LogPath)
}

// ns is a process's namespace of that kind.
func ns(t *testing.T, pid int, kind string) string {
	t.Helper()
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// parent is the pid of a process's parent.
func parent(t *testing.T, pid int) int {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	n, err := strconv.Atoi(strings.Fields(after)[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// ownerOf is the user whose file it is, as the machine sees it.
func ownerOf(t *testing.T, path string) int {
	t.Helper()
	var s unix.Stat_t
	if err := unix.Stat(path, &s); err != nil {
		t.Fatal(err)
	}
	return int(s.Uid)
}
