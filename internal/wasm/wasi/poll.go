package wasi

import (
	"encoding/binary"
	"errors"
	"math"

	"github.com/tetratelabs/wazero/api"
	"golang.org/x/sys/unix"
)

// Sizes of the records of poll_oneoff, in bytes.
const (
	subscriptionSize = 48
	eventSize        = 32
)

// Kinds of subscriptions.
const (
	subscribeClock = iota
	subscribeRead
	subscribeWrite
)

// subscription is what a guest waits for.
type subscription struct {
	userdata uint64
	kind     byte
	err      error // why there is nothing to wait for

	clock    int32 // the kernel's
	deadline int64 // on the clock, in nanoseconds

	fd   int // the kernel's; -1: a file that is always ready
	poll int // its place in what is polled; -1: none
}

// pollOneoff waits until something happens that the guest has subscribed to, in the kernel and for all of it at once.
func pollOneoff(mod api.Module, args []uint64) error {
	const most = 1 << 16 // more descriptors than anybody has
	n := uint32(args[2])
	if n == 0 || n > most {
		return unix.EINVAL
	}
	in, ok := mod.Memory().Read(uint32(args[0]), n*subscriptionSize)
	if !ok {
		return unix.EFAULT
	}
	if _, ok = mod.Memory().Read(uint32(args[1]), n*eventSize); !ok {
		return unix.EFAULT
	}
	var subs []subscription
	var fds []unix.PollFd
	for ; len(in) > 0; in = in[subscriptionSize:] {
		s, err := subscribe(mod, in)
		if err != nil {
			return err
		}
		if s.kind != subscribeClock && s.err == nil && s.fd >= 0 {
			events := int16(unix.POLLIN)
			if s.kind == subscribeWrite {
				events = unix.POLLOUT
			}
			s.poll = len(fds)
			fds = append(fds, unix.PollFd{Fd: int32(s.fd), Events: events})
		}
		subs = append(subs, s)
	}
	for {
		if err := wait(subs, fds); err != nil {
			return err
		}
		events := make([]byte, 0, len(subs)*eventSize)
		for _, s := range subs {
			if e, ok := s.event(fds); ok {
				events = append(events, e[:]...)
			}
		}
		if len(events) == 0 {
			continue
		}
		if !mod.Memory().Write(uint32(args[1]), events) || !mod.Memory().WriteUint32Le(uint32(args[3]), uint32(len(events)/eventSize)) {
			return unix.EFAULT
		}
		return nil
	}
}

// subscribe reads one subscription.
func subscribe(mod api.Module, in []byte) (s subscription, err error) {
	const absolute = 1
	le := binary.LittleEndian
	s = subscription{userdata: le.Uint64(in), kind: in[8], fd: -1, poll: -1}
	switch s.kind {
	case subscribeClock:
		clocks := []int32{unix.CLOCK_REALTIME, unix.CLOCK_MONOTONIC}
		id, timeout, flags := le.Uint32(in[16:]), le.Uint64(in[24:]), le.Uint16(in[40:])
		if id >= uint32(len(clocks)) || flags > absolute {
			s.err = unix.EINVAL
			return s, nil
		}
		s.clock, s.deadline = clocks[id], int64(min(timeout, math.MaxInt64))
		if flags&absolute == 0 {
			s.deadline = later(now(s.clock), s.deadline)
		}
		return s, nil
	case subscribeRead, subscribeWrite:
		fd := uint64(le.Uint32(in[16:]))
		d, err := lookup(mod, fd)
		if err != nil {
			s.err = err
		} else if kernel, ok := kernelFD(d.File, fd); ok {
			s.fd = kernel
		}
		return s, nil
	}
	return s, unix.EINVAL
}

// wait returns when one of subs may have happened.
func wait(subs []subscription, fds []unix.PollFd) error {
	for {
		left := int64(math.MaxInt64)
		for _, s := range subs {
			switch {
			case s.err != nil, s.kind != subscribeClock && s.poll < 0:
				left = 0
			case s.kind == subscribeClock:
				left = min(left, max(0, s.deadline-now(s.clock)))
			}
		}
		var timeout *unix.Timespec
		if left < math.MaxInt64 {
			ts := unix.NsecToTimespec(left)
			timeout = &ts
		}
		if _, err := unix.Ppoll(fds, timeout, nil); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// event is what has happened to s; not ok: nothing.
func (s subscription) event(fds []unix.PollFd) (e [eventSize]byte, ok bool) {
	const hangup = 1
	le := binary.LittleEndian
	err, bytes, flags := s.err, 0, 0
	switch {
	case s.err != nil:
	case s.kind == subscribeClock:
		if now(s.clock) < s.deadline {
			return e, false
		}
	case s.poll >= 0:
		seen := fds[s.poll].Revents
		switch {
		case seen == 0:
			return e, false
		case seen&unix.POLLNVAL != 0:
			err = unix.EBADF
		}
		if seen&unix.POLLHUP != 0 {
			flags = hangup
		}
		if s.kind == subscribeRead && err == nil {
			if n, err := unix.IoctlGetInt(s.fd, unix.TIOCINQ); err == nil { // FIONREAD; a listener has none
				bytes = n
			}
		}
	}
	le.PutUint64(e[:], s.userdata)
	le.PutUint16(e[8:], uint16(errnoOf(err)))
	e[10] = s.kind
	le.PutUint64(e[16:], uint64(max(bytes, 0)))
	le.PutUint16(e[24:], uint16(flags))
	return e, true
}

func now(clock int32) int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		return 0
	}
	return ts.Nano()
}

// later is by after at, at most the end of time.
func later(at, by int64) int64 {
	if by > math.MaxInt64-at {
		return math.MaxInt64
	}
	return at + by
}
