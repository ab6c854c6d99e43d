package task

import (
	"errors"
	"os/exec"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// The whole table once more, from the outside: where each operation leads from each state, or the class of its refusal.
func TestEveryOpInEveryState(t *testing.T) {
	const (
		pre  = "failed precondition"
		none = "not found"
	)
	states := []State{Created, Running, Paused, Stopped, Deleted}
	for op, want := range map[Op][5]string{
		OpStart:      {"running", pre, pre, pre, none},
		OpFail:       {"stopped", pre, pre, pre, none},
		OpPause:      {pre, "paused", pre, pre, none},
		OpResume:     {pre, pre, "running", pre, none},
		OpExit:       {"stopped", "stopped", "stopped", pre, none},
		OpKill:       {"created", "running", "paused", none, none},
		OpExec:       {"created", "running", pre, pre, none},
		OpDelete:     {"deleted", pre, pre, "deleted", none},
		OpUpdate:     {"created", "running", "paused", pre, none},
		OpStats:      {"created", "running", "paused", "stopped", none},
		OpPids:       {"created", "running", "paused", "stopped", none},
		OpCheckpoint: {pre, "running", "paused", pre, none},
	} {
		for i, from := range states {
			to, err := from.Next(op)
			got := to.String()
			switch {
			case errors.Is(err, errdefs.ErrFailedPrecondition):
				got = pre
			case errors.Is(err, errdefs.ErrNotFound):
				got = none
			case err != nil:
				got = err.Error()
			}
			if got != want[i] {
				t.Errorf("%s a %s process: %s, want %s", op, from, got, want[i])
			}
			if err != nil && to != from {
				t.Errorf("%s a %s process is refused and leads to %s", op, from, to)
			}
		}
	}
	const all = int(OpCheckpoint) + 1
	if n := [2]int{len(next), len(opNames)}; n != [2]int{all, all} {
		t.Errorf("%d operations, %d in the table, %d with a name", all, n[0], n[1])
	}
}

func TestExitOf(t *testing.T) {
	for script, want := range map[string]int{"exit 0": 0, "exit 7": 7, "kill -9 $$": 137} {
		cmd := exec.Command("/bin/sh", "-c", script)
		_ = cmd.Run()
		if e := ExitOf(cmd.ProcessState); e.Status != want || time.Since(e.At) > time.Minute {
			t.Errorf("%s: %+v", script, e)
		}
	}
	if e := ExitOf(nil); e.Status != 255 {
		t.Errorf("a process that never was: %+v", e)
	}
}
