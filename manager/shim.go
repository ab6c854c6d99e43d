package manager

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"github.com/shimwright/shimwright/internal/socket"
	"golang.org/x/sys/unix"
)

// A Shim is the connection to the shim of one container. Containers of a group have a Shim each, and share a process.
type Shim struct {
	manager               *Manager
	id, namespace, bundle string
	binary, address       string

	log     io.Closer
	client  *ttrpc.Client
	task    *taskClient
	process *process // nil: the shim does not tell
	done    chan struct{}
	close   func() error

	deleting sync.Mutex
	exit     *Exit // of the task, once it was deleted
	deleted  bool  // all of it

	retired bool // guarded by Manager.mu: the task is gone
}

// ID is the container's id.
func (s *Shim) ID() string { return s.id }

// Namespace is the container's namespace.
func (s *Shim) Namespace() string { return s.namespace }

// Bundle is the container's directory.
func (s *Shim) Bundle() string { return s.bundle }

// Address is where the shim listens: unix:///path.
func (s *Shim) Address() string { return s.address }

// PID is that of the shim's process; 0: the shim does not tell.
func (s *Shim) PID() int {
	if s.process == nil {
		return 0
	}
	return s.process.pid
}

// Task is the shim's task service. Its errors are of the classes of package errdefs; ErrUnavailable: the connection
// has ended.
func (s *Shim) Task() taskapi.TTRPCTaskService { return s.task }

// Done is closed when the connection has ended: by Close, or because the shim is gone. Delete cleans up after it.
func (s *Shim) Done() <-chan struct{} { return s.done }

// Close drops the connection. The shim and its container stay; Load finds them again.
func (s *Shim) Close() error { return s.close() }

// connect makes the connection of s, whose log is open, to the shim that answered with reply.
// ErrNotFound: nobody listens there.
func (m *Manager) connect(ctx context.Context, s *Shim, reply *bootapi.BootstrapResult) error {
	if reply.Protocol != "ttrpc" {
		return fmt.Errorf("the shim speaks %q, known is ttrpc: %w", reply.Protocol, errdefs.ErrNotImplemented)
	}
	conn, err := dial(ctx, reply.Address)
	if err != nil {
		return err
	}
	done := make(chan struct{})
	client := ttrpc.NewClient(conn, ttrpc.WithOnClose(func() { close(done) }))
	task, pid, err := handshake(ctx, client, reply.Version, s.id)
	if err != nil {
		client.Close()
		return err
	}
	process, err := watch(pid)
	if err != nil {
		client.Close()
		return err
	}
	s.address, s.client, s.task, s.process, s.done = reply.Address, client, task, process, done
	s.close = sync.OnceValue(func() error {
		m.remove(s)
		process.close()
		return errors.Join(client.Close(), s.log.Close())
	})
	m.add(s)
	return nil
}

// handshake finds the version of the task service and the shim's pid, 0 if the shim does not tell. The version may be
// too high: for a pod whose shim is older than the binary that answered in its name.
func handshake(ctx context.Context, client *ttrpc.Client, version int32, id string) (*taskClient, int, error) {
	for {
		task := newTaskClient(client, version)
		r, err := task.Connect(ctx, &taskapi.ConnectRequest{ID: id})
		switch {
		case err == nil, errdefs.IsNotFound(err): // some shims know no container before it has a task
			return task, int(r.GetShimPid()), nil
		case errdefs.IsNotImplemented(err) && version > 2:
			version--
		default:
			return nil, 0, fmt.Errorf("connect: %w", err)
		}
	}
}

// dial connects to a shim's address. ErrNotFound: nobody listens there, for certain.
func dial(ctx context.Context, address string) (net.Conn, error) {
	path, err := socket.Path(address)
	if err != nil {
		return nil, err
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT) {
		err = fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	return conn, err
}
