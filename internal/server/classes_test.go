package server

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/shimwright/shimwright/task"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
)

func processSpec(json string) *anypb.Any {
	return &anypb.Any{TypeUrl: processType, Value: []byte(json)}
}

const sleep = `{"args":["sleep","1"],"cwd":"/"}`

// Every refusal has a class that clients can branch on. Between the rows the shim stays as it is and goes on serving.
func TestEveryRefusalHasAClass(t *testing.T) {
	h := serve(t, new(fakeRuntime))
	torn := t.TempDir()
	write(t, torn, "config.json", `{"ociVersion": "1.0`)
	h.create("created", false)
	h.create("running", true)
	h.create("paused", true)
	do[emptypb.Empty](h, "Pause", &taskapi.PauseRequest{ID: "paused"})
	h.create("stopped", true)
	do[emptypb.Empty](h, "Kill", &taskapi.KillRequest{ID: "stopped", Signal: 9})
	do[taskapi.WaitResponse](h, "Wait", &taskapi.WaitRequest{ID: "stopped"})
	do[emptypb.Empty](h, "Exec", &taskapi.ExecProcessRequest{ID: "running", ExecID: "added", Spec: processSpec(sleep)})
	before := len(h.told())

	ok := h.bundle
	bad := strings.Repeat("x", 77)
	for _, c := range []struct {
		name   string
		method string
		req    any
		want   error
	}{
		{"state of no task", "State", &taskapi.StateRequest{ID: "none"}, errdefs.ErrNotFound},
		{"state of no exec", "State", &taskapi.StateRequest{ID: "running", ExecID: "none"}, errdefs.ErrNotFound},
		{"start no task", "Start", &taskapi.StartRequest{ID: "none"}, errdefs.ErrNotFound},
		{"start no exec", "Start", &taskapi.StartRequest{ID: "running", ExecID: "none"}, errdefs.ErrNotFound},
		{"delete no task", "Delete", &taskapi.DeleteRequest{ID: "none"}, errdefs.ErrNotFound},
		{"delete no exec", "Delete", &taskapi.DeleteRequest{ID: "running", ExecID: "none"}, errdefs.ErrNotFound},
		{"kill no task", "Kill", &taskapi.KillRequest{ID: "none", Signal: 9}, errdefs.ErrNotFound},
		{"wait for no task", "Wait", &taskapi.WaitRequest{ID: "none"}, errdefs.ErrNotFound},
		{"wait for no exec", "Wait", &taskapi.WaitRequest{ID: "running", ExecID: "none"}, errdefs.ErrNotFound},
		{"exec in no task", "Exec", &taskapi.ExecProcessRequest{ID: "none", ExecID: "e", Spec: processSpec(sleep)}, errdefs.ErrNotFound},
		{"pids of no task", "Pids", &taskapi.PidsRequest{ID: "none"}, errdefs.ErrNotFound},
		{"pause no task", "Pause", &taskapi.PauseRequest{ID: "none"}, errdefs.ErrNotFound},
		{"resume no task", "Resume", &taskapi.ResumeRequest{ID: "none"}, errdefs.ErrNotFound},
		{"stats of no task", "Stats", &taskapi.StatsRequest{ID: "none"}, errdefs.ErrNotFound},
		{"update no task", "Update", &taskapi.UpdateTaskRequest{ID: "none", Annotations: map[string]string{"a": "b"}}, errdefs.ErrNotFound},
		{"close stdin of no task", "CloseIO", &taskapi.CloseIORequest{ID: "none", Stdin: true}, errdefs.ErrNotFound},
		{"resize no task", "ResizePty", &taskapi.ResizePtyRequest{ID: "none"}, errdefs.ErrNotFound},
		{"checkpoint no task", "Checkpoint", &taskapi.CheckpointTaskRequest{ID: "none"}, errdefs.ErrNotFound},

		{"kill what has exited", "Kill", &taskapi.KillRequest{ID: "stopped", Signal: 9}, errdefs.ErrNotFound},

		{"start twice", "Start", &taskapi.StartRequest{ID: "running"}, errdefs.ErrFailedPrecondition},
		{"start what has exited", "Start", &taskapi.StartRequest{ID: "stopped"}, errdefs.ErrFailedPrecondition},
		{"delete while running", "Delete", &taskapi.DeleteRequest{ID: "running"}, errdefs.ErrFailedPrecondition},
		{"delete while paused", "Delete", &taskapi.DeleteRequest{ID: "paused"}, errdefs.ErrFailedPrecondition},
		{"exec in stopped", "Exec", &taskapi.ExecProcessRequest{ID: "stopped", ExecID: "e", Spec: processSpec(sleep)}, errdefs.ErrFailedPrecondition},
		{"exec in paused", "Exec", &taskapi.ExecProcessRequest{ID: "paused", ExecID: "e", Spec: processSpec(sleep)}, errdefs.ErrFailedPrecondition},
		{"pause while paused", "Pause", &taskapi.PauseRequest{ID: "paused"}, errdefs.ErrFailedPrecondition},
		{"pause stopped", "Pause", &taskapi.PauseRequest{ID: "stopped"}, errdefs.ErrFailedPrecondition},
		{"resume running", "Resume", &taskapi.ResumeRequest{ID: "running"}, errdefs.ErrFailedPrecondition},
		{"update stopped", "Update", &taskapi.UpdateTaskRequest{ID: "stopped", Annotations: map[string]string{"a": "b"}}, errdefs.ErrFailedPrecondition},
		{"kill an exec that was not started", "Kill", &taskapi.KillRequest{ID: "running", ExecID: "added", Signal: 9}, errdefs.ErrFailedPrecondition},

		{"create twice", "Create", &taskapi.CreateTaskRequest{ID: "running", Bundle: ok}, errdefs.ErrAlreadyExists},
		{"exec twice", "Exec", &taskapi.ExecProcessRequest{ID: "running", ExecID: "added", Spec: processSpec(sleep)}, errdefs.ErrAlreadyExists},

		{"create with no fields", "Create", &taskapi.CreateTaskRequest{}, errdefs.ErrInvalidArgument},
		{"create without a bundle", "Create", &taskapi.CreateTaskRequest{ID: "new"}, errdefs.ErrInvalidArgument},
		{"create in a relative bundle", "Create", &taskapi.CreateTaskRequest{ID: "new", Bundle: "a/b"}, errdefs.ErrInvalidArgument},
		{"create in a missing bundle", "Create", &taskapi.CreateTaskRequest{ID: "new", Bundle: filepath.Join(ok, "none")}, errdefs.ErrInvalidArgument},
		{"create with a torn config.json", "Create", &taskapi.CreateTaskRequest{ID: "new", Bundle: torn}, errdefs.ErrInvalidArgument},
		{"create with a nil mount", "Create", &taskapi.CreateTaskRequest{ID: "new", Bundle: ok, Rootfs: []*types.Mount{nil}}, errdefs.ErrInvalidArgument},
		{"create with a missing mount source", "Create", &taskapi.CreateTaskRequest{ID: "new", Bundle: ok, Rootfs: []*types.Mount{{Type: "bind", Source: "/none/at/all", Options: []string{"rbind"}}}}, errdefs.ErrInvalidArgument},
		{"create with a missing stdout", "Create", &taskapi.CreateTaskRequest{ID: "new", Bundle: ok, Stdout: "/none/at/all"}, errdefs.ErrInvalidArgument},
		{"create with a directory as stdout", "Create", &taskapi.CreateTaskRequest{ID: "new", Bundle: ok, Stdout: ok}, errdefs.ErrInvalidArgument},
		{"create with a relative stdin", "Create", &taskapi.CreateTaskRequest{ID: "new", Bundle: ok, Stdin: "in"}, errdefs.ErrInvalidArgument},
		{"create with an unknown scheme", "Create", &taskapi.CreateTaskRequest{ID: "new", Bundle: ok, Stderr: "gopher://x/y"}, errdefs.ErrInvalidArgument},
		{"id with ..", "Create", &taskapi.CreateTaskRequest{ID: "../x", Bundle: ok}, errdefs.ErrInvalidArgument},
		{"id with /", "State", &taskapi.StateRequest{ID: "a/b"}, errdefs.ErrInvalidArgument},
		{"long id", "State", &taskapi.StateRequest{ID: bad}, errdefs.ErrInvalidArgument},
		{"exec id with ..", "Exec", &taskapi.ExecProcessRequest{ID: "running", ExecID: "../x", Spec: processSpec(sleep)}, errdefs.ErrInvalidArgument},
		{"no exec id", "Exec", &taskapi.ExecProcessRequest{ID: "running", Spec: processSpec(sleep)}, errdefs.ErrInvalidArgument},
		{"exec without a spec", "Exec", &taskapi.ExecProcessRequest{ID: "running", ExecID: "new"}, errdefs.ErrInvalidArgument},
		{"exec with an empty spec", "Exec", &taskapi.ExecProcessRequest{ID: "running", ExecID: "new", Spec: &anypb.Any{}}, errdefs.ErrInvalidArgument},
		{"exec with a spec of another type", "Exec", &taskapi.ExecProcessRequest{ID: "running", ExecID: "new", Spec: &anypb.Any{TypeUrl: "x.y.Z", Value: []byte(sleep)}}, errdefs.ErrInvalidArgument},
		{"exec with a torn spec", "Exec", &taskapi.ExecProcessRequest{ID: "running", ExecID: "new", Spec: processSpec(`{"args":[`)}, errdefs.ErrInvalidArgument},
		{"exec with null", "Exec", &taskapi.ExecProcessRequest{ID: "running", ExecID: "new", Spec: processSpec(`null`)}, errdefs.ErrInvalidArgument},
		{"update without resources", "Update", &taskapi.UpdateTaskRequest{ID: "running"}, errdefs.ErrInvalidArgument},
		{"update with torn resources", "Update", &taskapi.UpdateTaskRequest{ID: "running", Resources: &anypb.Any{TypeUrl: resourcesType, Value: []byte("{")}}, errdefs.ErrInvalidArgument},
		{"update with another type", "Update", &taskapi.UpdateTaskRequest{ID: "running", Resources: processSpec(sleep)}, errdefs.ErrInvalidArgument},
		{"a signal that does not exist", "Kill", &taskapi.KillRequest{ID: "running", Signal: 4711}, errdefs.ErrInvalidArgument},
		{"a huge terminal", "ResizePty", &taskapi.ResizePtyRequest{ID: "running", Width: 1 << 20}, errdefs.ErrInvalidArgument},

		{"checkpoint a created task", "Checkpoint", &taskapi.CheckpointTaskRequest{ID: "created", Path: "/x"}, errdefs.ErrFailedPrecondition},
		{"checkpoint a stopped task", "Checkpoint", &taskapi.CheckpointTaskRequest{ID: "stopped", Path: "/x"}, errdefs.ErrFailedPrecondition},
		{"a method that does not exist", "Levitate", &taskapi.StateRequest{ID: "running"}, errdefs.ErrNotImplemented},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := h.call(c.method, c.req, &emptypb.Empty{})
			if !errors.Is(err, c.want) {
				t.Errorf("error %v, want class %v", err, c.want)
			}
		})
	}
	if told := h.told(); len(told) != before {
		t.Errorf("refusals made events: %v", told[before:])
	}
	for id, want := range map[string]string{"created": "CREATED", "running": "RUNNING", "paused": "PAUSED", "stopped": "STOPPED"} {
		if st := do[taskapi.StateResponse](h, "State", &taskapi.StateRequest{ID: id}); st.Status.String() != want {
			t.Errorf("task %s is %v after the refusals", id, st.Status)
		}
	}
}

func TestMissingPartsAreNotImplemented(t *testing.T) {
	h := serve(t, &fakeRuntime{spare: true})
	h.create("a", true)
	for method, req := range map[string]any{
		"Exec":       &taskapi.ExecProcessRequest{ID: "a", ExecID: "e", Spec: processSpec(sleep)},
		"Pause":      &taskapi.PauseRequest{ID: "a"},
		"Resume":     &taskapi.ResumeRequest{ID: "a"},
		"Update":     &taskapi.UpdateTaskRequest{ID: "a", Annotations: map[string]string{"a": "b"}},
		"Stats":      &taskapi.StatsRequest{ID: "a"},
		"Checkpoint": &taskapi.CheckpointTaskRequest{ID: "a", Path: "/x"},
	} {
		if err := h.call(method, req, &emptypb.Empty{}); !errors.Is(err, errdefs.ErrNotImplemented) {
			t.Errorf("%s: %v", method, err)
		}
	}
	if pids := do[taskapi.PidsResponse](h, "Pids", &taskapi.PidsRequest{ID: "a"}); len(pids.Processes) != 1 {
		t.Errorf("pids: %v", pids)
	}
}

// A daemon that comes back deletes a task that lists no process, and its exit with it.
func TestStoppedTaskListsItsFirstProcess(t *testing.T) {
	for name, rt := range map[string]*fakeRuntime{"with a list of its own": {}, "without": {spare: true}} {
		t.Run(name, func(t *testing.T) {
			h := serve(t, rt)
			h.create("a", true)
			pid := do[taskapi.StateResponse](h, "State", &taskapi.StateRequest{ID: "a"}).Pid
			do[emptypb.Empty](h, "Kill", &taskapi.KillRequest{ID: "a", Signal: 9})
			do[taskapi.WaitResponse](h, "Wait", &taskapi.WaitRequest{ID: "a"})
			pids := do[taskapi.PidsResponse](h, "Pids", &taskapi.PidsRequest{ID: "a"})
			if len(pids.Processes) != 1 || pids.Processes[0].Pid != pid {
				t.Errorf("a stopped task lists %v, want its first process %d", pids, pid)
			}
			do[taskapi.DeleteResponse](h, "Delete", &taskapi.DeleteRequest{ID: "a"})
			if err := h.call("Pids", &taskapi.PidsRequest{ID: "a"}, &taskapi.PidsResponse{}); !errors.Is(err, errdefs.ErrNotFound) {
				t.Errorf("a deleted task: %v", err)
			}
		})
	}
}

func TestCallersContext(t *testing.T) {
	h := serve(t, new(fakeRuntime))
	h.create("a", true)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := h.Call(ctx, "containerd.task.v3.Task", "Wait", &taskapi.WaitRequest{ID: "a"}, &taskapi.WaitResponse{})
	if !errors.Is(errgrpc.ToNative(err), context.DeadlineExceeded) && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait beyond the deadline: %v", err)
	}
}

// A panic in the runtime costs one request, not the pod.
func TestPanicIsInternal(t *testing.T) {
	rt := new(fakeRuntime)
	h := serve(t, rt)
	h.create("a", true)
	rt.create = func(context.Context, *task.CreateRequest) error { panic("ouch") }
	if err := h.call("Create", &taskapi.CreateTaskRequest{ID: "b", Bundle: h.bundle}, &emptypb.Empty{}); !errors.Is(err, errdefs.ErrInternal) {
		t.Errorf("create: %v", err)
	}
	rt.create = nil
	h.create("b", false) // the id is free again
	rt.start = func(context.Context, *fakeProcess) error { panic("ouch") }
	if err := h.call("Start", &taskapi.StartRequest{ID: "b"}, &emptypb.Empty{}); !errors.Is(err, errdefs.ErrInternal) {
		t.Errorf("start: %v", err)
	}
	if st := do[taskapi.StateResponse](h, "State", &taskapi.StateRequest{ID: "b"}); st.Status.String() != "STOPPED" {
		t.Errorf("after a panic in start: %v", st)
	}
	do[taskapi.DeleteResponse](h, "Delete", &taskapi.DeleteRequest{ID: "b"})
	if st := do[taskapi.StateResponse](h, "State", &taskapi.StateRequest{ID: "a"}); st.Status.String() != "RUNNING" {
		t.Errorf("the other task: %v", st)
	}
}

// Both names of the service answer alike.
func TestBothServiceNames(t *testing.T) {
	h := serve(t, new(fakeRuntime))
	h.create("a", true)
	for _, name := range serviceNames {
		resp := new(taskapi.ConnectResponse)
		if err := h.Call(t.Context(), name, "Connect", &taskapi.ConnectRequest{ID: "a"}, resp); err != nil {
			t.Fatal(err)
		}
		if resp.ShimPid == 0 || resp.TaskPid == 0 {
			t.Errorf("%s: %v", name, resp)
		}
	}
	if resp := do[taskapi.ConnectResponse](h, "Connect", &taskapi.ConnectRequest{ID: "unknown"}); resp.ShimPid == 0 || resp.TaskPid != 0 {
		t.Errorf("connect for an unknown task: %v", resp)
	}
}

// Garbage on a connection is that connection's problem.
func TestGarbageFramesHurtNobodyElse(t *testing.T) {
	h := serve(t, new(fakeRuntime))
	h.create("a", true)
	for _, garbage := range []string{"GET / HTTP/1.1\r\n\r\n", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "\x00\x00\x00\x04\x00\x00\x00\x01\x01\x00\xff\xff\xff\xff"} {
		conn, err := net.Dial("unix", h.address)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte(garbage)); err != nil && !errors.Is(err, syscall.EPIPE) {
			t.Error(err)
		}
		conn.Close()
	}
	do[taskapi.StateResponse](h, "State", &taskapi.StateRequest{ID: "a"})
}
