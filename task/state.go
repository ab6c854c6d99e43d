package task

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// State is what a task or an exec is in, and Op is what may change it. The table below is the whole state machine:
//
//	             exit, fail (the start went wrong)
//	   ┌──────────────────────────────────────────────┐
//	   │                                              ▼
//	Created ──── start ───▶ Running ──── exit ────▶ Stopped ── delete ──▶ Deleted
//	   │                     │   ▲                    ▲                      ▲
//	   │               pause │   │ resume             │ exit                 │
//	   │                     ▼   │                    │                      │
//	   │                    Paused ───────────────────┘                      │
//	   └───────────────────────────── delete ────────────────────────────────┘
type State int

// The states. The zero State is none of them.
const (
	Created State = iota + 1 // made, the user's program not started
	Running
	Paused
	Stopped // the process has ended, or could not be started
	Deleted
)

var stateNames = [...]string{"unknown", "created", "running", "paused", "stopped", "deleted"}

// String is the state's name as clients show it.
func (s State) String() string {
	if s < 0 || int(s) >= len(stateNames) {
		s = 0
	}
	return stateNames[s]
}

// Op is an operation on a task or an exec.
type Op int

// The operations.
const (
	OpStart Op = iota
	OpFail     // a start that went wrong
	OpPause
	OpResume
	OpExit
	OpKill
	OpExec
	OpDelete
	OpUpdate
	OpStats
	OpPids
	OpCheckpoint
)

var opNames = [...]string{"start", "fail", "pause", "resume", "exit", "kill", "exec in", "delete", "update", "measure", "list the processes of", "checkpoint"}

func (o Op) String() string { return opNames[o] }

// next says where an operation leads. What is not in it is refused.
var next = map[Op]map[State]State{
	OpStart:      {Created: Running},
	OpFail:       {Created: Stopped},
	OpPause:      {Running: Paused},
	OpResume:     {Paused: Running},
	OpExit:       {Created: Stopped, Running: Stopped, Paused: Stopped},
	OpKill:       {Created: Created, Running: Running, Paused: Paused},
	OpExec:       {Created: Created, Running: Running},
	OpDelete:     {Created: Deleted, Stopped: Deleted},
	OpUpdate:     {Created: Created, Running: Running, Paused: Paused},
	OpStats:      {Created: Created, Running: Running, Paused: Paused, Stopped: Stopped},
	OpPids:       {Created: Created, Running: Running, Paused: Paused, Stopped: Stopped},
	OpCheckpoint: {Running: Running, Paused: Paused},
}

// Next returns the state that op leads to.
//
// ErrFailedPrecondition: op is not possible in s. ErrNotFound: s is Deleted, or op is OpKill and s is Stopped.
func (s State) Next(op Op) (State, error) {
	if to, ok := next[op][s]; ok {
		return to, nil
	}
	switch {
	case s == Deleted:
		return s, fmt.Errorf("process is deleted: %w", errdefs.ErrNotFound)
	case s == Stopped && op == OpKill:
		return s, fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
	default:
		return s, fmt.Errorf("cannot %s a %s process: %w", op, s, errdefs.ErrFailedPrecondition)
	}
}
