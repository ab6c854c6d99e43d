package wasm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Request says how a module is to be run.
type Request struct {
	Program     *Program // Run owns its file from now on
	Args        []string
	Env         []string // name=value
	Cwd         string
	Preopens    []Preopen
	Listen      []string // host:port, TCP
	MemoryLimit int64    // bytes that the guest can have; 0: 4 GiB
	Room        int64    // bytes that the container can have, all of it; 0: no limit
}

// Run is a module that is being run, seen from the shim. The order is Command, Load, Start, Status, and at any time, last, Close.
type Run struct {
	cache  *Cache
	req    Request
	pipe   pipe
	theirs *os.File // the runner's end, and its binary, until Load
	self   *os.File

	compiled chan result // the one result, kept by Load
	cancel   context.CancelFunc
	ended    sync.WaitGroup
}

type result struct {
	*Compiled
	err error
}

// New begins to run a module: from now on it is being compiled, if nobody has yet.
func (c *Cache) New(ctx context.Context, req Request) (_ *Run, err error) {
	r := &Run{cache: c, req: req, compiled: make(chan result, 1)}
	defer func() {
		if err != nil {
			closeAll([]*os.File{r.theirs, r.self, req.Program.File})
		}
	}()
	if r.self, err = openSelf(); err != nil {
		return nil, err
	}
	if r.pipe, r.theirs, err = newPipe(); err != nil {
		return nil, err
	}
	ctx, r.cancel = context.WithCancel(ctx)
	r.ended.Go(func() {
		compiled, err := c.Get(ctx, req.Program.File)
		r.compiled <- result{compiled, err}
	})
	return r, nil
}

// openSelf opens this binary in a way that nobody can write to it by, whoever they are in the container: on a read-only
// mount that no name leads to.
func openSelf() (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/proc/self/exe", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("open_tree", err)
	}
	f := os.NewFile(uintptr(fd), "self")
	if err := seal(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Command is what the container executes in place of the program: its arguments and environment, and the files that are
// its descriptors from 3 on.
func (r *Run) Command() (args, env []string, files []*os.File) {
	exe := pipeFD + 1
	return []string{"/proc/self/fd/" + strconv.Itoa(exe), runnerArg}, nil, []*os.File{r.theirs, r.self}
}

// Load waits until the module is compiled and the runner, which executes, has it ready. Start is all that is left then.
// ErrInvalidArgument: the module cannot be run, or not with what was asked for.
func (r *Run) Load(ctx context.Context) error {
	closeAll([]*os.File{r.theirs, r.self})
	r.theirs, r.self = nil, nil
	stop := context.AfterFunc(ctx, func() { _ = r.pipe.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for tries := 1; ; tries++ {
		var compiled result
		select {
		case compiled = <-r.compiled:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if compiled.err != nil {
			return fmt.Errorf("module %s: %w", r.req.Program.Path, compiled.err)
		}
		o, err := r.offer(compiled.Compiled)
		compiled.Close()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("module %s: %w", r.req.Program.Path, err)
		}
		if !o.Cache || compiled.entry == "" || tries > 1 {
			if err := o.err(); err != nil {
				return fmt.Errorf("module %s: %w", r.req.Program.Path, err)
			}
			return nil
		}
		// It was compiled once: what is kept of it must be torn.
		r.cache.Log.Warn("compiled module is of no use and is made anew", "module", r.req.Program.Path, "err", o.Error)
		r.cache.Drop(compiled.Compiled)
		again, err := r.cache.Get(ctx, r.req.Program.File)
		r.compiled <- result{again, err}
	}
}

// offer gives the runner its job, and hears what it says.
func (r *Run) offer(compiled *Compiled) (o outcome, err error) {
	pages := int64(maxPages)
	for _, limit := range []int64{r.req.MemoryLimit, r.req.Room} {
		if limit > 0 {
			pages = min(pages, limit/pageSize)
		}
	}
	data, err := json.Marshal(job{
		Path: r.req.Program.Path, Function: r.req.Program.Function, Args: r.req.Args, Env: r.req.Env, Cwd: r.req.Cwd,
		Preopens: r.req.Preopens, Listen: r.req.Listen, Pages: uint32(pages), Room: r.req.Room,
	})
	if err != nil {
		return o, err
	}
	file, err := fileOf("job", data)
	if err != nil {
		return o, err
	}
	defer file.Close()
	files := []*os.File{file, r.req.Program.File}
	if compiled.Dir != nil {
		files = append(files, compiled.Dir)
	}
	if err := r.pipe.send(struct{}{}, files...); err != nil {
		return o, fmt.Errorf("reach the runner: %w", err)
	}
	_, err = r.pipe.receive(&o)
	if errors.Is(err, io.EOF) {
		err = errors.New("its runner has died; is there enough memory?")
	}
	return o, err
}

// Start lets the guest begin.
func (r *Run) Start() error { return r.pipe.send(struct{}{}) }

// Status is how the program ended, once its process has ended with status: of an exit code the kernel keeps only eight bits.
func (r *Run) Status(status int) int {
	_ = r.pipe.SetReadDeadline(time.Now().Add(time.Second)) // what it said is there already, and its end of the pipe has gone
	var o outcome
	if _, err := r.pipe.receive(&o); err == nil && o.Exit != nil {
		return int(*o.Exit)
	}
	return status
}

// Close frees what is left, at any time.
func (r *Run) Close() {
	r.cancel()
	_ = r.pipe.Close()
	r.ended.Wait()
	select {
	case c := <-r.compiled:
		if c.Compiled != nil {
			c.Close()
		}
	default:
	}
	closeAll([]*os.File{r.theirs, r.self, r.req.Program.File})
}

// Reexec does the work of the processes that this package starts, and ends them; in any other process it does nothing.
// Call it first thing in main.
func Reexec() {
	if len(os.Args) != 2 {
		return
	}
	switch os.Args[1] {
	case runnerArg:
		os.Exit(run())
	case compileArg:
		os.Exit(compiler())
	}
}
