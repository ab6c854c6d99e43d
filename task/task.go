// Package task holds the contracts between a shim and the runtime inside it: what an author implements.
//
// An author provides a [Runtime] and the [Process] type of their tasks. Everything else is optional and is asked for
// by type assertion; a missing part is answered with errdefs.ErrNotImplemented. The shim does the rest: the
// command line, the sockets, the task service, states, stdio, events and their order.
//
// Errors: wrap one of the classes of github.com/containerd/errdefs where the cause is known
// (fmt.Errorf("…: %w", errdefs.ErrNotFound)). Clients branch on the class.
package task

import (
	"context"
	"os"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// A Runtime makes tasks. It may also be a [Deleter], an [Informer] or an io.Closer, which is called when the shim ends.
type Runtime interface {
	// Create prepares the task in r.Bundle without running the user's program.
	//
	// ctx ends when somebody kills the task that is being created, not when the caller goes away; on error nothing
	// of the task may be left. The ends in r.IO belong to the shim: it closes them once the process has them.
	Create(ctx context.Context, r *CreateRequest) (Task, error)
}

// A Task is one container and its first process. It may also be an [Execer], a [Pauser], an [Updater],
// a [Stater], a [Lister], an [OOMWatcher] or a [Checkpointer].
type Task interface {
	Process
}

// A Process is one process of a task. The shim calls Start at most once, Wait at most once, and Delete last.
type Process interface {
	// PID is the process id as the shim's pid namespace has it; 0 as long as there is no process.
	PID() int

	// Start runs the user's program. If it fails the process counts as stopped.
	Start(ctx context.Context) error

	// Kill sends sig to the process, or with all to everything in the container. It may be called at any time, also
	// during Start and before it. With all it also reaches what an ended process left behind in the container.
	// ErrNotFound: the process has exited.
	Kill(ctx context.Context, sig syscall.Signal, all bool) error

	// Wait blocks until the process has ended and tells how. The shim calls it once, from a goroutine of its own:
	// after Create or Exec if PID is then not 0, else after Start has succeeded.
	Wait() Exit

	// Delete frees what the process holds. The process has ended, or was never started. When Delete of a task
	// returns, no process of the container is left. Repeated: no error.
	Delete(ctx context.Context) error
}

// Exit says how a process ended.
type Exit struct {
	Status int       // the exit code, or 128+n if signal n ended the process
	At     time.Time // when it was seen dead; the zero time: now
	OOM    bool      // the kernel's OOM killer ended something in the container that was not reported before
}

// ExitOf is the Exit of a process run with os/exec, as of now.
func ExitOf(ps *os.ProcessState) Exit {
	e := Exit{At: time.Now(), Status: 255}
	if ps == nil {
		return e
	}
	if ws, ok := ps.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		e.Status = 128 + int(ws.Signal())
	} else {
		e.Status = ps.ExitCode()
	}
	return e
}

// IO is the process's own ends of its streams. The process writes to them and reads from them directly.
type IO struct {
	// Stdin, Stdout and Stderr are never nil without Terminal: a stream that the client left out is /dev/null.
	// With Terminal all three are nil.
	Stdin, Stdout, Stderr *os.File

	// Terminal: the process wants a pty. Its maker hands the master to SetConsole, once, before Create (or, for an
	// exec or a task that is restored, Start) returns. SetConsole owns the file from then on, also when it fails.
	Terminal   bool
	SetConsole func(master *os.File) error
}

// CreateRequest asks for a task.
type CreateRequest struct {
	ID        string      // 1–76 characters, checked
	Namespace string      // the daemon's namespace
	Bundle    string      // absolute path of the bundle
	Rootfs    string      // where the root file system is mounted: Bundle/rootfs, or empty if nothing was to be mounted
	Spec      *specs.Spec // config.json; nil if the bundle has none
	IO        IO
	Options   *anypb.Any // the runtime's options; nil: none given

	// Checkpoint is the directory of an image to restore from; empty: a new task. With ParentCheckpoint it is incremental.
	// Start restores: until then there may be no process, and the streams in IO stay open.
	Checkpoint, ParentCheckpoint string
}

// ExecRequest asks for a further process in a task.
type ExecRequest struct {
	ID   string // the exec id, 1–76 characters, checked
	Spec *specs.Process
	IO   IO
}

// Execer is a Task that can run further processes.
type Execer interface {
	// Exec prepares a process. Nothing runs before its Start.
	Exec(ctx context.Context, r *ExecRequest) (Process, error)
}

// Pauser is a Task that can be frozen.
type Pauser interface {
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
}

// UpdateRequest asks for other limits. Either field may be nil.
type UpdateRequest struct {
	Resources   *specs.LinuxResources
	Annotations map[string]string
}

// Updater is a Task whose limits can be changed while it runs.
type Updater interface {
	Update(ctx context.Context, r *UpdateRequest) error
}

// Stater is a Task with figures: a message such as io.containerd.cgroups.v2.Metrics.
type Stater interface {
	Stats(ctx context.Context) (proto.Message, error)
}

// Lister is a Task that knows its processes. Without it, Pids answers with the processes that the shim started.
type Lister interface {
	PIDs(ctx context.Context) ([]int, error)
}

// OOMWatcher is a Task that sees the kernel's OOM killer act in its container while the container runs.
type OOMWatcher interface {
	// WatchOOM makes the runtime call tell for each batch of processes that the OOM killer has ended, from Create on
	// and until Delete returns. tell is called before Wait returns the exit of a process that was among them, also if
	// the container's memory figures are gone by then; what was told is in no Exit.OOM. tell does not wait. WatchOOM
	// returns at once; it is called once, after Create. An error leaves OOMs to Exit.OOM.
	WatchOOM(tell func()) error
}

// CheckpointRequest asks for an image of a task in directory Path.
type CheckpointRequest struct {
	Path    string
	Options *anypb.Any
}

// Checkpointer is a Task that can be written to disk, and is restored by Create with CreateRequest.Checkpoint set and Start.
// The task may end by it, if the options want that: then Checkpoint returns when it has ended. After an error it goes on.
type Checkpointer interface {
	Checkpoint(ctx context.Context, r *CheckpointRequest) error
}

// Deleter is a Runtime that can clean up after a shim that was killed.
type Deleter interface {
	// Delete frees everything that task id still has – processes, mounts, state – from its bundle alone. Any file of
	// the bundle may be missing or torn, and there may be nothing to do: that is success. An Exit with a zero At
	// means that the runtime does not know how the task ended.
	Delete(ctx context.Context, id, bundle string) (Exit, error)
}

// Informer is a Runtime that describes itself, for the daemon's introspection.
type Informer interface {
	// Info fills in what it knows; opts are the runtime's options or nil.
	Info(ctx context.Context, opts *anypb.Any) (*types.RuntimeInfo, error)
}
