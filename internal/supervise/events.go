package supervise

import (
	"github.com/containerd/containerd/api/events"
	"github.com/shimwright/shimwright/task"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// event is a message and the topic that the daemon files it under.
type event struct {
	topic   string
	message proto.Message
}

func created(r *CreateRequest, pid int) event {
	return event{"/tasks/create", &events.TaskCreate{
		ContainerID: r.ID,
		Bundle:      r.Bundle,
		Rootfs:      r.Mounts,
		IO: &events.TaskIO{
			Stdin: r.Stdio.Stdin, Stdout: r.Stdio.Stdout, Stderr: r.Stdio.Stderr, Terminal: r.Stdio.Terminal,
		},
		Checkpoint: r.Checkpoint,
		Pid:        uint32(pid),
	}}
}

func started(id, execID string, pid int) event {
	if execID != "" {
		return event{"/tasks/exec-started", &events.TaskExecStarted{ContainerID: id, ExecID: execID, Pid: uint32(pid)}}
	}
	return event{"/tasks/start", &events.TaskStart{ContainerID: id, Pid: uint32(pid)}}
}

func execAdded(id, execID string) event {
	return event{"/tasks/exec-added", &events.TaskExecAdded{ContainerID: id, ExecID: execID}}
}

func oom(id string) event {
	return event{"/tasks/oom", &events.TaskOOM{ContainerID: id}}
}

// exited and deleted name the process: the first process of a task has the task's id in an exit, and none in a delete.
func exited(id, execID string, pid int, exit task.Exit) event {
	if execID == "" {
		execID = id
	}
	return event{"/tasks/exit", &events.TaskExit{
		ContainerID: id, ID: execID, Pid: uint32(pid), ExitStatus: uint32(exit.Status), ExitedAt: timestamppb.New(exit.At),
	}}
}

func deleted(id string, s Status) event {
	e := &events.TaskDelete{ContainerID: id, ID: s.ExecID, Pid: uint32(s.PID), ExitStatus: uint32(s.Exit.Status)}
	if !s.Exit.At.IsZero() {
		e.ExitedAt = timestamppb.New(s.Exit.At)
	}
	return event{"/tasks/delete", e}
}

// changed is the event of an operation on a living task; most have none.
func changed(id string, op task.Op) event {
	switch op {
	case task.OpPause:
		return event{"/tasks/paused", &events.TaskPaused{ContainerID: id}}
	case task.OpResume:
		return event{"/tasks/resumed", &events.TaskResumed{ContainerID: id}}
	case task.OpCheckpoint:
		return event{"/tasks/checkpointed", &events.TaskCheckpointed{ContainerID: id}}
	}
	return event{}
}
