package publish

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	events "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// fakeDaemon takes events, as answer lets it.
type fakeDaemon struct {
	answer func(n int, e *types.Envelope) error // n counts from 1; nil: takes all

	mu    sync.Mutex
	calls int
	taken []*types.Envelope
}

func (d *fakeDaemon) Forward(ctx context.Context, r *events.ForwardRequest) (*emptypb.Empty, error) {
	d.mu.Lock()
	d.calls++
	n := d.calls
	d.mu.Unlock()
	if d.answer != nil {
		if err := d.answer(n, r.Envelope); err != nil {
			return nil, errgrpc.ToGRPC(err)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.taken = append(d.taken, r.Envelope)
	return &emptypb.Empty{}, nil
}

// listen serves d at path until stop is called.
func (d *fakeDaemon) listen(t *testing.T, path string) (stop func()) {
	t.Helper()
	srv, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	events.RegisterTTRPCEventsService(srv, d)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(context.Background(), l) }()
	stop = sync.OnceFunc(func() { srv.Close(); <-done })
	t.Cleanup(stop)
	return stop
}

func (d *fakeDaemon) ids(t *testing.T) (ids []string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range d.taken {
		v, err := typeurl.UnmarshalAny(e.Event)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, v.(*apievents.TaskStart).ContainerID)
	}
	return ids
}

func open(t *testing.T, address string) *Queue {
	t.Helper()
	q := New(Config{Address: address, Namespace: "ns", Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(q.Close)
	return q
}

func put(q *Queue, from, to int) (ids []string) {
	for i := from; i < to; i++ {
		id := fmt.Sprint("c", i)
		q.Publish("/tasks/start", &apievents.TaskStart{ContainerID: id})
		ids = append(ids, id)
	}
	return ids
}

func drained(t *testing.T, q *Queue) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if left := q.Drain(ctx); left != 0 {
		t.Fatalf("%d events are left", left)
	}
}

func TestAllInOrder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	d := new(fakeDaemon)
	d.listen(t, path)
	q := open(t, "unix://"+path)
	before := time.Now()
	want := put(q, 0, 500)
	drained(t, q)
	if got := d.ids(t); !slices.Equal(got, want) {
		t.Errorf("got %d events %v", len(got), got)
	}
	e := d.taken[0]
	if e.Namespace != "ns" || e.Topic != "/tasks/start" || e.Event.TypeUrl != "containerd.events.TaskStart" || e.Timestamp.AsTime().Before(before.Add(-time.Second)) {
		t.Errorf("envelope %v", e)
	}
}

// No daemon, then one, then it goes away in the middle and another comes: nothing is lost, nothing changes places, and
// publishing never waits.
func TestDaemonComesAndGoes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	q := open(t, path)
	begin := time.Now()
	want := put(q, 0, 50)
	if took := time.Since(begin); took > time.Second {
		t.Errorf("publishing without a daemon took %v", took)
	}
	first := new(fakeDaemon)
	halfway := make(chan struct{})
	first.answer = func(n int, _ *types.Envelope) error {
		if n == 20 {
			close(halfway)
		}
		if n >= 20 {
			return fmt.Errorf("going down: %w", errdefs.ErrUnavailable)
		}
		return nil
	}
	stop := first.listen(t, path)
	<-halfway
	stop()
	want = append(want, put(q, 50, 60)...)
	second := new(fakeDaemon)
	second.listen(t, path)
	drained(t, q)
	if got := append(first.ids(t), second.ids(t)...); !slices.Equal(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
}

// A daemon that is stopped in the middle of a call and goes on takes the event once.
func TestHungDaemonTakesOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	goOn := make(chan struct{})
	d := &fakeDaemon{answer: func(n int, _ *types.Envelope) error {
		if n == 3 {
			<-goOn
		}
		return nil
	}}
	d.listen(t, path)
	q := open(t, path)
	want := put(q, 0, 10)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if left := q.Drain(ctx); left != 8 {
		t.Errorf("%d events are left while the daemon hangs at the third, want 8", left)
	}
	close(goOn)
	drained(t, q)
	if got := d.ids(t); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

func TestInvalidEventHoldsUpNobody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	d := &fakeDaemon{answer: func(n int, _ *types.Envelope) error {
		if n == 2 {
			return fmt.Errorf("no such topic: %w", errdefs.ErrInvalidArgument)
		}
		return nil
	}}
	d.listen(t, path)
	q := open(t, path)
	put(q, 0, 3)
	drained(t, q)
	if got := d.ids(t); !slices.Equal(got, []string{"c0", "c2"}) {
		t.Errorf("got %v", got)
	}
}

// What could never be sent does not get into the queue.
func TestImpossibleEventHoldsUpNobody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	d := new(fakeDaemon)
	d.listen(t, path)
	q := open(t, path)
	q.Forward(nil)
	q.Forward(&types.Envelope{Topic: "\xff\xfe"})
	q.Forward(&types.Envelope{Topic: "/big", Event: &anypb.Any{TypeUrl: "x", Value: make([]byte, 5<<20)}})
	put(q, 0, 1)
	drained(t, q)
	if got := d.ids(t); !slices.Equal(got, []string{"c0"}) {
		t.Errorf("got %v", got)
	}
}

// The largest event that the queue takes fits into a message.
func TestLargestEventIsSent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	d := new(fakeDaemon)
	d.listen(t, path)
	q := open(t, path)
	q.Forward(&types.Envelope{Topic: "/big", Event: &anypb.Any{TypeUrl: "x", Value: make([]byte, maxEvent-64)}})
	drained(t, q)
	if len(d.taken) != 1 {
		t.Errorf("%d events arrived", len(d.taken))
	}
}

func TestForwardKeepsTimeAndNamespace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	d := new(fakeDaemon)
	d.listen(t, path)
	q := open(t, path)
	at := time.Unix(1_700_000_000, 42)
	payload, err := typeurl.MarshalAnyToProto(&apievents.TaskStart{ContainerID: "inner"})
	if err != nil {
		t.Fatal(err)
	}
	q.Forward(&types.Envelope{Timestamp: timestamppb.New(at), Namespace: "other", Topic: "/tasks/start", Event: payload})
	drained(t, q)
	if e := d.taken[0]; !e.Timestamp.AsTime().Equal(at) || e.Namespace != "other" {
		t.Errorf("envelope %v", e)
	}
}

func TestNobodyTakesEvents(t *testing.T) {
	q := open(t, "")
	put(q, 0, 10)
	drained(t, q)
}

func TestCloseEndsWhileNoDaemonIsThere(t *testing.T) {
	q := New(Config{Address: filepath.Join(t.TempDir(), "none"), Log: slog.New(slog.DiscardHandler)})
	put(q, 0, 10)
	ended := make(chan struct{})
	go func() { q.Close(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("Close hangs")
	}
}
