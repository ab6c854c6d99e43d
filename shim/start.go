package shim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"github.com/shimwright/shimwright/internal/bootstrap"
	"github.com/shimwright/shimwright/internal/bundle"
	"github.com/shimwright/shimwright/internal/daemon"
	"github.com/shimwright/shimwright/internal/rootfs"
	"github.com/shimwright/shimwright/internal/socket"
)

// startTimeout bounds a start that has to wait for another one of its group.
const startTimeout = 15 * time.Second

// start answers with the address of the shim that serves the container: a new one, or its group's. It says nothing on
// stderr unless it fails; then no socket and no process of it is left.
func (c *command) start() error {
	if err := c.identify(); err != nil {
		return err
	}
	dir, err := workdir()
	if err != nil {
		return err
	}
	params, err := bootstrap.Read(c.stdin, c.flags.id, c.flags.namespace, c.getenv)
	if err != nil {
		return err
	}
	if c.flags.address == "" {
		c.flags.address = params.GRPCAddress
	}
	address, debugAddress, err := c.addresses(dir, params.SocketDir)
	if err != nil {
		return err
	}
	if err := bundle.WriteAddress(dir, address); err != nil { // delete finds the socket by it, whatever happens from here on
		return err
	}
	daemon.SurviveBrokenPipe()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		undo, err := c.launch(ctx, dir, address, debugAddress, params)
		if errors.Is(err, errdefs.ErrAlreadyExists) {
			// One that does not answer is on its way out or failed to start: what it held is free by now, or soon.
			undo = func() {} // it is not ours
			if err = answers(ctx, address, c.flags.id); err != nil && ctx.Err() == nil {
				time.Sleep(5 * time.Millisecond)
				continue
			}
		}
		if err != nil {
			return err
		}
		if err := bootstrap.WriteReply(c.stdout, params.Dialect, address, &types.MountCapabilities{Transforms: rootfs.Transforms()}); err != nil {
			undo() // nobody knows of the shim
			return err
		}
		return nil
	}
}

// addresses are the shim's sockets: one shim for each group of containers.
func (c *command) addresses(dir, socketDir string) (address, debug string, err error) {
	if socketDir == "" {
		socketDir = socket.DefaultDir
	}
	if c.flags.address == "" {
		c.flags.address = c.getenv(bootstrap.EnvGRPCAddress)
	}
	group := bundle.Group(dir)
	if group == "" {
		group = c.flags.id
	}
	if address, err = socket.Address(socketDir, c.flags.address, c.flags.namespace, group); err != nil {
		return "", "", err
	}
	debug, err = socket.DebugAddress(socketDir, c.flags.address, c.flags.namespace, group)
	return address, debug, err
}

// launch starts a serving process; undo ends it again. ErrAlreadyExists: somebody listens at address.
func (c *command) launch(ctx context.Context, dir, address, debugAddress string, params *bootstrap.Params) (undo func(), err error) {
	args := []string{"-namespace", c.flags.namespace, "-id", c.flags.id, "-address", c.flags.address}
	addresses := []string{address}
	if c.flags.debug || params.Level <= slog.LevelDebug {
		args = append(args, "-debug")
		addresses = append(addresses, debugAddress)
	}
	var sockets []*socket.Socket // open as long as this command lives, see undo
	remove := func() {
		for _, s := range sockets {
			_ = s.Remove()
		}
	}
	defer func() {
		if err != nil {
			remove()
		}
	}()
	var listeners []*os.File
	for _, a := range addresses {
		s, err := socket.Listen(a)
		if err != nil {
			return nil, err
		}
		sockets = append(sockets, s)
		f, err := s.File()
		if err != nil {
			return nil, err
		}
		defer f.Close()
		listeners = append(listeners, f)
	}
	events := params.TTRPCAddress
	if events == "" {
		events = c.getenv(bootstrap.EnvTTRPCAddress)
	}
	facts := &Start{Env: *c.env(dir), Options: params.Options()}
	facts.Events = events
	facts.Log = slog.New(slog.NewTextHandler(openLog(filepath.Join(dir, bundle.LogFile), false), nil)) // stderr is part of the answer
	if err := call(ctx, c.config.beforeStart, facts); err != nil {
		return nil, err
	}
	pid, kill, err := daemon.Spawn(ctx, args, append(os.Environ(), bootstrap.EnvTTRPCAddress+"="+events), listeners...)
	if err != nil {
		return nil, err
	}
	facts.PID = pid
	if err := call(ctx, c.config.afterStart, facts); err != nil {
		kill()
		return nil, err
	}
	return func() { kill(); remove() }, nil
}

func call(ctx context.Context, hooks []func(context.Context, *Start) error, s *Start) error {
	for _, hook := range hooks {
		if err := hook(ctx, s); err != nil {
			return errors.New(err.Error()) // without its class: here one has a meaning
		}
	}
	return nil
}

// answers asks the shim at address whether it serves.
func answers(ctx context.Context, address, id string) error {
	client, err := dial(ctx, address)
	if err != nil {
		return err
	}
	defer client.Close()
	if _, err := taskapi.NewTTRPCTaskClient(client).Connect(ctx, &taskapi.ConnectRequest{ID: id}); err != nil {
		return fmt.Errorf("the group's shim at %s does not answer: %w", address, err)
	}
	return nil
}

func dial(ctx context.Context, address string) (*ttrpc.Client, error) {
	path, err := socket.Path(address)
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	return ttrpc.NewClient(conn), nil
}
