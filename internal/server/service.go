package server

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"syscall"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	apitask "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/shimwright/shimwright/internal/bundle"
	"github.com/shimwright/shimwright/internal/stdio"
	"github.com/shimwright/shimwright/internal/supervise"
	"github.com/shimwright/shimwright/task"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// service answers the 17 methods.
type service struct {
	sup      *supervise.Supervisor
	shutdown func()
}

func (s *service) methods() map[string]ttrpc.Method {
	return map[string]ttrpc.Method{
		"State":      method(s.State),
		"Create":     method(s.Create),
		"Start":      method(s.Start),
		"Delete":     method(s.Delete),
		"Pids":       method(s.Pids),
		"Pause":      method(s.Pause),
		"Resume":     method(s.Resume),
		"Checkpoint": method(s.Checkpoint),
		"Kill":       method(s.Kill),
		"Exec":       method(s.Exec),
		"ResizePty":  method(s.ResizePty),
		"CloseIO":    method(s.CloseIO),
		"Update":     method(s.Update),
		"Wait":       method(s.Wait),
		"Stats":      method(s.Stats),
		"Connect":    method(s.Connect),
		"Shutdown":   method(s.Shutdown),
	}
}

// request is a message that names a task.
type request[R any] interface {
	*R
	GetID() string
}

// method makes a ttrpc method of a handler, and checks the ids that every request carries.
func method[R any, P request[R], A any](handle func(context.Context, P) (A, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (any, error) {
		r := P(new(R))
		if err := decoded(unmarshal(r)); err != nil {
			return nil, err
		}
		if err := bundle.CheckID(r.GetID()); err != nil {
			if _, anyone := any(r).(*taskapi.ShutdownRequest); !anyone { // it is about the shim
				return nil, err
			}
		}
		if e, ok := any(r).(interface{ GetExecID() string }); ok && e.GetExecID() != "" {
			if err := bundle.CheckID(e.GetExecID()); err != nil {
				return nil, err
			}
		}
		return handle(ctx, r)
	}
}

var empty = &emptypb.Empty{}

func (s *service) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	if !filepath.IsAbs(r.Bundle) {
		return nil, invalid("bundle %q is not an absolute path", r.Bundle)
	}
	if st, err := os.Stat(r.Bundle); err != nil {
		return nil, invalid("bundle: %w", err)
	} else if !st.IsDir() {
		return nil, invalid("bundle %s is not a directory", r.Bundle)
	}
	pid, err := s.sup.Create(ctx, &supervise.CreateRequest{
		ID: r.ID, Bundle: filepath.Clean(r.Bundle), Mounts: r.Rootfs, Options: r.Options,
		Stdio:      stdio.Config{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
		Checkpoint: r.Checkpoint, ParentCheckpoint: r.ParentCheckpoint,
	})
	if err != nil {
		return nil, err
	}
	return &taskapi.CreateTaskResponse{Pid: uint32(pid)}, nil
}

func (s *service) Start(ctx context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	pid, err := s.sup.Start(ctx, r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return &taskapi.StartResponse{Pid: uint32(pid)}, nil
}

func (s *service) Exec(ctx context.Context, r *taskapi.ExecProcessRequest) (*emptypb.Empty, error) {
	if r.ExecID == "" {
		return nil, invalid("exec id is empty")
	}
	spec := new(specs.Process)
	if err := unpackJSON(r.Spec, processType, spec); err != nil {
		return nil, err
	}
	if len(spec.Args) == 0 {
		return nil, invalid("Process has no args")
	}
	spec.Terminal = r.Terminal
	return empty, s.sup.Exec(ctx, r.ID, &supervise.ExecRequest{
		ID: r.ExecID, Spec: spec,
		Stdio: stdio.Config{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
	})
}

func (s *service) Kill(ctx context.Context, r *taskapi.KillRequest) (*emptypb.Empty, error) {
	const lastSignal = 64
	if r.Signal > lastSignal {
		return nil, invalid("signal %d does not exist", r.Signal)
	}
	return empty, s.sup.Kill(ctx, r.ID, r.ExecID, syscall.Signal(r.Signal), r.All)
}

func (s *service) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	st, err := s.sup.Delete(ctx, r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return &taskapi.DeleteResponse{Pid: uint32(st.PID), ExitStatus: uint32(st.Exit.Status), ExitedAt: exitedAt(st.Exit)}, nil
}

func (s *service) Wait(ctx context.Context, r *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	exit, err := s.sup.Wait(ctx, r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return &taskapi.WaitResponse{ExitStatus: uint32(exit.Status), ExitedAt: exitedAt(exit)}, nil
}

var statuses = map[task.State]apitask.Status{
	task.Created: apitask.Status_CREATED,
	task.Running: apitask.Status_RUNNING,
	task.Paused:  apitask.Status_PAUSED,
	task.Stopped: apitask.Status_STOPPED,
	task.Deleted: apitask.Status_STOPPED,
}

func (s *service) State(_ context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	st, err := s.sup.State(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return &taskapi.StateResponse{
		ID: st.ID, ExecID: st.ExecID, Bundle: st.Bundle, Pid: uint32(st.PID), Status: statuses[st.State],
		Stdin: st.Stdio.Stdin, Stdout: st.Stdio.Stdout, Stderr: st.Stdio.Stderr, Terminal: st.Stdio.Terminal,
		ExitStatus: uint32(st.Exit.Status), ExitedAt: exitedAt(st.Exit),
	}, nil
}

func (s *service) Pids(ctx context.Context, r *taskapi.PidsRequest) (*taskapi.PidsResponse, error) {
	pids, err := s.sup.PIDs(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	resp := &taskapi.PidsResponse{Processes: make([]*apitask.ProcessInfo, len(pids))}
	for i, p := range pids {
		info := &apitask.ProcessInfo{Pid: uint32(p.PID)}
		if p.ExecID != "" {
			if info.Info, err = typeurl.MarshalAnyToProto(&options.ProcessDetails{ExecID: p.ExecID}); err != nil {
				return nil, err
			}
		}
		resp.Processes[i] = info
	}
	return resp, nil
}

func (s *service) Pause(ctx context.Context, r *taskapi.PauseRequest) (*emptypb.Empty, error) {
	return empty, s.sup.Pause(ctx, r.ID)
}

func (s *service) Resume(ctx context.Context, r *taskapi.ResumeRequest) (*emptypb.Empty, error) {
	return empty, s.sup.Resume(ctx, r.ID)
}

func (s *service) Update(ctx context.Context, r *taskapi.UpdateTaskRequest) (*emptypb.Empty, error) {
	u := &task.UpdateRequest{Annotations: r.Annotations}
	if r.Resources != nil {
		u.Resources = new(specs.LinuxResources)
		if err := unpackJSON(r.Resources, resourcesType, u.Resources); err != nil {
			return nil, err
		}
	} else if len(r.Annotations) == 0 {
		return nil, invalid("resources are missing")
	}
	return empty, s.sup.Update(ctx, r.ID, u)
}

func (s *service) Checkpoint(ctx context.Context, r *taskapi.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return empty, s.sup.Checkpoint(ctx, r.ID, &task.CheckpointRequest{Path: r.Path, Options: r.Options})
}

func (s *service) Stats(ctx context.Context, r *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	m, err := s.sup.Stats(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	stats, err := typeurl.MarshalAnyToProto(m)
	if err != nil {
		return nil, err
	}
	return &taskapi.StatsResponse{Stats: stats}, nil
}

func (s *service) CloseIO(_ context.Context, r *taskapi.CloseIORequest) (*emptypb.Empty, error) {
	if !r.Stdin {
		_, err := s.sup.State(r.ID, r.ExecID)
		return empty, err
	}
	return empty, s.sup.CloseStdin(r.ID, r.ExecID)
}

func (s *service) ResizePty(_ context.Context, r *taskapi.ResizePtyRequest) (*emptypb.Empty, error) {
	const most = 1<<16 - 1
	if r.Width > most || r.Height > most {
		return nil, invalid("a terminal of %d by %d characters", r.Width, r.Height)
	}
	return empty, s.sup.Resize(r.ID, r.ExecID, uint16(r.Width), uint16(r.Height))
}

// Connect answers for unknown tasks too: a daemon that comes back asks before it knows.
func (s *service) Connect(_ context.Context, r *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	if s.sup.Closing() { // a start of the group must not rely on this shim
		return nil, fmt.Errorf("the shim is shutting down: %w", errdefs.ErrUnavailable)
	}
	resp := &taskapi.ConnectResponse{ShimPid: uint32(os.Getpid()), Version: "v2"}
	if st, err := s.sup.State(r.ID, ""); err == nil {
		resp.TaskPid = uint32(st.PID)
	}
	return resp, nil
}

func (s *service) Shutdown(_ context.Context, r *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	if s.sup.Close(r.Now) {
		s.shutdown()
	}
	return empty, nil
}

func exitedAt(e task.Exit) *timestamppb.Timestamp {
	if e.At.IsZero() {
		return nil
	}
	return timestamppb.New(e.At)
}

// The type URLs under which clients pack what the runtime specification defines, as JSON.
const (
	processType   = "types.containerd.io/opencontainers/runtime-spec/1/Process"
	resourcesType = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
)

// unpackJSON decodes the JSON in a, which has to be of the named type. A client may leave the name out.
func unpackJSON(a *anypb.Any, typeURL string, into any) error {
	what := path.Base(typeURL)
	if a == nil || len(a.Value) == 0 {
		return invalid("%s is missing", what)
	}
	if a.TypeUrl != "" && a.TypeUrl != typeURL {
		return invalid("%s has the type %q, want %q", what, a.TypeUrl, typeURL)
	}
	if err := json.Unmarshal(a.Value, into); err != nil {
		return invalid("%s: %w", what, err)
	}
	return nil
}
