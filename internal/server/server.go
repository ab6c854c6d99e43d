// Package server serves the task API: it decodes and checks requests, hands them to supervise, and turns what comes
// back into messages and status codes.
package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"

	"github.com/containerd/ttrpc"
	"github.com/shimwright/shimwright/internal/supervise"
)

// The names of the task service. The messages of both are the same on the wire.
var serviceNames = []string{"containerd.task.v2.Task", "containerd.task.v3.Task"}

// Config is what a Server serves.
type Config struct {
	Supervisor   *supervise.Supervisor
	Shutdown     func() // called once the shim may end, and the caller of Shutdown has been answered
	Register     func(*ttrpc.Server) error
	Interceptors []ttrpc.UnaryServerInterceptor // the first is the outermost, inside of our own
	Log          *slog.Logger
}

// Server is a ttrpc server with the task service and the author's own.
type Server struct {
	ttrpc   *ttrpc.Server
	callers callers
}

// New returns a server that refuses peers of another user.
func New(cfg Config) (*Server, error) {
	chain := append([]ttrpc.UnaryServerInterceptor{logged(cfg.Log), mapped, recovered(cfg.Log)}, cfg.Interceptors...)
	s := new(Server)
	var err error
	if s.ttrpc, err = ttrpc.NewServer(ttrpc.WithServerHandshaker(&s.callers), ttrpc.WithUnaryServerInterceptor(chained(chain))); err != nil {
		return nil, err
	}
	svc := &service{sup: cfg.Supervisor, shutdown: cfg.Shutdown}
	for _, name := range serviceNames {
		s.ttrpc.RegisterService(name, &ttrpc.ServiceDesc{Methods: svc.methods()})
	}
	if cfg.Register != nil {
		if err := cfg.Register(s.ttrpc); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Serve answers on l until Shutdown or Close.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if err := s.ttrpc.Serve(ctx, l); err != nil && !errors.Is(err, ttrpc.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Shutdown ends the server when the callers have hung up, or with ctx. ttrpc's own would cut off answers under way.
func (s *Server) Shutdown(ctx context.Context) error {
	s.callers.wait(ctx)
	return s.Close()
}

// Close ends the server at once.
func (s *Server) Close() error { return s.ttrpc.Close() }

// chained makes one interceptor of many, the first outermost.
func chained(all []ttrpc.UnaryServerInterceptor) ttrpc.UnaryServerInterceptor {
	return func(ctx context.Context, u ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
		for _, i := range slices.Backward(all) {
			next := method
			method = func(ctx context.Context, u func(any) error) (any, error) { return i(ctx, u, info, next) }
		}
		return method(ctx, u)
	}
}
