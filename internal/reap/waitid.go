package reap

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// siginfo is the kernel's siginfo_t as waitid(2) fills it, on 64-bit Linux: 128 bytes, of which pid, uid and status follow
// signo, errno, code and four bytes of padding.
type siginfo struct {
	Signo, Errno, Code, _ int32
	Pid                   int32
	UID                   uint32
	Status                int32
	_                     [128 - 7*4]byte
}

// The kernel's CLD_EXITED: Status is an exit code. With any other code it is a signal's number.
const cldExited = 1

func (s *siginfo) pid() int { return int(s.Pid) }

// exit is the exit code, or 128+n for signal n.
func (s *siginfo) exit() int {
	if s.Code == cldExited {
		return int(s.Status)
	}
	return 128 + int(s.Status)
}

// waitid is waitid(2), repeated when a signal interrupts it. info may be nil.
func waitid(idType, id int, info *siginfo, options int) error {
	if info == nil {
		info = new(siginfo)
	}
	for {
		err := unix.Waitid(idType, id, (*unix.Siginfo)(unsafe.Pointer(info)), options, nil)
		if err != unix.EINTR { //nolint:errorlint // a bare Errno
			return err
		}
	}
}
