package container

import (
	"context"
	"os"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// A Program is what a process runs that the kernel cannot execute: an interpreter is the process that the container has.
// The methods are called in their order; Close may come at any time, last.
type Program interface {
	// Command is what is executed instead: arguments, environment, and the files that are its descriptors from 3 on.
	Command() (args, env []string, files []*os.File)

	// Load returns when everything is done that can be done before the program runs. The interpreter runs. An error is
	// that of Create, or of an exec's Start.
	Load(ctx context.Context) error

	// Start lets the program run.
	Start() error

	// Status is how the program ended, whose interpreter has ended with status.
	Status(status int) int

	Close()
}

// kernel is the program of a process that the kernel executes itself.
type kernel struct{}

func (kernel) Command() (args, env []string, files []*os.File) { return nil, nil, nil }
func (kernel) Load(context.Context) error                      { return nil }
func (kernel) Start() error                                    { return nil }
func (kernel) Status(status int) int                           { return status }
func (kernel) Close()                                          {}

// interpret makes p execute the program's interpreter.
func interpret(p *libcontainer.Process, program Program) {
	args, env, files := program.Command()
	if args == nil {
		return
	}
	no := true
	p.Args, p.Env, p.ExtraFiles, p.NoNewPrivileges = args, env, files, &no
}

// early tells whether a created container's interpreter may run before Start: no hook wants to come first.
func early(program Program, spec *specs.Spec) bool {
	if _, ok := program.(kernel); ok {
		return false
	}
	return spec.Hooks == nil || len(spec.Hooks.StartContainer)+len(spec.Hooks.Poststart) == 0
}
