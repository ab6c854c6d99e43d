// Package daemon holds only tests: a real containerd with this project's shim first in its PATH, driven
// by ctr as a user would drive it, killed and started again, and its shims killed under it.
//
// The tests need root, a static busybox, and containerd and ctr of the releases that `make deps` installs.
// They look for them in the directory SHIMWRIGHT_TOOLS, else where `make deps` puts them. TestSmoke starts
// each release; the others use the newest one, or with SHIMWRIGHT_TEST_CONTAINERD=VERSION that one. With
// SHIMWRIGHT_TEST_SHIM set to a directory that holds a containerd-shim-runc-v2 (and the runc it wants), the
// same tests run against that shim; what only this project promises is left out then.
package daemon
