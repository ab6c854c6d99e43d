package testkit

import (
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
)

// addDescriptors adds this process's open files, but not those that Go's runtime opens for itself.
func addDescriptors(s state) {
	paths, _ := filepath.Glob("/proc/self/fd/*")
	for _, path := range paths {
		target := readlink(path)
		if target == "" || strings.HasPrefix(target, "/proc/") || target == "anon_inode:[eventpoll]" || target == "anon_inode:[eventfd]" {
			continue
		}
		s.add("fd "+path+" "+target, "file descriptor %s: %s", filepath.Base(path), target)
	}
}

// addGoroutines adds the goroutines that run or were started by this project's code.
func addGoroutines(s state) {
	stacks := make([]byte, 1<<20)
	for {
		n := runtime.Stack(stacks, true)
		if n < len(stacks) {
			stacks = stacks[:n]
			break
		}
		stacks = make([]byte, 2*len(stacks))
	}
	_, others, _ := strings.Cut(string(stacks), "\n\n") // the first is our own
	for stack := range strings.SplitSeq(others, "\n\n") {
		id := goroutineID.FindString(stack)
		if strings.Contains(stack, module) && !strings.Contains(stack, "testing.(*T).Run(") {
			s.add("goroutine "+id, "%s", strings.ReplaceAll(stack, "\n", "\n\t\t"))
		}
	}
}

const module = "github.com/shimwright/shimwright/"

var goroutineID = regexp.MustCompile(`^goroutine \d+`)
