package wasm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// job is what a runner is to do.
type job struct {
	Path     string    `json:"path"`     // of the module, for messages
	Function string    `json:"function"` // to begin with
	Args     []string  `json:"args"`
	Env      []string  `json:"env"`
	Cwd      string    `json:"cwd"`
	Preopens []Preopen `json:"preopens"`
	Listen   []string  `json:"listen"` // host:port, TCP
	Pages    uint32    `json:"pages"`  // the most memory, in WebAssembly pages
	Room     int64     `json:"room"`   // what the container may use, runner and guest together, in bytes; 0: no limit
}

// Preopen is a directory of the container that the guest gets.
type Preopen struct {
	Path     string `json:"path"`
	ReadOnly bool   `json:"readOnly"`
}

// pipe is a runner's connection with the shim: messages in both directions, the first one with files.
type pipe struct{ *net.UnixConn }

// newPipe makes both ends; the other one is for the runner.
func newPipe() (ours pipe, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return pipe{}, nil, os.NewSyscallError("socketpair", err)
	}
	theirs = os.NewFile(uintptr(fds[1]), "runner")
	ours, err = openPipe(os.NewFile(uintptr(fds[0]), "shim"))
	if err != nil {
		theirs.Close()
		return pipe{}, nil, err
	}
	return ours, theirs, nil
}

// openPipe takes f over.
func openPipe(f *os.File) (pipe, error) {
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return pipe{}, err
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return pipe{}, fmt.Errorf("%s is no Unix socket", f.Name())
	}
	return pipe{unixConn}, nil
}

// maxMessage bounds a message; what may be longer, such as an environment, goes in a file.
const maxMessage = 64 << 10

func (p pipe) send(message any, files ...*os.File) error {
	data, err := json.Marshal(message)
	if err != nil {
		return err
	}
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	_, _, err = p.WriteMsgUnix(data[:min(len(data), maxMessage)], rights, nil)
	return err
}

// receive reads a message, and the files that come with it. io.EOF: the other side has ended.
func (p pipe) receive(message any) (files []*os.File, err error) {
	buf, rights := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(8*4))
	n, k, _, _, err := p.ReadMsgUnix(buf, rights)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, io.EOF
	}
	defer func() {
		if err != nil {
			closeAll(files)
		}
	}()
	messages, err := unix.ParseSocketControlMessage(rights[:k])
	if err != nil {
		return nil, err
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, json.Unmarshal(buf[:n], message)
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// fileOf puts data into a file without a name.
func fileOf(name string, data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.WriteAt(data, 0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
