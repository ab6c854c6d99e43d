// Package bundle knows the files in a shim's bundle: the daemon's, containerd's shim's and ours.
//
// Everything is written atomically and readable by its owner alone. A reader meets either the old file or the new one;
// what a crash or a foreign hand has torn is told apart from what is missing: ErrInvalidArgument against ErrNotFound.
package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// What a bundle holds. The daemon makes the first group, the shim the second.
const (
	ConfigFile     = "config.json"      // the OCI runtime spec; missing for some sandboxes
	RootfsDir      = "rootfs"           // where the root file system is mounted
	WorkLink       = "work"             // link to the container's directory under the daemon's root
	LogFile        = "log"              // fifo: the shim's log
	BootstrapFile  = "bootstrap.json"   // the answer of start
	ShimBinaryFile = "shim-binary-path" // absolute path of the shim's binary

	AddressFile   = "address"      // the shim's socket, unix:///…; what daemons before 1.7 read
	InitPIDFile   = "init.pid"     // the pid of the container's first process, in decimal
	ExitFile      = "exit.json"    // how that process ended, see WriteExit
	OptionsFile   = "options.json" // the runtime's options
	RuntimeFile   = "runtime"      // the OCI runtime's binary, if there is one
	SocketDirLink = "s"            // link to the directory of the shim's sockets
)

// WriteFile writes the file name of the bundle dir: atomically, mode 0600 whatever the umask.
//
// Nothing is synced: a bundle does not outlive the machine it describes, and rename orders what other processes see.
func WriteFile(dir, name string, data []byte) (err error) {
	f, err := os.CreateTemp(dir, "."+name+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(f.Name())
			err = fmt.Errorf("write %s: %w", name, err)
		}
	}()
	if err = f.Chmod(0o600); err != nil {
		return err
	}
	if _, err = f.Write(data); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(dir, name))
}

// WritePID writes the pid of the container's first process.
func WritePID(dir string, pid int) error {
	return WriteFile(dir, InitPIDFile, strconv.AppendInt(nil, int64(pid), 10))
}

// ReadPID reads the pid of the container's first process. ErrNotFound: none was written.
func ReadPID(dir string) (int, error) {
	data, err := readFile(dir, InitPIDFile)
	if err != nil {
		return 0, err
	}
	pid, err := strconv.ParseInt(string(data), 10, 32)
	if err != nil || pid <= 0 {
		return 0, torn(InitPIDFile, fmt.Errorf("%.20q is no pid", data))
	}
	return int(pid), nil
}

// WriteAddress writes the shim's address, unix:///….
func WriteAddress(dir, address string) error {
	return WriteFile(dir, AddressFile, []byte(address))
}

// ReadAddress reads the shim's address. ErrNotFound: none was written.
func ReadAddress(dir string) (string, error) {
	data, err := readFile(dir, AddressFile)
	if err != nil {
		return "", err
	}
	address := strings.TrimSpace(string(data))
	if !strings.HasPrefix(address, "unix:///") {
		return "", torn(AddressFile, fmt.Errorf("%.120q is not of the form unix:///path", data))
	}
	return address, nil
}

func readFile(dir, name string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(dir, name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s: %w", name, errdefs.ErrNotFound)
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return data, nil
}

// torn is the error for a file that is there but does not say what it should.
func torn(name string, err error) error {
	return fmt.Errorf("%s: %w: %w", name, err, errdefs.ErrInvalidArgument)
}
