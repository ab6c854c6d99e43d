package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/shimwright/shimwright/internal/bundle"
	"github.com/shimwright/shimwright/internal/daemon"
	"github.com/shimwright/shimwright/internal/publish"
	"github.com/shimwright/shimwright/internal/reap"
	"github.com/shimwright/shimwright/internal/server"
	"github.com/shimwright/shimwright/internal/socket"
	"github.com/shimwright/shimwright/internal/supervise"
	"golang.org/x/sys/unix"
)

// What the end of the serving process waits for, at most.
const (
	drainTimeout  = 3 * time.Second        // events that the daemon has not taken
	hangupTimeout = 250 * time.Millisecond // callers, after the answer to Shutdown
)

// serve is the shim: it serves the task service until it is told to shut down and nothing is left to serve.
func (c *command) serve() (err error) {
	if err := c.identify(); err != nil {
		return err
	}
	if err := daemon.SealDescriptors(); err != nil {
		return err
	}
	if c.getenv("SCHED_CORE") != "" {
		if err := daemon.ShareCores(); err != nil {
			return err
		}
	}
	dir, err := workdir()
	if err != nil {
		return err
	}
	sock, err := c.socket(daemon.SocketFD, c.flags.socket)
	if err != nil {
		return err
	}
	defer sock.Close()
	defer func() { err = errors.Join(err, sock.Remove()) }()
	debug, err := c.debugSocket()
	if err != nil {
		return err
	}
	if debug != nil {
		defer debug.Close()
		defer func() { err = errors.Join(err, debug.Remove()) }()
	} else {
		runtime.MemProfileRate = 0 // nobody can ask for profiles
	}
	if !c.config.noSubreaper {
		if err := daemon.Subreaper(); err != nil {
			return err
		}
	}
	sink := openLog(filepath.Join(dir, bundle.LogFile), c.flags.socket != "")
	log := slog.New(slog.NewTextHandler(sink, &slog.HandlerOptions{Level: c.level()})).With("runtime", c.name, "shim", c.flags.id, "namespace", c.flags.namespace)
	if err := daemon.YieldToDaemon(); err != nil {
		log.Warn("OOM score not adjusted", "error", err)
	}

	ctx, end := context.WithCancel(context.Background())
	defer end()
	env := c.env(dir)
	queue := publish.New(publish.Config{Address: env.Events, Namespace: c.flags.namespace, Log: log})
	defer queue.Close()
	env.Serving, env.Log, env.Reaper, env.Forward = true, log, reap.New(), queue.Forward
	rt, err := c.init(ctx, env)
	if err != nil {
		return fmt.Errorf("make the runtime: %w", err)
	}
	if closer, ok := rt.(io.Closer); ok {
		defer func() { err = errors.Join(err, closer.Close()) }()
	}
	sup := supervise.New(supervise.Config{Runtime: rt, Namespace: c.flags.namespace, Publish: queue.Publish, Reaper: env.Reaper, Log: log})
	flush, err := traced(ctx, c)
	if err != nil {
		return err
	}
	defer flush()
	stopping := make(chan struct{})
	stop := sync.OnceFunc(func() { close(stopping) })
	cfg := server.Config{Supervisor: sup, Shutdown: stop, Interceptors: c.config.interceptors, Log: log}
	if r, ok := rt.(Registrar); ok {
		cfg.Register = r.RegisterTTRPC
	}
	srv, err := server.New(cfg)
	if err != nil {
		return err
	}

	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGUSR1)
	defer signal.Stop(signals)
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(ctx, sock.Listener()) }() // ends with the server
	if debug != nil {
		go serveDebug(ctx, debug.Listener()) // ends with the listener
	}
	if c.flags.socket == "" {
		sink.takeStderr()
		if err := daemon.Ready(); err != nil {
			return err
		}
	}
	log.Debug("serving", "pid", os.Getpid(), "address", sock.Address())

	var served error
	go func() { // ends with the shim; the main goroutine waits for it below
		defer end()
		for {
			select {
			case s := <-signals:
				c.handle(s, sup, stop, sink, log)
				continue
			case served = <-failed:
			case <-stopping:
				// First nobody new finds the shim, then the daemon gets its events, then the callers have their answers.
				served = sock.Remove()
				if left := drain(queue); left > 0 {
					log.Error("events lost: the daemon did not take them before the shim's end", "events", left)
				}
				hangup, cancel := context.WithTimeout(context.Background(), hangupTimeout)
				defer cancel()
				served = errors.Join(served, srv.Shutdown(hangup))
			}
			return
		}
	}()
	if err := env.Reaper.Run(ctx); err != nil {
		return err
	}
	_ = srv.Close()
	return served
}

func (c *command) level() slog.Level {
	if c.flags.debug {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

func drain(q *publish.Queue) (left int) {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	return q.Drain(ctx)
}

// handle answers a signal. Containers outlive a SIGTERM: a shim goes when they are gone.
func (c *command) handle(s os.Signal, sup *supervise.Supervisor, stop func(), sink *logFile, log *slog.Logger) {
	switch {
	case s == unix.SIGUSR1:
		_, _ = sink.Write(stacks())
	case sup.Close(false):
		log.Info("ending", "signal", s.String())
		stop()
	default:
		log.Warn("signal ignored: the shim has tasks", "signal", s.String(), "tasks", sup.Len())
	}
}

// socket is the inherited listener fd, or one made at path.
func (c *command) socket(fd int, path string) (*socket.Socket, error) {
	if path != "" {
		abs, err := filepath.Abs(path)
		if err != nil {
			return nil, err
		}
		return socket.Listen("unix://" + abs)
	}
	f := daemon.Inherited(fd)
	if f == nil {
		return nil, fmt.Errorf("descriptor %d is no listening socket", fd)
	}
	return socket.Inherit(f)
}

func (c *command) debugSocket() (*socket.Socket, error) {
	if c.flags.debugSocket != "" || c.flags.debug && daemon.Listens(daemon.DebugFD) {
		return c.socket(daemon.DebugFD, c.flags.debugSocket)
	}
	return nil, nil
}

func stacks() []byte {
	for size := 64 << 10; ; size *= 2 {
		buf := make([]byte, size)
		if n := runtime.Stack(buf, true); n < size {
			return append(buf[:n], '\n')
		}
	}
}
