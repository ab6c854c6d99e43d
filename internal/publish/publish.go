// Package publish sends a shim's events to the daemon: in the order in which they happened, each until it was taken.
//
// One queue and one goroutine. Publish never waits, for whatever the daemon does; an event stays at the head of the
// queue until the daemon has answered for it, through refusals, hangs, restarts and hours without a daemon. Only an event
// that the daemon calls invalid is given up, since it would hold back all others for ever.
package publish

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	events "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// The pause after a refusal, and what it grows to.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 2 * time.Second
)

// Config says where events go.
type Config struct {
	Address   string // the daemon's ttrpc socket, a path with or without unix://; empty: events have no taker and are dropped
	Namespace string // of every event that does not bring its own
	Log       *slog.Logger
}

// Queue is the ordered queue. Close ends its goroutine.
type Queue struct {
	cfg    Config
	stop   context.CancelFunc
	ended  chan struct{}
	wakeup chan struct{} // capacity 1

	mu      sync.Mutex
	pending []*types.Envelope
	idle    chan struct{} // closed when pending is empty; nil when nobody waits
}

// New starts a queue. It connects when there is something to send.
func New(cfg Config) *Queue {
	ctx, stop := context.WithCancel(context.Background())
	q := &Queue{cfg: cfg, stop: stop, ended: make(chan struct{}), wakeup: make(chan struct{}, 1)}
	go q.run(ctx)
	return q
}

// Publish queues an event that happened now. It does not wait.
func (q *Queue) Publish(topic string, event any) {
	payload, err := typeurl.MarshalAnyToProto(event)
	if err != nil {
		q.cfg.Log.Error("event cannot be encoded", "topic", topic, "error", err)
		return
	}
	q.Forward(&types.Envelope{Timestamp: timestamppb.Now(), Namespace: q.cfg.Namespace, Topic: topic, Event: payload})
}

// maxEvent is the size of an event in bytes that certainly fits into one ttrpc message.
const maxEvent = 4<<20 - 4<<10

// Forward queues an event that came from elsewhere, with its own time and namespace. It does not wait. What could never
// be sent is not queued, since it would hold back all others.
func (q *Queue) Forward(e *types.Envelope) {
	if q.cfg.Address == "" || e == nil {
		return
	}
	if b, err := proto.Marshal(e); err != nil || len(b) > maxEvent {
		q.cfg.Log.Error("event cannot be sent", "size", len(b), "error", err)
		return
	}
	q.mu.Lock()
	q.pending = append(q.pending, e)
	q.mu.Unlock()
	select {
	case q.wakeup <- struct{}{}:
	default:
	}
}

// Drain returns when the daemon has taken every event, or with ctx and the number of those that it has not.
func (q *Queue) Drain(ctx context.Context) (left int) {
	q.mu.Lock()
	if len(q.pending) == 0 {
		q.mu.Unlock()
		return 0
	}
	if q.idle == nil {
		q.idle = make(chan struct{})
	}
	idle := q.idle
	q.mu.Unlock()
	select {
	case <-idle:
		return 0
	case <-ctx.Done():
		q.mu.Lock()
		defer q.mu.Unlock()
		return len(q.pending)
	}
}

// Close ends the queue; what is still in it is lost.
func (q *Queue) Close() {
	q.stop()
	<-q.ended
}

func (q *Queue) run(ctx context.Context) {
	defer close(q.ended)
	var conn connection
	defer conn.close()
	for {
		e := q.head()
		if e == nil {
			select {
			case <-q.wakeup:
				continue
			case <-ctx.Done():
				return
			}
		}
		if !q.deliver(ctx, &conn, e) {
			return
		}
		q.pop()
	}
}

// deliver sends e until the daemon has taken it. false: ctx has ended.
func (q *Queue) deliver(ctx context.Context, conn *connection, e *types.Envelope) bool {
	pause := firstPause
	for {
		err := conn.forward(ctx, q.cfg.Address, e)
		switch {
		case ctx.Err() != nil:
			return false
		case err == nil:
			if pause > firstPause {
				q.cfg.Log.Info("events reach the daemon again")
			}
			return true
		case errors.Is(err, errdefs.ErrInvalidArgument):
			q.cfg.Log.Error("event given up: the daemon calls it invalid", "topic", e.Topic, "error", err)
			return true
		}
		if pause == firstPause {
			q.cfg.Log.Warn("event not taken, trying until it is", "topic", e.Topic, "error", err)
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, lastPause)
		case <-ctx.Done():
			return false
		}
	}
}

func (q *Queue) head() *types.Envelope {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.pending) == 0 {
		return nil
	}
	return q.pending[0]
}

func (q *Queue) pop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.pending[0] = nil
	q.pending = q.pending[1:]
	if len(q.pending) > 0 {
		return
	}
	q.pending = nil // and with it the memory of a burst
	if q.idle != nil {
		close(q.idle)
		q.idle = nil
	}
}

// connection is the daemon's event service, dialled when it is needed.
type connection struct{ client *ttrpc.Client }

// forward sends one event. It waits as long as the daemon is connected: a daemon that is stopped takes the event once
// when it goes on, where a second try would make two of it.
func (c *connection) forward(ctx context.Context, address string, e *types.Envelope) error {
	if c.client == nil {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", strings.TrimPrefix(address, "unix://"))
		if err != nil {
			return fmt.Errorf("connect to the daemon: %w", err)
		}
		c.client = ttrpc.NewClient(conn)
	}
	_, err := events.NewTTRPCEventsClient(c.client).Forward(ctx, &events.ForwardRequest{Envelope: e})
	if err == nil {
		return nil
	}
	err = errgrpc.ToNative(err)
	if !errors.Is(err, errdefs.ErrInvalidArgument) {
		c.close()
	}
	return err
}

func (c *connection) close() {
	if c.client != nil {
		_ = c.client.Close()
		c.client = nil
	}
}
