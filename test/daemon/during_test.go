package daemon_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The daemon is killed at every moment of a container's start: the container is there, or nothing of it is.
func TestDaemonKilledDuringRun(t *testing.T) {
	d := newDaemon(t)
	for i := range 24 {
		id := fmt.Sprint("c", i)
		run := d.ctr(t.Context(), d.rootfsRun([]string{"--detach", "--null-io"}, id, "sleep", "1000")...)
		if err := run.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i) * 5 * time.Millisecond) // not to wait for something, but to come at another moment
		d.stop(syscall.SIGKILL)
		run.Wait()
		d.start()
		got := d.tasks()[id]
		t.Logf("after %d ms: %+v", i*5, got)
		if got.status == "RUNNING" || got.status == "CREATED" {
			d.kill(id, "SIGKILL")
			d.awaitStatus(id, "STOPPED")
		}
		if got.status != "" {
			d.ok("task", "rm", id)
		}
		if strings.Contains(d.ok("container", "ls", "--quiet"), id) {
			d.ok("container", "rm", id)
		}
	}
}
