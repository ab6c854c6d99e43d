package shim

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"

	"github.com/shimwright/shimwright/internal/bundle"
	"github.com/shimwright/shimwright/internal/daemon"
)

// command is one invocation of the binary.
type command struct {
	name   string
	init   InitFunc
	config config

	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string

	flags flags
}

// flags are what daemons pass, from 1.6 on.
type flags struct {
	namespace, id, address, bundle string
	socket, debugSocket            string
	debug, version, info           bool
}

// main is what the binary does: one switch. Its result is the exit code.
func (c *command) main(args []string) int {
	action, err := c.parse(args)
	if err == nil {
		switch {
		case c.flags.version:
			err = c.printVersion(args[0])
		case c.flags.info:
			err = c.info()
		case action == "start":
			err = c.start()
		case action == "delete":
			err = c.delete()
		case action == "" && c.serves():
			err = c.serve()
		case action == "":
			c.explain(args[0])
			return 1
		default:
			err = fmt.Errorf("unknown action %q: want start or delete", action)
		}
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(c.stderr, "%s: %v\n", c.name, err)
		return 1
	}
	return 0
}

func (c *command) parse(args []string) (action string, err error) {
	f := flag.NewFlagSet(filepath.Base(args[0]), flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&c.flags.namespace, "namespace", "", "the daemon's `namespace` that the container is in (required)")
	f.StringVar(&c.flags.id, "id", "", "the container's `id`")
	f.StringVar(&c.flags.address, "address", "", "the daemon's gRPC `socket`")
	f.StringVar(&c.flags.bundle, "bundle", "", "the bundle's `directory`, for delete (default: the current directory)")
	f.StringVar(&c.flags.socket, "socket", "", "serve on this socket's `path` instead of an inherited one")
	f.StringVar(&c.flags.debugSocket, "debug-socket", "", "serve profiles (/debug/pprof/ over HTTP) on this socket's `path`")
	f.String("publish-binary", "", "ignored; events go to the `socket` in TTRPC_ADDRESS")
	f.BoolVar(&c.flags.debug, "debug", false, "log at debug level")
	f.BoolVar(&c.flags.version, "v", false, "print the version")
	f.BoolVar(&c.flags.version, "version", false, "print the version")
	f.BoolVar(&c.flags.info, "info", false, "read runtime options from stdin, write a description of the runtime to stdout (both protobuf)")
	switch err := f.Parse(args[1:]); {
	case errors.Is(err, flag.ErrHelp):
		f.SetOutput(c.stdout)
		fmt.Fprintf(c.stdout, "usage: %s [flags] start|delete\n\nA containerd shim, called by containerd in a bundle's directory.\n\n", f.Name())
		f.PrintDefaults()
		return "", err
	case err != nil:
		return "", err
	case f.NArg() > 1:
		return "", fmt.Errorf("unexpected argument %q", f.Arg(1))
	}
	return f.Arg(0), nil
}

// identify checks who the shim is for.
func (c *command) identify() error {
	if c.flags.namespace == "" {
		return errors.New("-namespace is required")
	}
	if err := bundle.CheckID(c.flags.namespace); err != nil {
		return fmt.Errorf("-namespace: %w", err)
	}
	if err := bundle.CheckID(c.flags.id); err != nil {
		return fmt.Errorf("-id: %w", err)
	}
	return nil
}

// serves tells the serving process from somebody at a terminal.
func (c *command) serves() bool {
	return c.flags.namespace != "" && (c.flags.socket != "" || daemon.Listens(daemon.SocketFD))
}

// explain is for a person who ran the binary by hand.
func (c *command) explain(arg0 string) {
	fmt.Fprintf(c.stderr, "%s runs containers for containerd, which calls it; it is not started by hand.\n"+
		"Try: ctr run --runtime %s IMAGE ID, or %s -h for its flags.\n", filepath.Base(arg0), c.name, filepath.Base(arg0))
}

func (c *command) printVersion(arg0 string) error {
	_, err := fmt.Fprintf(c.stdout, "%s:\n  Version:  %s\n  Revision: %s\n  Go version: %s\n",
		filepath.Base(arg0), c.config.version, c.config.revision, runtime.Version())
	return err
}

// env is the Env of the actions that do not serve.
func (c *command) env(dir string) *Env {
	level := slog.LevelWarn
	if c.flags.debug {
		level = slog.LevelDebug
	}
	return &Env{
		Name: c.name, ID: c.flags.id, Namespace: c.flags.namespace, Bundle: dir, Address: c.flags.address,
		Events: c.getenv("TTRPC_ADDRESS"), Debug: c.flags.debug,
		Log: slog.New(slog.NewTextHandler(c.stderr, &slog.HandlerOptions{Level: level})),
	}
}

// with makes the runtime, lets do work with it, and closes it.
func (c *command) with(ctx context.Context, env *Env, do func(rt any) error) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	rt, err := c.init(ctx, env)
	if err != nil {
		return fmt.Errorf("make the runtime: %w", err)
	}
	if closer, ok := rt.(io.Closer); ok {
		defer func() { err = errors.Join(err, closer.Close()) }()
	}
	return do(rt)
}

// workdir is the bundle: the daemon runs the binary there.
func workdir() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the bundle: %w", err)
	}
	return dir, nil
}
