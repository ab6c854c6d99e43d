package shim

import (
	"context"
	"errors"
	"path/filepath"
	"syscall"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/shimwright/shimwright/internal/bundle"
	"github.com/shimwright/shimwright/internal/rootfs"
	"github.com/shimwright/shimwright/internal/socket"
	"github.com/shimwright/shimwright/task"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// delete frees what a shim that is gone has left of a container, from the bundle alone, and says how the container
// ended. Every part is tried even if another fails, and there may be nothing to do.
func (c *command) delete() error {
	if err := c.identify(); err != nil {
		return err
	}
	dir, err := c.bundleDir()
	if err != nil {
		return err
	}
	var exit task.Exit
	err = errors.Join(
		c.with(context.Background(), c.env(dir), func(rt any) (err error) {
			if d, ok := rt.(task.Deleter); ok {
				exit, err = d.Delete(context.Background(), c.flags.id, dir)
			}
			return err
		}),
		rootfs.Unmount(dir),
		c.removeSockets(dir),
	)
	if err != nil {
		return err
	}
	pid, noted, err := bundle.ReadExit(dir)
	switch {
	case err == nil:
		exit = noted
	case exit.At.IsZero():
		exit = task.Exit{Status: 128 + int(syscall.SIGKILL), At: time.Now()}
	}
	if pid == 0 {
		pid, _ = bundle.ReadPID(dir)
	}
	reply, err := proto.Marshal(&taskapi.DeleteResponse{
		Pid: uint32(pid), ExitStatus: uint32(exit.Status), ExitedAt: timestamppb.New(exit.At),
	})
	if err != nil {
		return err
	}
	_, err = c.stdout.Write(reply)
	return err
}

// bundleDir is the directory that the daemon named, or works in.
func (c *command) bundleDir() (string, error) {
	if c.flags.bundle != "" {
		return filepath.Abs(c.flags.bundle)
	}
	return workdir()
}

// removeSockets removes the sockets of a shim that was killed. One that listens stays: it may serve other containers of
// the group. If it serves none it is told to end, as one whose daemon was killed during its start.
func (c *command) removeSockets(dir string) error {
	address, err := bundle.ReadAddress(dir)
	socketDir := ""
	if path, perr := socket.Path(address); err == nil && perr == nil {
		socketDir = filepath.Dir(path)
	}
	computed, debug, cerr := c.addresses(dir, socketDir)
	if cerr != nil {
		return cerr
	}
	if err != nil { // not noted, or torn
		address = computed
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = shutdown(ctx, address)
	return errors.Join(socket.RemoveStale(address), socket.RemoveStale(debug))
}

// shutdown tells the shim at address to end if it has no tasks.
func shutdown(ctx context.Context, address string) error {
	client, err := dial(ctx, address)
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = taskapi.NewTTRPCTaskClient(client).Shutdown(ctx, &taskapi.ShutdownRequest{})
	return err
}
