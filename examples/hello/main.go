// Containerd-shim-hello-v1 is a whole shim: it runs a program of the host in place of a container.
package main

import (
	"context"
	"os/exec"
	"syscall"

	"github.com/shimwright/shimwright/shim"
	"github.com/shimwright/shimwright/task"
)

type runtime struct{}

func (runtime) Create(_ context.Context, r *task.CreateRequest) (task.Task, error) {
	cmd := exec.Command("/bin/echo", "hello from", r.ID)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = r.IO.Stdin, r.IO.Stdout, r.IO.Stderr
	return hello{cmd}, nil
}

type hello struct{ *exec.Cmd }

func (h hello) PID() int {
	if h.Process == nil {
		return 0
	}
	return h.Process.Pid
}
func (h hello) Start(context.Context) error                            { return h.Cmd.Start() }
func (h hello) Kill(_ context.Context, s syscall.Signal, _ bool) error { return h.Process.Signal(s) }

func (h hello) Wait() task.Exit              { _ = h.Cmd.Wait(); return task.ExitOf(h.ProcessState) }
func (h hello) Delete(context.Context) error { return nil }

func main() {
	shim.Run("io.example.hello.v1", func(context.Context, *shim.Env) (task.Runtime, error) { return runtime{}, nil })
}
