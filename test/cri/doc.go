// Package cri holds only tests: containerd's CRI plugin with this project's shim as its runtime, driven over gRPC
// as a kubelet drives it: pods with a pause container, images from an archive that the test makes, networks by CNI.
//
// The tests need root, a static busybox, and the containerd and CNI plugins that `make deps` installs, in the
// directory SHIMWRIGHT_TOOLS or where `make deps` puts them. With SHIMWRIGHT_TEST_SHIM set to a directory that holds a
// containerd-shim-runc-v2 (and the runc it wants), the same tests run against that shim.
//
// Each test's daemon and its pods are in a network namespace of their own: nothing of the machine's network is touched.
package cri
