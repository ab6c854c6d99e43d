package cri_test

import (
	"net"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// A network is a network namespace of the test's own, with nothing but lo in it.
type network struct{ ns *os.File }

func newNetwork(t *testing.T) *network {
	t.Helper()
	var n network
	err := elsewhere(func() error { return unix.Unshare(unix.CLONE_NEWNET) }, func() (err error) {
		if n.ns, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		return up("lo")
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.ns.Close() })
	return &n
}

// do calls f on a thread that is in the namespace: what f starts or connects is there too.
func (n *network) do(f func() error) error {
	return elsewhere(func() error { return unix.Setns(int(n.ns.Fd()), unix.CLONE_NEWNET) }, f)
}

func (n *network) dial(address string) (conn net.Conn, err error) {
	err = n.do(func() error {
		conn, err = net.Dial("tcp", address)
		return err
	})
	return conn, err
}

// elsewhere calls f on a thread that enter has moved, and moves the thread back.
func elsewhere(enter, f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	if err := enter(); err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer func() {
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread() // else the thread ends with its goroutine
		}
	}()
	return f()
}

func up(name string) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	link, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	link.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, link)
}
