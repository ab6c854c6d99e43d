package wasm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/experimental/sysfs"
	"github.com/tetratelabs/wazero/sys"
	"github.com/wasilibs/wazero-helpers/allocator"

	"golang.org/x/sys/unix"

	"github.com/shimwright/shimwright/internal/wasm/wasi"
)

// runnerArg is the argument that makes a runner of this binary.
const runnerArg = "wasm-runner"

// pipeFD is where a runner finds its end of the pipe.
const pipeFD = 3

// statusTrapped is the exit status of a module that has trapped: as if aborted.
const statusTrapped = 134

// runner is the process in the container.
type runner struct {
	pipe    pipe
	job     job
	machine *machine
	module  wazero.CompiledModule
	config  wazero.ModuleConfig
	listen  []wasi.Listener
	opened  []*wasi.Dir
	most    uint64 // bytes of memory that the guest can have
}

// run is what a runner does. Its result is the process's exit status.
//
// Everything that takes time comes before the word to go: the module is compiled or found, and checked. Nothing of the
// guest has run by then.
func run() int {
	dieOnSignals()
	p, err := openPipe(os.NewFile(pipeFD, "pipe"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "wasm: no shim to work for:", err)
		return 255
	}
	_ = unix.Close(pipeFD + 1) // the binary
	ctx := context.Background()
	r := &runner{pipe: p}
	for { // what the cache holds may be of no use: then the shim sends another
		err := r.prepare(ctx)
		if err := p.send(outcomeOf(err)); err != nil {
			return 255
		}
		if err == nil {
			break
		}
	}
	var goAhead struct{}
	if _, err := p.receive(&goAhead); err != nil {
		return 255 // the shim has gone, or thought better of it
	}
	code, err := r.execute(ctx)
	if err != nil {
		fmt.Fprintf(os.Stderr, "wasm: %s: %v\n", r.job.Path, err)
	}
	_ = p.send(outcome{Exit: &code})
	if code != 0 && code&0xff == 0 { // the kernel keeps eight bits
		return 255
	}
	return int(code & 0xff)
}

// prepare takes a job and does all of it that is not the guest's.
func (r *runner) prepare(ctx context.Context) (err error) {
	var head struct{}
	files, err := r.pipe.receive(&head)
	if err != nil {
		if errors.Is(err, io.EOF) {
			os.Exit(255)
		}
		return err
	}
	defer closeAll(files)
	if len(files) < 2 {
		return errors.New("a job has two files at least")
	}
	data, err := read(files[0])
	if err != nil {
		return err
	}
	r.job = job{}
	if err := json.Unmarshal(data, &r.job); err != nil {
		return fmt.Errorf("read the job: %w", err)
	}
	module, err := read(files[1])
	if err != nil {
		return fmt.Errorf("read the module: %w", err)
	}
	if r.job.Room > 0 {
		debug.SetMemoryLimit(r.job.Room / 2) // rather slower than killed
	}
	var cache string
	if len(files) > 2 {
		cache = "/proc/self/fd/" + strconv.Itoa(int(files[2].Fd()))
		if _, err := os.Stat(cache); err != nil {
			cache = "" // no /proc in this container
		}
	}
	if r.machine, err = newMachine(ctx, cache, r.job.Pages); err != nil {
		return err
	}
	if r.module, err = r.machine.load(ctx, module, r.job.Function); err != nil {
		return errors.Join(err, r.machine.Close(ctx))
	}
	if r.most, err = share(r.job.Room, module); err != nil {
		return errors.Join(err, r.machine.Close(ctx))
	}
	return r.configure()
}

// configure makes the guest's world.
func (r *runner) configure() error {
	r.config = wazero.NewModuleConfig().
		WithArgs(r.job.Args...).
		WithStdin(os.Stdin).WithStdout(os.Stdout).WithStderr(os.Stderr).
		WithSysNanosleep().WithSysNanotime().WithSysWalltime().WithRandSource(random{}).
		WithName("").WithStartFunctions()
	pwd := false
	for _, env := range r.job.Env {
		key, value, ok := strings.Cut(env, "=")
		if !ok || key == "" {
			continue
		}
		pwd = pwd || key == "PWD"
		r.config = r.config.WithEnv(key, value)
	}
	if !pwd {
		r.config = r.config.WithEnv("PWD", r.job.Cwd)
	}
	mounts := wazero.NewFSConfig().(sysfs.FSConfig)
	for _, p := range r.job.Preopens {
		dir, err := wasi.Open(p.Path, p.ReadOnly)
		if err != nil {
			return fmt.Errorf("preopen: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		r.opened = append(r.opened, dir)
		mounts = mounts.WithSysFSMount(dir, p.Path).(sysfs.FSConfig)
	}
	r.config = r.config.WithFSConfig(mounts.(wazero.FSConfig))
	for _, address := range r.job.Listen {
		l, err := wasi.Listen(address)
		if err != nil {
			return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
		r.listen = append(r.listen, l)
	}
	return nil
}

// execute runs the guest to its end. A trap is told as an error, and a status of its own.
func (r *runner) execute(ctx context.Context) (code uint32, err error) {
	// While the guest computes, its thread cannot be stopped for a collection that another one begins, such as the
	// one every two minutes: the whole process would hang. With this, only the guest's own calls begin any.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(heap() + headroom(r.job.Room))
	defer func() {
		if p := recover(); p != nil {
			code, err = statusTrapped, fmt.Errorf("panic: %v", p)
		}
	}()
	ctx = experimental.WithMemoryAllocator(ctx, memory{allocator.NewNonMoving(), r.most})
	guest, err := r.machine.InstantiateModule(ctx, r.module, r.config)
	if err != nil {
		return status(err)
	}
	for _, l := range r.listen {
		if err := l.Give(guest); err != nil {
			return statusTrapped, fmt.Errorf("listen: %w", err)
		}
	}
	if init := guest.ExportedFunction("_initialize"); init != nil && r.job.Function != Start {
		if _, err := init.Call(ctx); err != nil {
			return status(err)
		}
	}
	results, err := guest.ExportedFunction(r.job.Function).Call(ctx)
	if err != nil {
		return status(err)
	}
	if len(results) == 1 {
		return uint32(results[0]), nil
	}
	return 0, nil
}

// status is how a guest ended that did not return.
func status(err error) (uint32, error) {
	var exit *sys.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	return statusTrapped, err
}
