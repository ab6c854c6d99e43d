// Package reexec makes a program that imports it the first process of its own containers: libcontainer runs
// "/proc/self/exe init" for each container and each exec, and what follows is not the program's main.
//
// It is a package of its own, with few imports, because Go initialises a package as soon as its imports are ready: init
// is reached, and never left, before the packages that sort behind it or import it. Libraries that libcontainer itself
// waits for, or that sort before it, are initialised in every container's init too.
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
