package manager

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	_ "github.com/containerd/containerd/api/events" // the types of what shims publish
	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/shimwright/shimwright/internal/socket"
	"google.golang.org/protobuf/types/known/emptypb"
)

// An Event is something that happened in a shim.
type Event struct {
	Time      time.Time // when, by the shim's clock
	Namespace string
	Topic     string // such as /tasks/exit

	// Message is a message of package github.com/containerd/containerd/api/events, such as *TaskExit;
	// an *anypb.Any where this program does not know its type.
	Message any
}

// eventServer takes events from shims and hands them out one at a time.
type eventServer struct {
	out chan Event

	socket *socket.Socket
	server *ttrpc.Server
	served chan struct{} // closed when the server has ended

	mu      sync.RWMutex // held for reading by every Forward, so that out is closed after the last one
	closing chan struct{}
	once    sync.Once
}

func serveEvents(path string, log *slog.Logger) (*eventServer, error) {
	sock, err := socket.Listen("unix://" + path)
	if err != nil {
		return nil, err
	}
	server, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(ttrpc.UnixSocketRequireSameUser()))
	if err != nil {
		return nil, errors.Join(err, sock.Remove(), sock.Close())
	}
	s := &eventServer{
		out:     make(chan Event),
		socket:  sock,
		server:  server,
		served:  make(chan struct{}),
		closing: make(chan struct{}),
	}
	eventsapi.RegisterTTRPCEventsService(server, s)
	go func() { // ends with Close
		defer close(s.served)
		if err := server.Serve(context.Background(), sock.Listener()); !errors.Is(err, ttrpc.ErrServerClosed) {
			log.Error("listen for events", "err", err)
		}
	}()
	return s, nil
}

// address is where shims find the server: a path, as daemons write it.
func (s *eventServer) address() string {
	path, _ := socket.Path(s.socket.Address())
	return path
}

// Forward answers when the event was taken.
func (s *eventServer) Forward(ctx context.Context, r *eventsapi.ForwardRequest) (*emptypb.Empty, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e := r.GetEnvelope()
	if e == nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("no envelope: %w", errdefs.ErrInvalidArgument))
	}
	event := Event{Time: e.Timestamp.AsTime(), Namespace: e.Namespace, Topic: e.Topic, Message: e.Event}
	if message, err := typeurl.UnmarshalAny(e.Event); err == nil {
		event.Message = message
	}
	select { // first of all: out is closed when this lock was to be had after Close
	case <-s.closing:
		return nil, errgrpc.ToGRPC(errdefs.ErrUnavailable)
	default:
	}
	select {
	case s.out <- event:
		return &emptypb.Empty{}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.closing:
		return nil, errgrpc.ToGRPC(errdefs.ErrUnavailable)
	}
}

func (s *eventServer) Close() (err error) {
	s.once.Do(func() {
		close(s.closing)
		err = errors.Join(s.socket.Remove(), s.server.Close())
		_ = s.socket.Close() // the server has closed the listener
		<-s.served
		s.mu.Lock()
		defer s.mu.Unlock()
		close(s.out)
	})
	return err
}
