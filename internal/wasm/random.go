package wasm

import "golang.org/x/sys/unix"

// random is the kernel's random number generator.
type random struct{}

func (random) Read(p []byte) (n int, err error) {
	for n < len(p) {
		k, err := unix.Getrandom(p[n:], 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return n, err
		}
		n += k
	}
	return n, nil
}
