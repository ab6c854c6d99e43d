// Package cgroup2 runs tests of other packages on a kernel whose only cgroup hierarchy is v2, whatever the machine has:
// user-mode Linux boots it as a process.
package cgroup2
