package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/shimwright/shimwright/task"
)

// exit is the wire form of exit.json: that of containerd's shim since 2.4, so that either's delete understands the other's.
type exit struct {
	Timestamp time.Time
	Pid       int
	Status    int
}

// WriteExit notes how process pid, the container's first one, ended. e.At must be set. It belongs between seeing the
// exit and telling anyone: then no one who was told can find a delete that says otherwise.
func WriteExit(dir string, pid int, e task.Exit) error {
	data, err := json.Marshal(exit{e.At.UTC(), pid, e.Status})
	if err != nil {
		return fmt.Errorf("write %s: %w", ExitFile, err)
	}
	err = WriteFile(dir, ExitFile, data)
	if errors.Is(err, syscall.ENOSPC) && os.Remove(filepath.Join(dir, reserveFile)) == nil {
		err = WriteFile(dir, ExitFile, data)
	}
	return err
}

// reserveFile takes up the room of exit.json until that has to be written on a full file system.
const reserveFile = ".exit.reserve"

const block = 4096 // bytes: one file's, on the file systems that bundles are on

// Renew makes the bundle ready for a task: it forgets the pid and the exit of one that was there before, and reserves
// room for the exit to come.
func Renew(dir string) error {
	for _, name := range [...]string{InitPIDFile, ExitFile} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the last %s: %w", name, err)
		}
	}
	return WriteFile(dir, reserveFile, make([]byte, block))
}

// ReadExit reads what WriteExit noted. ErrNotFound: nothing; ErrInvalidArgument: it is torn.
func ReadExit(dir string) (pid int, e task.Exit, err error) {
	data, err := readFile(dir, ExitFile)
	if err != nil {
		return 0, task.Exit{}, err
	}
	var x exit
	if err := json.Unmarshal(data, &x); err != nil {
		return 0, task.Exit{}, torn(ExitFile, err)
	}
	if x.Timestamp.IsZero() || x.Pid < 0 || x.Status < 0 || x.Status > 255 {
		return 0, task.Exit{}, torn(ExitFile, errors.New("no such exit is possible"))
	}
	return x.Pid, task.Exit{Status: x.Status, At: x.Timestamp}, nil
}
