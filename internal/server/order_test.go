package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/shimwright/shimwright/internal/bundle"
	"github.com/shimwright/shimwright/task"
	"google.golang.org/protobuf/types/known/emptypb"
)

func TestLifecycleInOrder(t *testing.T) {
	h := serve(t, new(fakeRuntime))
	h.create("a", true)
	do[emptypb.Empty](h, "Exec", &taskapi.ExecProcessRequest{ID: "a", ExecID: "x", Spec: processSpec(sleep)})
	do[taskapi.StartResponse](h, "Start", &taskapi.StartRequest{ID: "a", ExecID: "x"})
	do[emptypb.Empty](h, "Pause", &taskapi.PauseRequest{ID: "a"})
	if st := do[taskapi.StateResponse](h, "State", &taskapi.StateRequest{ID: "a", ExecID: "x"}); st.Status.String() != "PAUSED" || st.ExecID != "x" {
		t.Errorf("exec of a paused task: %v", st)
	}
	do[emptypb.Empty](h, "Resume", &taskapi.ResumeRequest{ID: "a"})
	do[emptypb.Empty](h, "Kill", &taskapi.KillRequest{ID: "a", ExecID: "x", Signal: 15})
	exec := do[taskapi.WaitResponse](h, "Wait", &taskapi.WaitRequest{ID: "a", ExecID: "x"})
	do[taskapi.DeleteResponse](h, "Delete", &taskapi.DeleteRequest{ID: "a", ExecID: "x"})
	do[emptypb.Empty](h, "Kill", &taskapi.KillRequest{ID: "a", Signal: 9})
	wait := do[taskapi.WaitResponse](h, "Wait", &taskapi.WaitRequest{ID: "a"})
	state := do[taskapi.StateResponse](h, "State", &taskapi.StateRequest{ID: "a"})
	del := do[taskapi.DeleteResponse](h, "Delete", &taskapi.DeleteRequest{ID: "a"})
	want := []string{
		"create a", "start a", "add a/x", "start a/x", "pause a", "resume a", "exit a/x 143", "delete a/x", "exit a 137", "delete a",
	}
	if diff := cmp.Diff(want, h.told()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	if exec.ExitStatus != 143 || wait.ExitStatus != 137 || state.ExitStatus != 137 || del.ExitStatus != 137 {
		t.Errorf("statuses: exec %v, wait %v, state %v, delete %v", exec, wait, state, del)
	}
	if !wait.ExitedAt.AsTime().Equal(state.ExitedAt.AsTime()) || !wait.ExitedAt.AsTime().Equal(del.ExitedAt.AsTime()) {
		t.Errorf("exited at: wait %v, state %v, delete %v", wait.ExitedAt, state.ExitedAt, del.ExitedAt)
	}
	if _, exit, err := bundle.ReadExit(h.bundle); err != nil || exit.Status != 137 || !exit.At.Equal(wait.ExitedAt.AsTime()) {
		t.Errorf("noted in the bundle: %+v, %v", exit, err)
	}
	if left := h.runtime.leftover(); len(left) > 0 {
		t.Errorf("not freed: %v", left)
	}
}

// What the OOM killer does is told while the task runs, and never after its exit, be it by the task or in an exit.
func TestOOMPrecedesTheExit(t *testing.T) {
	h := serve(t, new(fakeRuntime))
	h.create("a", true)
	do[emptypb.Empty](h, "Exec", &taskapi.ExecProcessRequest{ID: "a", ExecID: "x", Spec: processSpec(sleep)})
	do[taskapi.StartResponse](h, "Start", &taskapi.StartRequest{ID: "a", ExecID: "x"})
	init, exec := h.runtime.all[0], h.runtime.all[1]
	init.kills()
	exec.oom = true
	exec.end(137)
	do[taskapi.WaitResponse](h, "Wait", &taskapi.WaitRequest{ID: "a", ExecID: "x"})
	init.kills()
	init.end(137)
	do[taskapi.WaitResponse](h, "Wait", &taskapi.WaitRequest{ID: "a"})
	init.kills()
	want := []string{"create a", "start a", "add a/x", "start a/x", "oom a", "oom a", "exit a/x 137", "oom a", "exit a 137"}
	if diff := cmp.Diff(want, h.told()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	do[taskapi.DeleteResponse](h, "Delete", &taskapi.DeleteRequest{ID: "a"})
}

func TestNeverStartedTaskHasNoExit(t *testing.T) {
	h := serve(t, new(fakeRuntime))
	h.create("a", false)
	if del := do[taskapi.DeleteResponse](h, "Delete", &taskapi.DeleteRequest{ID: "a"}); del.ExitStatus != 137 {
		t.Errorf("delete: %v", del)
	}
	if diff := cmp.Diff([]string{"create a", "delete a"}, h.told()); diff != "" {
		t.Error(diff)
	}
}

// While a checkpoint is made State answers. A task that ends by it has its exit after it, and one whose checkpoint fails goes on.
func TestCheckpointInOrder(t *testing.T) {
	var h *harness
	asked := make(chan *task.CheckpointRequest, 3)
	h = serve(t, &fakeRuntime{dump: func(p *fakeTask, r *task.CheckpointRequest) error {
		do[taskapi.StateResponse](h, "State", &taskapi.StateRequest{ID: "a"})
		asked <- r
		switch r.Path {
		case "/fails":
			return errors.New("no room")
		case "/ends":
			p.end(137)
		}
		return nil
	}})
	h.create("a", true)
	if err := h.call("Checkpoint", &taskapi.CheckpointTaskRequest{ID: "a", Path: "/fails"}, &emptypb.Empty{}); err == nil {
		t.Error("a checkpoint that fails succeeds")
	}
	do[emptypb.Empty](h, "Pause", &taskapi.PauseRequest{ID: "a"})
	do[emptypb.Empty](h, "Checkpoint", &taskapi.CheckpointTaskRequest{ID: "a", Path: "/goes-on"})
	if st := do[taskapi.StateResponse](h, "State", &taskapi.StateRequest{ID: "a"}); st.Status.String() != "PAUSED" {
		t.Errorf("after the checkpoint of a paused task: %v", st)
	}
	options := processSpec("any")
	do[emptypb.Empty](h, "Checkpoint", &taskapi.CheckpointTaskRequest{ID: "a", Path: "/ends", Options: options})
	do[taskapi.WaitResponse](h, "Wait", &taskapi.WaitRequest{ID: "a"})
	want := []string{"create a", "start a", "pause a", "checkpoint a", "checkpoint a", "exit a 137"}
	if diff := cmp.Diff(want, h.told()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	<-asked
	<-asked
	if r := <-asked; r.Path != "/ends" || r.Options.GetTypeUrl() != options.TypeUrl {
		t.Errorf("the runtime was asked for %+v", r)
	}
}

// A task that is restored has its process from the start on.
func TestRestoredTaskInOrder(t *testing.T) {
	var got *task.CreateRequest
	h := serve(t, &fakeRuntime{create: func(_ context.Context, r *task.CreateRequest) error { got = r; return nil }})
	made := do[taskapi.CreateTaskResponse](h, "Create", &taskapi.CreateTaskRequest{ID: "a", Bundle: h.bundle, Checkpoint: "/image", ParentCheckpoint: "/parent"})
	if made.Pid != 0 || got.Checkpoint != "/image" || got.ParentCheckpoint != "/parent" {
		t.Errorf("pid %d; the runtime was asked for %+v", made.Pid, got)
	}
	if err := h.call("Kill", &taskapi.KillRequest{ID: "a", Signal: 9}, &emptypb.Empty{}); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("kill before there is a process: %v", err)
	}
	started := do[taskapi.StartResponse](h, "Start", &taskapi.StartRequest{ID: "a"})
	if noted, err := bundle.ReadPID(h.bundle); err != nil || noted == 0 || noted != int(started.Pid) {
		t.Errorf("process %d, the bundle notes %d, %v", started.Pid, noted, err)
	}
	do[emptypb.Empty](h, "Kill", &taskapi.KillRequest{ID: "a", Signal: 9})
	do[taskapi.WaitResponse](h, "Wait", &taskapi.WaitRequest{ID: "a"})
	do[taskapi.DeleteResponse](h, "Delete", &taskapi.DeleteRequest{ID: "a"})
	if diff := cmp.Diff([]string{"create a", "start a", "exit a 137", "delete a"}, h.told()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// The process ends between create and start: it is stopped at once, and start says so.
func TestDeathBeforeStart(t *testing.T) {
	h := serve(t, &fakeRuntime{start: func(_ context.Context, p *fakeProcess) error {
		<-p.ended
		return errors.New("there is nothing to start")
	}})
	h.create("a", false)
	h.runtime.all[0].end(137)
	if w := do[taskapi.WaitResponse](h, "Wait", &taskapi.WaitRequest{ID: "a"}); w.ExitStatus != 137 {
		t.Errorf("wait: %v", w)
	}
	if err := h.call("Start", &taskapi.StartRequest{ID: "a"}, &emptypb.Empty{}); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("start: %v", err)
	}
	do[taskapi.DeleteResponse](h, "Delete", &taskapi.DeleteRequest{ID: "a"})
	if diff := cmp.Diff([]string{"create a", "delete a"}, h.told()); diff != "" {
		t.Error(diff)
	}
}

// An exec whose start fails is stopped: Wait returns, a second Start is refused, Delete frees it.
func TestFailedExecStart(t *testing.T) {
	rt := new(fakeRuntime)
	h := serve(t, rt)
	h.create("a", true)
	rt.start = func(context.Context, *fakeProcess) error {
		return fmt.Errorf("no such program: %w", errdefs.ErrInvalidArgument)
	}
	do[emptypb.Empty](h, "Exec", &taskapi.ExecProcessRequest{ID: "a", ExecID: "x", Spec: processSpec(sleep)})
	if err := h.call("Start", &taskapi.StartRequest{ID: "a", ExecID: "x"}, &emptypb.Empty{}); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("start: %v", err)
	}
	if w := do[taskapi.WaitResponse](h, "Wait", &taskapi.WaitRequest{ID: "a", ExecID: "x"}); w.ExitStatus != 255 {
		t.Errorf("wait: %v", w)
	}
	if err := h.call("Start", &taskapi.StartRequest{ID: "a", ExecID: "x"}, &emptypb.Empty{}); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("second start: %v", err)
	}
	do[taskapi.DeleteResponse](h, "Delete", &taskapi.DeleteRequest{ID: "a", ExecID: "x"})
	if diff := cmp.Diff([]string{"create a", "start a", "add a/x", "delete a/x"}, h.told()); diff != "" {
		t.Error(diff)
	}
}

// An exec that has ended before its Start returns: started comes first all the same.
func TestExitFollowsStart(t *testing.T) {
	rt := new(fakeRuntime)
	h := serve(t, rt)
	h.create("a", true)
	rt.start = func(_ context.Context, p *fakeProcess) error {
		p.pid.Store(4711)
		p.end(3)
		return nil
	}
	for i := range 50 {
		id := fmt.Sprintf("x%d", i)
		do[emptypb.Empty](h, "Exec", &taskapi.ExecProcessRequest{ID: "a", ExecID: id, Spec: processSpec(sleep)})
		do[taskapi.StartResponse](h, "Start", &taskapi.StartRequest{ID: "a", ExecID: id})
		do[taskapi.WaitResponse](h, "Wait", &taskapi.WaitRequest{ID: "a", ExecID: id})
		told := h.told()
		if want := []string{"add a/" + id, "start a/" + id, "exit a/" + id + " 3"}; !slices.Equal(told[len(told)-3:], want) {
			t.Fatalf("events end with %v, want %v", told[len(told)-3:], want)
		}
	}
}

// The first process's exit is the last of its task, also when all end at once and some are just starting.
func TestInitsExitComesLast(t *testing.T) {
	rt := &fakeRuntime{start: func(_ context.Context, p *fakeProcess) error {
		if p.execID != "" {
			time.Sleep(time.Millisecond)
		}
		return nil
	}}
	h := serve(t, rt)
	h.create("a", true)
	const n = 20
	var wg sync.WaitGroup
	for i := range n {
		id := fmt.Sprintf("x%d", i)
		do[emptypb.Empty](h, "Exec", &taskapi.ExecProcessRequest{ID: "a", ExecID: id, Spec: processSpec(sleep)})
		wg.Go(func() { _ = h.call("Start", &taskapi.StartRequest{ID: "a", ExecID: id}, &taskapi.StartResponse{}) })
	}
	// What the kernel does to a pid namespace: all of it goes.
	go func() {
		rt.mu.Lock()
		all := slices.Clone(rt.all)
		rt.mu.Unlock()
		for _, p := range all {
			p.end(137)
		}
	}()
	do[taskapi.WaitResponse](h, "Wait", &taskapi.WaitRequest{ID: "a"})
	wg.Wait()
	started, exited := 0, 0
	told := h.told()
	for _, e := range told {
		if strings.HasPrefix(e, "start a/") {
			started++
		}
		if strings.HasPrefix(e, "exit a/") {
			exited++
		}
	}
	if last := told[len(told)-1]; last != "exit a 137" || started != exited {
		t.Errorf("%d execs started, %d exits told, the last event is %q:\n%s", started, exited, last, strings.Join(told, "\n"))
	}
	do[taskapi.DeleteResponse](h, "Delete", &taskapi.DeleteRequest{ID: "a"})
	if left := rt.leftover(); len(left) > 0 {
		t.Errorf("not freed: %v", left)
	}
}

// Many ask, and ask again later: one delete, one answer.
func TestDeleteHasOneAnswer(t *testing.T) {
	h := serve(t, new(fakeRuntime))
	h.create("a", true)
	h.runtime.all[0].end(7)
	do[taskapi.WaitResponse](h, "Wait", &taskapi.WaitRequest{ID: "a"})
	answers := make([]string, 8)
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() {
			resp := new(taskapi.DeleteResponse)
			if err := h.call("Delete", &taskapi.DeleteRequest{ID: "a"}, resp); err != nil {
				answers[i] = err.Error()
				return
			}
			answers[i] = fmt.Sprint(resp.Pid, resp.ExitStatus, resp.ExitedAt.AsTime())
		})
	}
	wg.Wait()
	again := do[taskapi.DeleteResponse](h, "Delete", &taskapi.DeleteRequest{ID: "a"})
	want := fmt.Sprint(again.Pid, again.ExitStatus, again.ExitedAt.AsTime())
	for _, a := range answers {
		if a != want || again.ExitStatus != 7 {
			t.Errorf("answer %q, later %q", a, want)
		}
	}
	if diff := cmp.Diff([]string{"create a", "start a", "exit a 7", "delete a"}, h.told()); diff != "" {
		t.Error(diff)
	}
	if err := h.call("State", &taskapi.StateRequest{ID: "a"}, &emptypb.Empty{}); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("state of a deleted task: %v", err)
	}
	h.create("a", false) // the id can be used again, and a delete is then about the new one
	do[taskapi.DeleteResponse](h, "Delete", &taskapi.DeleteRequest{ID: "a"})
}

// While Start is stuck, everything that does not depend on it answers at once, and Kill gets through.
func TestStuckStartHoldsUpNobody(t *testing.T) {
	stuck := make(chan struct{})
	h := serve(t, &fakeRuntime{start: func(_ context.Context, p *fakeProcess) error {
		close(stuck)
		<-p.ended
		return errors.New("killed")
	}})
	h.create("a", false)
	failed := make(chan error, 1)
	go func() { failed <- h.call("Start", &taskapi.StartRequest{ID: "a"}, &taskapi.StartResponse{}) }()
	<-stuck
	do[taskapi.StateResponse](h, "State", &taskapi.StateRequest{ID: "a"})
	do[taskapi.ConnectResponse](h, "Connect", &taskapi.ConnectRequest{ID: "a"})
	do[taskapi.PidsResponse](h, "Pids", &taskapi.PidsRequest{ID: "a"})
	do[emptypb.Empty](h, "Kill", &taskapi.KillRequest{ID: "a", Signal: 9})
	if err := <-failed; err == nil {
		t.Error("a killed start succeeded")
	}
	if w := do[taskapi.WaitResponse](h, "Wait", &taskapi.WaitRequest{ID: "a"}); w.ExitStatus != 137 {
		t.Errorf("wait: %v", w)
	}
}

// A Create that hangs is ended by Kill or Delete, and only by these.
func TestStuckCreate(t *testing.T) {
	for _, end := range []string{"Kill", "Delete"} {
		t.Run(end, func(t *testing.T) {
			stuck := make(chan struct{})
			h := serve(t, &fakeRuntime{create: func(ctx context.Context, _ *task.CreateRequest) error {
				close(stuck)
				<-ctx.Done()
				return ctx.Err()
			}})
			gone := h.dial()
			failed := make(chan error, 1)
			go func() {
				failed <- gone.Call(context.Background(), "containerd.task.v3.Task", "Create", &taskapi.CreateTaskRequest{ID: "a", Bundle: h.bundle}, &taskapi.CreateTaskResponse{})
			}()
			<-stuck
			gone.Close() // the caller goes away; the create goes on
			<-failed
			if err := h.call("Create", &taskapi.CreateTaskRequest{ID: "a", Bundle: h.bundle}, &emptypb.Empty{}); !errors.Is(err, errdefs.ErrAlreadyExists) {
				t.Errorf("create beside a create: %v", err)
			}
			if err := h.call("State", &taskapi.StateRequest{ID: "a"}, &emptypb.Empty{}); !errors.Is(err, errdefs.ErrNotFound) {
				t.Errorf("state during create: %v", err)
			}
			if end == "Kill" {
				do[emptypb.Empty](h, "Kill", &taskapi.KillRequest{ID: "a", Signal: 9})
			} else if err := h.call("Delete", &taskapi.DeleteRequest{ID: "a"}, &emptypb.Empty{}); !errors.Is(err, errdefs.ErrNotFound) {
				t.Errorf("delete: %v", err)
			}
			for deadline := time.Now().Add(10 * time.Second); h.sup.Len() > 0; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("the task is still being created")
				}
			}
			if told := h.told(); len(told) > 0 {
				t.Errorf("events: %v", told)
			}
		})
	}
}

// A Kill that was answered while the task was being made has its effect, however late it came.
func TestKillDuringCreateIsNotLost(t *testing.T) {
	rt := new(fakeRuntime)
	h := serve(t, rt)
	other := &harness{Client: h.dial(), t: t}
	rt.create = func(context.Context, *task.CreateRequest) error {
		return other.call("Kill", &taskapi.KillRequest{ID: "a", Signal: 9}, &emptypb.Empty{})
	}
	if err := h.call("Create", &taskapi.CreateTaskRequest{ID: "a", Bundle: h.bundle}, &emptypb.Empty{}); !errors.Is(err, errdefs.ErrAborted) {
		t.Errorf("create: %v", err)
	}
	if left := rt.leftover(); len(left) > 0 || h.sup.Len() > 0 || len(h.told()) > 0 {
		t.Errorf("left: %v, %d tasks, events %v", left, h.sup.Len(), h.told())
	}
}

// Deleting a created task ends its execs first, and frees them.
func TestDeleteOfCreatedTakesItsExecsAlong(t *testing.T) {
	for range 20 {
		rt := new(fakeRuntime)
		h := serve(t, rt)
		h.create("a", false)
		do[emptypb.Empty](h, "Exec", &taskapi.ExecProcessRequest{ID: "a", ExecID: "x", Spec: processSpec(sleep)})
		do[taskapi.StartResponse](h, "Start", &taskapi.StartRequest{ID: "a", ExecID: "x"})
		do[taskapi.DeleteResponse](h, "Delete", &taskapi.DeleteRequest{ID: "a"})
		want := []string{"create a", "add a/x", "start a/x", "exit a/x 137", "delete a/x", "delete a"}
		if diff := cmp.Diff(want, h.told()); diff != "" {
			t.Fatalf("events (-want +got):\n%s", diff)
		}
		if left := rt.leftover(); len(left) > 0 {
			t.Errorf("not freed: %v", left)
		}
	}
}

// An exec whose start hangs is killed when its task's first process ends: the exit does not wait for it.
func TestHangingExecStartEndsWithItsTask(t *testing.T) {
	rt := new(fakeRuntime)
	h := serve(t, rt)
	h.create("a", true)
	hanging := make(chan struct{})
	rt.start = func(_ context.Context, p *fakeProcess) error {
		close(hanging)
		<-p.ended
		return errors.New("killed")
	}
	do[emptypb.Empty](h, "Exec", &taskapi.ExecProcessRequest{ID: "a", ExecID: "x", Spec: processSpec(sleep)})
	failed := make(chan error, 1)
	go func() {
		failed <- h.call("Start", &taskapi.StartRequest{ID: "a", ExecID: "x"}, &taskapi.StartResponse{})
	}()
	<-hanging
	begin := time.Now()
	h.runtime.all[0].end(3)
	do[taskapi.WaitResponse](h, "Wait", &taskapi.WaitRequest{ID: "a"})
	if took := time.Since(begin); took > 5*time.Second { // what it would wait for an exec that cannot be killed
		t.Errorf("the exit took %v", took)
	}
	if err := <-failed; err == nil {
		t.Error("the exec was started")
	}
	do[taskapi.DeleteResponse](h, "Delete", &taskapi.DeleteRequest{ID: "a"})
	if diff := cmp.Diff([]string{"create a", "start a", "add a/x", "exit a 3", "delete a/x", "delete a"}, h.told()); diff != "" {
		t.Error(diff)
	}
}

// A runtime whose Kill panics when the first process is gone already does not take the shim with it.
func TestPanicInKillAfterTheExit(t *testing.T) {
	rt := &fakeRuntime{kill: func(*fakeProcess) { panic("ouch") }}
	h := serve(t, rt)
	h.create("a", true)
	rt.all[0].end(7)
	if w := do[taskapi.WaitResponse](h, "Wait", &taskapi.WaitRequest{ID: "a"}); w.ExitStatus != 7 {
		t.Errorf("wait: %v", w)
	}
	do[taskapi.DeleteResponse](h, "Delete", &taskapi.DeleteRequest{ID: "a"})
}

// What a bundle says of an earlier task is not said of the next one in it.
func TestCreateForgetsTheLastExit(t *testing.T) {
	h := serve(t, new(fakeRuntime))
	if err := bundle.WriteExit(h.bundle, 4711, task.Exit{Status: 7, At: time.Now()}); err != nil {
		t.Fatal(err)
	}
	h.create("a", true)
	if _, exit, err := bundle.ReadExit(h.bundle); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("noted: %+v, %v", exit, err)
	}
}

func TestShutdownWaitsForTheLastTask(t *testing.T) {
	h := serve(t, new(fakeRuntime))
	h.create("a", false)
	do[emptypb.Empty](h, "Shutdown", &taskapi.ShutdownRequest{ID: "a"})
	select {
	case <-h.down:
		t.Fatal("shut down with a task")
	default:
	}
	do[taskapi.DeleteResponse](h, "Delete", &taskapi.DeleteRequest{ID: "a"})
	do[emptypb.Empty](h, "Shutdown", &taskapi.ShutdownRequest{ID: "a"})
	do[emptypb.Empty](h, "Shutdown", &taskapi.ShutdownRequest{}) // repeated, and about no task
	<-h.down
	if err := h.call("Connect", &taskapi.ConnectRequest{ID: "b"}, &emptypb.Empty{}); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("connect after shutdown: %v", err)
	}
	if err := h.call("Create", &taskapi.CreateTaskRequest{ID: "b", Bundle: h.bundle}, &emptypb.Empty{}); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("create after shutdown: %v", err)
	}
}

// OOM is told before the exit it caused.
func TestOOMPrecedesExit(t *testing.T) {
	h := serve(t, new(fakeRuntime))
	h.create("a", true)
	p := h.runtime.all[0]
	p.once.Do(func() {
		p.exit = task.Exit{Status: 137, OOM: true}
		close(p.ended)
	})
	if w := do[taskapi.WaitResponse](h, "Wait", &taskapi.WaitRequest{ID: "a"}); w.ExitedAt == nil {
		t.Error("an exit without a time has none")
	}
	if diff := cmp.Diff([]string{"create a", "start a", "oom a", "exit a 137"}, h.told()); diff != "" {
		t.Error(diff)
	}
}

// Eight clients do everything to the same few ids at once. Whatever is refused, each task's events are complete and in
// order afterwards, and nothing is left.
func TestHammer(t *testing.T) {
	rt := new(fakeRuntime)
	h := serve(t, rt)
	var wg sync.WaitGroup
	for w := range 8 {
		c := &harness{Client: h.dial(), t: t}
		wg.Go(func() {
			for i := range 150 {
				id := fmt.Sprintf("t%d", (i+w)%3)
				x := fmt.Sprintf("x%d", i%2)
				for _, step := range []struct {
					method string
					req    any
				}{
					{"Create", &taskapi.CreateTaskRequest{ID: id, Bundle: h.bundle}},
					{"Start", &taskapi.StartRequest{ID: id}},
					{"Exec", &taskapi.ExecProcessRequest{ID: id, ExecID: x, Spec: processSpec(sleep)}},
					{"Pause", &taskapi.PauseRequest{ID: id}},
					{"Start", &taskapi.StartRequest{ID: id, ExecID: x}},
					{"Resume", &taskapi.ResumeRequest{ID: id}},
					{"Pids", &taskapi.PidsRequest{ID: id}},
					{"Kill", &taskapi.KillRequest{ID: id, ExecID: x, Signal: 9}},
					{"Delete", &taskapi.DeleteRequest{ID: id, ExecID: x}},
					{"Kill", &taskapi.KillRequest{ID: id, Signal: 9}},
					{"State", &taskapi.StateRequest{ID: id}},
					{"Delete", &taskapi.DeleteRequest{ID: id}},
				} {
					err := c.call(step.method, step.req, &emptypb.Empty{})
					if errors.Is(err, errdefs.ErrInternal) || errors.Is(err, errdefs.ErrUnknown) {
						t.Errorf("%s: %v", step.method, err)
					}
				}
			}
		})
	}
	wg.Wait()
	for i := range 3 {
		id := fmt.Sprintf("t%d", i)
		_ = h.call("Kill", &taskapi.KillRequest{ID: id, Signal: 9}, &emptypb.Empty{})
		_ = h.call("Wait", &taskapi.WaitRequest{ID: id}, &emptypb.Empty{})
		_ = h.call("Delete", &taskapi.DeleteRequest{ID: id}, &emptypb.Empty{})
	}
	if n := h.sup.Len(); n != 0 {
		t.Errorf("%d tasks are left", n)
	}
	if left := rt.leftover(); len(left) > 0 {
		t.Errorf("not freed: %v", left)
	}
	checkOrder(t, h.told())
}

// checkOrder holds each process's events against the rules, over however many lives of one id.
func checkOrder(t *testing.T, told []string) {
	t.Helper()
	follows := map[string][]string{ // what may stand before
		"create": {"", "delete"}, "add": {"", "delete"}, "start": {"create", "add"}, "exit": {"start"}, "delete": {"create", "add", "exit"},
	}
	last := map[string]string{}
	for i, e := range told {
		f := strings.Fields(e)
		op, who := f[0], f[1]
		switch op {
		case "pause", "resume", "oom":
			if last[who] != "start" {
				t.Errorf("event %d: %s after %q", i, e, last[who])
			}
			continue
		}
		if !slices.Contains(follows[op], last[who]) {
			t.Errorf("event %d: %s after %q", i, e, last[who])
		}
		if id, _, exec := strings.Cut(who, "/"); exec && last[id] != "create" && last[id] != "start" && (op != "delete" || last[id] != "exit") {
			t.Errorf("event %d: %s outside of its task's life, after %q", i, e, last[id])
		}
		if op == "exit" && !strings.Contains(who, "/") {
			for other, was := range last {
				if strings.HasPrefix(other, who+"/") && was == "start" {
					t.Errorf("event %d: %s while %s runs", i, e, other)
				}
			}
		}
		last[who] = op
	}
	for who, op := range last {
		if op != "delete" {
			t.Errorf("the last event of %s is %s", who, op)
		}
	}
}
