// Package shim makes a containerd shim out of a runtime.
//
// A shim is the process between containerd and a container. Run is the body of its main; the author adds a
// task.Runtime:
//
//	type runtime struct{}
//
//	func (runtime) Create(ctx context.Context, r *task.CreateRequest) (task.Task, error) { … }
//
//	func main() {
//		shim.Run("io.example.hello.v1", func(ctx context.Context, env *shim.Env) (task.Runtime, error) {
//			return runtime{}, nil
//		})
//	}
//
// The binary is called containerd-shim-hello-v1 – the last two parts of the runtime's name – and is put into the daemon's
// PATH. Then ctr run --runtime io.example.hello.v1 runs it.
//
// # What Run does
//
// The daemon calls the binary with an action:
//
//	start    makes the socket and the serving process, or finds the one of the container's group (pod)
//	delete   cleans up after a serving process that is gone
//	-info    describes the runtime
//
// The serving process answers the task service (versions 2 and 3), opens the container's streams, mounts its root file system,
// keeps the states, and publishes events in order and without loss. See package task for what it asks of a runtime.
//
// # Child processes
//
// The shim is a child subreaper. Its main goroutine reaps adopted orphans; it never takes the status of a process that
// the author started with os/exec. An author's goroutine that locks its thread and ends without unlocking it must not
// have started processes there, unless it watches them with Env.Reaper.
//
// # Logging
//
// Env.Log reaches the daemon's log and never blocks. Do not write to stderr in start.
package shim
