//go:build linux

// Command crowd is a container's program that is many, for tests of killing:
//
//	crowd orphans N    N processes whose parent has ended
//	crowd threads N    N threads
//	crowd bomb         processes that start more processes, as fast as they can
//
// It says "ready" and stays.
package main

import (
	"os"
	"runtime/debug"
	"strconv"
	"syscall"
)

func main() {
	n := 0
	if len(os.Args) > 2 {
		n, _ = strconv.Atoi(os.Args[2])
	}
	switch os.Args[1] {
	case "orphans":
		if fork() == 0 {
			for range n {
				if fork() == 0 {
					pause()
				}
			}
			exit()
		}
		var status syscall.WaitStatus
		_, _ = syscall.Wait4(-1, &status, 0, nil)
	case "threads":
		debug.SetMaxThreads(n + 100)
		started := make(chan struct{})
		for range n {
			go func() {
				started <- struct{}{}
				_, _, _ = syscall.Syscall(syscall.SYS_PAUSE, 0, 0, 0) // its thread is kept
			}()
		}
		for range n {
			<-started
		}
	case "bomb":
		for range 3 {
			if fork() == 0 {
				for { // parent and child go on alike
					fork()
				}
			}
		}
	}
	_, _ = os.Stdout.WriteString("ready\n")
	pause()
}

// After fork there is one thread, without the Go runtime's others: nothing but system calls may follow in the child.

//go:norace
func fork() uintptr {
	pid, _, _ := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	return pid
}

//go:norace
func pause() {
	for {
		_, _, _ = syscall.RawSyscall(syscall.SYS_PAUSE, 0, 0, 0)
	}
}

//go:norace
func exit() {
	_, _, _ = syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 0, 0, 0)
}
