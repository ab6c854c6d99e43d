package task_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/shimwright/shimwright/internal/testkit"
	"github.com/shimwright/shimwright/task"
	"golang.org/x/sys/unix"
)

func TestChownLeavesDevicesAlone(t *testing.T) {
	if os.Geteuid() != 0 {
		testkit.Missing(t, "needs root")
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	r, pipe, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer pipe.Close()
	before := owner(t, null)
	if err := (&task.IO{Stdin: null, Stdout: file, Stderr: pipe}).Chown(1234, 5678); err != nil {
		t.Fatal(err)
	}
	for f, want := range map[*os.File][2]uint32{null: before, file: {1234, 5678}, pipe: {1234, 5678}, r: {1234, 5678}} {
		if got := owner(t, f); got != want {
			t.Errorf("%s belongs to %d, want %d", f.Name(), got, want)
		}
	}
	if err := (&task.IO{Terminal: true}).Chown(1, 1); err != nil {
		t.Errorf("of a terminal: %v", err)
	}
	file.Close()
	if err := (&task.IO{Stdout: file}).Chown(1, 1); err == nil {
		t.Error("a closed file has a new owner")
	}
}

func owner(t *testing.T, f *os.File) [2]uint32 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return [2]uint32{st.Uid, st.Gid}
}
