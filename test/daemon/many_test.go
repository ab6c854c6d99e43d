package daemon_test

import (
	"fmt"
	"testing"
)

// one runs a container that prints its number and ends with it, and says what was wrong.
func (d *daemon) one(id string, i int) error {
	n := i % 256
	got, err := d.try(d.rootfsRun([]string{"--rm"}, id, "sh", "-c", fmt.Sprintf("echo %d; exit %d", i, n))...)
	if err != nil {
		return err
	}
	if want := (result{fmt.Sprintln(i), "", n}); got != want {
		return fmt.Errorf("%s: got %+v, want %+v", id, got, want)
	}
	return nil
}

func TestManyOneAfterAnother(t *testing.T) {
	d := newDaemon(t)
	w := d.watch()
	const many = 200
	for i := range many {
		if err := d.one(fmt.Sprint("c", i), i); err != nil {
			t.Error(err)
		}
	}
	for i := range many {
		w.expect(fmt.Sprint("c", i), "create", "start", fmt.Sprintf("exit(%d)", i), fmt.Sprintf("delete(%d)", i))
	}
}

func TestManyAtOnce(t *testing.T) {
	d := newDaemon(t)
	w := d.watch()
	const many = 20
	atOnce(t, many, func(i int) error { return d.one(fmt.Sprint("c", i), i) })
	for i := range many {
		w.expect(fmt.Sprint("c", i), "create", "start", fmt.Sprintf("exit(%d)", i), fmt.Sprintf("delete(%d)", i))
	}
}

func TestManyExecsAtOnce(t *testing.T) {
	d := newDaemon(t)
	d.detached("c", "sleep", "1000")
	atOnce(t, 20, func(i int) error {
		got, err := d.try("task", "exec", "--fifo-dir", d.path("fifo"), "--exec-id", fmt.Sprint("e", i), "c",
			"sh", "-c", fmt.Sprintf("echo %d; exit %d", i, i))
		if err != nil {
			return err
		}
		if want := (result{fmt.Sprintln(i), "", i}); got != want {
			return fmt.Errorf("exec %d: got %+v, want %+v", i, got, want)
		}
		return nil
	})
	d.kill("c", "SIGKILL")
	d.awaitStatus("c", "STOPPED")
	d.remove("c")
}
