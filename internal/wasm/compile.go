package wasm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/tetratelabs/wazero/experimental"
	"golang.org/x/sys/unix"
)

// compileArg is the argument that makes a compiler of this binary.
const compileArg = "wasm-compile"

// The compiler's files.
const (
	moduleFD = 3
	cacheFD  = 4
)

// Limits of one compilation. A hostile module hurts only its own compiler.
const (
	compileTimeout = 5 * time.Minute
	compileMemory  = 8 << 30 // bytes of address space, most of which Go only reserves
)

// compile compiles a module into directory cache, in a process of its own. ErrInvalidArgument: the module is to blame.
func compile(ctx context.Context, module, cache *os.File, workers int) error {
	ctx, cancel := context.WithTimeout(ctx, compileTimeout)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "/proc/self/exe", compileArg)
	cmd.Args[0] = os.Args[0]
	cmd.Env = []string{fmt.Sprintf("GOMAXPROCS=%d", workers)}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.ExtraFiles = []*os.File{module, cache}
	err := cmd.Run()
	var o outcome
	switch {
	case err == nil:
		err = json.Unmarshal(stdout.Bytes(), &o)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Errorf("compiling took longer than %v: %w", compileTimeout, errdefs.ErrInvalidArgument)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	if err != nil {
		first, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n")
		return fmt.Errorf("the compiler: %w: %s", err, first)
	}
	return o.err()
}

// compiler is what the process does. Its result is the exit status.
func compiler() int {
	err := bound()
	if err == nil {
		err = compileInto(fmt.Sprintf("/proc/self/fd/%d", cacheFD))
	}
	if err := json.NewEncoder(os.Stdout).Encode(outcomeOf(err)); err != nil {
		return 1
	}
	return 0
}

func bound() error {
	for resource, limit := range map[int]uint64{unix.RLIMIT_AS: compileMemory, unix.RLIMIT_CORE: 0} {
		if err := unix.Setrlimit(resource, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
			return os.NewSyscallError("setrlimit", err)
		}
	}
	return nil
}

func compileInto(cache string) error {
	ctx := context.Background()
	module, err := read(os.NewFile(moduleFD, "module"))
	if err != nil {
		return err
	}
	m, err := newMachine(ctx, cache, maxPages)
	if err != nil {
		return err
	}
	_, err = m.CompileModule(experimental.WithCompilationWorkers(ctx, runtime.GOMAXPROCS(0)), module)
	var disk *fs.PathError
	switch {
	case errors.As(err, &disk): // not the module's fault
		return fmt.Errorf("keep the compiled module: %w", err)
	case err != nil:
		return notCompiled(module, err)
	}
	return publish(cache)
}

// publish lets every user read what was compiled: the directory above the cache's entries lets in nobody but root.
func publish(cache string) error {
	return filepath.WalkDir(cache+"/.", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if d.IsDir() {
			mode = 0o755
		}
		return os.Chmod(path, mode)
	})
}
