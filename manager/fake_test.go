package manager_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/shimwright/shimwright/internal/bootstrap"
	"github.com/shimwright/shimwright/internal/bundle"
	"github.com/shimwright/shimwright/internal/socket"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// The test binary is a shim too: one without containers that does what FAKE_SHIM says, to see how the manager takes it.
const (
	fakeMode    = "FAKE_SHIM"
	fakeSockets = "FAKE_SHIM_SOCKETS" // a directory
)

// What a fake shim may be told to do.
const (
	modeGood    = "good"
	modeFail    = "fail"    // start fails
	modeGarbage = "garbage" // start answers with more than an address
	modeDead    = "dead"    // start answers, but nobody serves
	modeOld     = "old"     // serves version 2 only
	modeHung    = "hung"    // takes connections, answers nothing
)

// exitOfDead is what the delete command of a fake shim answers.
var exitOfDead = &taskapi.DeleteResponse{Pid: 4242, ExitStatus: 7, ExitedAt: timestamppb.New(time.Unix(1e9, 5))}

func TestMain(m *testing.M) {
	if mode := os.Getenv(fakeMode); mode != "" {
		if err := fakeShim(mode); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func fakeShim(mode string) error {
	flags := flag.NewFlagSet("shim", flag.ContinueOnError)
	var (
		namespace = flags.String("namespace", "", "")
		id        = flags.String("id", "", "")
		address   = flags.String("address", "", "")
		_         = flags.String("publish-binary", "", "")
		_         = flags.String("bundle", "", "")
		_         = flags.Bool("debug", false, "")
	)
	if err := flags.Parse(os.Args[1:]); err != nil {
		return err
	}
	where := func() (string, error) {
		dir, err := os.Getwd()
		if err != nil {
			return "", err
		}
		group := bundle.Group(dir)
		if group == "" {
			group = *id
		}
		return socket.Address(os.Getenv(fakeSockets), *address, *namespace, group)
	}
	switch flags.Arg(0) {
	case "start":
		p, err := bootstrap.Read(os.Stdin, *id, *namespace, os.Getenv)
		if err != nil {
			return err
		}
		if mode == modeFail {
			return errors.New("out of order")
		}
		if mode == modeGarbage {
			fmt.Fprintln(os.Stderr, "this is deprecated")
		}
		a, err := where()
		if err != nil {
			return err
		}
		if mode != modeDead {
			if err := fakeStart(a); err != nil {
				return err
			}
		}
		return bootstrap.WriteReply(os.Stdout, p.Dialect, a)
	case "delete":
		if _, err := os.Stat("delete-fails"); err == nil {
			return errors.New("delete is out of order")
		}
		a, err := where()
		if err != nil {
			return err
		}
		if err := socket.RemoveStale(a); err != nil {
			return err
		}
		answer, err := proto.Marshal(exitOfDead)
		if err != nil {
			return err
		}
		_, err = os.Stdout.Write(answer)
		return err
	default:
		return fakeServe(mode, *id)
	}
}

func fakeStart(address string) error {
	s, err := socket.Listen(address)
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return err
	}
	f, err := s.File()
	if err != nil {
		return err
	}
	cmd := exec.Command(os.Args[0], append(os.Args[1:len(os.Args)-1:len(os.Args)-1], "serve")...)
	cmd.ExtraFiles = []*os.File{f}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := bundle.WriteAddress(".", address); err != nil {
		return err
	}
	return cmd.Start()
}

func fakeServe(mode, id string) error {
	s, err := socket.Inherit(os.NewFile(3, "socket"))
	if err != nil {
		return err
	}
	if log, err := os.OpenFile(bundle.LogFile, os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
		fmt.Fprintf(log, "level=warning msg=\"%s serves\"\n", id)
		log.Close()
	}
	if mode == modeHung {
		for {
			if _, err := s.Listener().Accept(); err != nil {
				return err
			}
		}
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	f := &fakeTasks{tasks: make(map[string]bool), end: make(chan struct{})}
	server.RegisterService("containerd.task.v2.Task", &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"Connect":  method(f.Connect),
		"State":    method(f.State),
		"Create":   method(f.Create),
		"Delete":   method(f.Delete),
		"Shutdown": method(f.Shutdown),
	}})
	if mode != modeOld {
		taskapi.RegisterTTRPCTaskService(server, f)
	}
	go server.Serve(context.Background(), s.Listener())
	<-f.end
	return errors.Join(s.Remove(), server.Shutdown(context.Background()))
}

func method[T any, Request interface {
	*T
	proto.Message
}, Response any](do func(context.Context, Request) (Response, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (any, error) {
		r := Request(new(T))
		if err := unmarshal(r); err != nil {
			return nil, err
		}
		return do(ctx, r)
	}
}

// fakeTasks is a task service whose tasks do nothing. They have ended with 3, unless they are called "running".
type fakeTasks struct {
	taskapi.TTRPCTaskService
	end  chan struct{}
	once sync.Once

	mu    sync.Mutex
	tasks map[string]bool
}

func (f *fakeTasks) has(id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.tasks[id] {
		return errgrpc.ToGRPC(fmt.Errorf("task %s: %w", id, errdefs.ErrNotFound))
	}
	return nil
}

func (f *fakeTasks) Connect(context.Context, *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	return &taskapi.ConnectResponse{ShimPid: uint32(os.Getpid())}, nil
}

func (f *fakeTasks) State(_ context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	return &taskapi.StateResponse{ID: r.ID}, f.has(r.ID)
}

func (f *fakeTasks) Create(_ context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	if f.has(r.ID) == nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("task %s: %w", r.ID, errdefs.ErrAlreadyExists))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tasks[r.ID] = true
	return &taskapi.CreateTaskResponse{}, nil
}

func (f *fakeTasks) Delete(_ context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	if err := f.has(r.ID); err != nil {
		return nil, err
	}
	if r.ID == "running" {
		return nil, errgrpc.ToGRPC(fmt.Errorf("task %s is running: %w", r.ID, errdefs.ErrFailedPrecondition))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.tasks, r.ID)
	return &taskapi.DeleteResponse{Pid: 33, ExitStatus: 3, ExitedAt: timestamppb.New(time.Unix(1e9, 0))}, nil
}

// Wait waits for the caller to give up.
func (f *fakeTasks) Wait(ctx context.Context, _ *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (f *fakeTasks) Shutdown(context.Context, *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.tasks) == 0 {
		f.once.Do(func() { close(f.end) })
	}
	return &emptypb.Empty{}, nil
}
