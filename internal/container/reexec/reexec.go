// Package reexec makes a program that imports it the first process of its own containers: libcontainer runs
// "/proc/self/exe init" for each container and each exec, and what follows is not the program's main.
//
// It is a package of its own, with few imports, because Go initialises packages in the order of their import paths as
// soon as their imports are ready: init is reached, and never left, before anything that depends on protobuf is
// initialised.
package reexec

import (
	"os"

	_ "github.com/opencontainers/cgroups/devices" // lets cgroup managers set device rules
	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // enters the namespaces in C, before Go's runtime starts
)

func init() {
	if len(os.Args) > 1 && os.Args[1] == "init" {
		libcontainer.Init() // does not return
	}
}
