// Package wasm runs WebAssembly modules as the programs of containers: what is a module and where it is, compiling it
// once for all, and the runner, which is the process in the container that executes it.
package wasm

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Start is the function that a module's program begins with, unless its path says another (path#function).
const Start = "_start"

// Program is a module that is to be run.
type Program struct {
	Path     string   // in the container
	Function string   // that it begins with
	File     *os.File // the module; closed by whoever selected it
}

// A View is a container's file system as it can be seen from outside.
type View struct {
	Root   string        // its root: the root file system, or /proc/PID/root of a container that runs
	Mounts []specs.Mount // what will be mounted there; none if they can be seen below Root already
	Bundle string        // relative sources of mounts are in here
}

// Select finds out whether process p is to run a module. nil and no error: it is native, or nothing that can be found:
// whoever starts it tells. annotations are the container's; for an exec they are nil: what its program is decides.
//
// ErrInvalidArgument: the annotations ask for a module, or what is there claims to be WebAssembly, but it is none that can be run.
func Select(v View, p *specs.Process, annotations map[string]string) (*Program, error) {
	if p == nil || len(p.Args) == 0 || annotations["io.kubernetes.cri.container-type"] == "sandbox" {
		return nil, nil
	}
	name, function, _ := strings.Cut(p.Args[0], "#")
	if function == "" {
		function = Start
	}
	must := slices.Contains([]string{"wasm", "compat"}, annotations["run.oci.handler"]) ||
		annotations["module.wasm.image/variant"] == "compat"
	f, at, err := v.find(name, p)
	if err != nil {
		if must {
			return nil, fmt.Errorf("find the module %q: %w: %w", name, err, errdefs.ErrInvalidArgument)
		}
		return nil, nil
	}
	k, err := sniff(f)
	switch {
	case err != nil:
		err = fmt.Errorf("read %s: %w", at, err)
	case k == kindModule:
		return &Program{Path: at, Function: function, File: f}, nil
	case must || k == kindComponent || k == kindVersion:
		err = k.refuse(at)
	}
	f.Close()
	return nil, err
}

// find opens the program that name means to process p: a path, or a name that is looked for in PATH and then in the
// current directory. The executable bit is not asked for.
func (v View) find(name string, p *specs.Process) (f *os.File, at string, err error) {
	if name == "" {
		return nil, "", unix.ENOENT
	}
	if strings.Contains(name, "/") {
		at = absolute(name, p.Cwd)
		f, err = v.open(at)
		return f, at, err
	}
	dirs := []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}
	for _, env := range p.Env {
		if value, ok := strings.CutPrefix(env, "PATH="); ok {
			dirs = filepath.SplitList(value)
		}
	}
	for _, dir := range append(dirs, p.Cwd) {
		at = absolute(path.Join(dir, name), p.Cwd)
		if f, err = v.open(at); err == nil {
			return f, at, nil
		}
	}
	return nil, "", fmt.Errorf("it is in none of %s, nor in %s: %w", strings.Join(dirs, ":"), p.Cwd, unix.ENOENT)
}

func absolute(name, cwd string) string {
	if path.IsAbs(name) {
		return path.Clean(name)
	}
	return path.Join("/", cwd, name)
}

// open opens a regular file of the container. The kernel resolves it below the root, or below what is going to be
// mounted over that; a link that leads from the one to the other is not followed.
func (v View) open(name string) (*os.File, error) {
	root := v.Root
	for _, m := range slices.Backward(v.Mounts) { // later ones lie over earlier ones
		below, ok := within(path.Clean(m.Destination), name)
		if !ok {
			continue
		}
		if !bind(m) {
			return nil, fmt.Errorf("%s is in a mount of type %s: %w", name, m.Type, unix.ENOENT)
		}
		source := m.Source
		if !filepath.IsAbs(source) {
			source = filepath.Join(v.Bundle, source)
		}
		if below == "." { // the file itself is mounted
			return openRegular(unix.AT_FDCWD, source, 0)
		}
		root, name = source, below
		break
	}
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(dir)
	return openRegular(dir, strings.TrimLeft(name, "/"), unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
}

// within tells where name is below dir, both absolute and clean.
func within(dir, name string) (below string, ok bool) {
	if dir == "/" || dir == "." {
		return "", false
	}
	rest, ok := strings.CutPrefix(name, dir)
	switch {
	case !ok:
		return "", false
	case rest == "":
		return ".", true
	case rest[0] == '/':
		return rest[1:], true
	}
	return "", false
}

func bind(m specs.Mount) bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

func openRegular(dir int, name string, resolve uint64) (*os.File, error) {
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NOCTTY | unix.O_NONBLOCK, Resolve: resolve}
	var fd int
	var err error
	for range 100 { // EAGAIN: something was renamed meanwhile
		fd, err = unix.Openat2(dir, name, &how)
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &os.PathError{Op: "open", Path: name, Err: unix.EACCES}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// size is how large a module may be: more than any that is known, less than what would hurt.
const maxModule = 512 << 20

// read reads a whole module.
func read(f *os.File) ([]byte, error) {
	data, err := io.ReadAll(io.NewSectionReader(f, 0, maxModule+1))
	if err == nil && len(data) > maxModule {
		err = fmt.Errorf("a module of more than %d MiB: %w", maxModule>>20, errdefs.ErrInvalidArgument)
	}
	return data, err
}
