//go:build wasip1

// Command calls calls each function of WASI preview 1 and compares what comes back with what WASI says. It prints
// a line for each case: ok or not, tab, the function, tab, the case, tab, what is wrong.
//
// It wants two empty directories as preopens, a and b, and two listeners whose clients send "hello" and end, the
// first one at once, the other one when it has got "ready".
package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"unsafe"
)

// Errors of WASI.
const (
	ok       = 0
	acces    = 2
	again    = 6
	badf     = 8
	exist    = 20
	fbig     = 22
	inval    = 28
	isdir    = 31
	loop     = 32
	noent    = 44
	nosys    = 52
	notdir   = 54
	notempty = 55
	notsock  = 57
	notsup   = 58
	perm     = 63
	eRange   = 68
	spipe    = 70
	xdev     = 75
)

// dir and other are the preopened directories, listener and late the sockets.
const (
	dir      = 3
	other    = 4
	listener = 5
	late     = 6
)

// Flags of path_open.
const (
	oCreat = 1 << iota
	oDirectory
	oExcl
	oTrunc
)

const (
	follow = 1

	rightRead  = 1 << 1
	rightWrite = 1 << 6
	rightsRW   = rightRead | rightWrite | 1<<2 | 1<<3 | 1<<5 | 1<<8 | 1<<21 | 1<<22 | 1<<23

	fdAppend   = 1
	fdDsync    = 2
	fdNonblock = 4
	fdSyncFlag = 16
)

var le = binary.LittleEndian

func p[T any](v *T) unsafe.Pointer { return unsafe.Pointer(v) }
func s(text string) (unsafe.Pointer, uint32) {
	return unsafe.Pointer(unsafe.StringData(text)), uint32(len(text))
}

type iovec struct{ ptr, size uint32 }

// kept is what a call is told the address of, as a number that the collector does not see.
var kept []byte

func iov(b []byte) *iovec {
	kept = b
	return &iovec{uint32(uintptr(unsafe.Pointer(unsafe.SliceData(b)))), uint32(len(b))}
}

// A problem is what is wrong in a case; empty: nothing.
type problem string

func (w *problem) add(format string, args ...any) {
	if *w != "" {
		*w += "; "
	}
	*w += problem(fmt.Sprintf(format, args...))
}

func (w *problem) errno(what string, got uint32, want ...uint32) bool {
	for _, n := range want {
		if got == n {
			return true
		}
	}
	w.add("%s: errno %d, want %v", what, got, want)
	return false
}

func (w *problem) equal(what string, got, want any) {
	if got != want {
		w.add("%s is %v, want %v", what, got, want)
	}
}

// open opens a file, to be read and written unless rights says otherwise.
func (w *problem) open(at int32, path string, oflags uint32, rights uint64, fdflags uint32) (fd int32) {
	ptr, n := s(path)
	w.errno("open "+path, pathOpen(at, follow, ptr, n, oflags, rights, rightsRW, fdflags, p(&fd)), ok)
	return fd
}

// file makes a file with text in it.
func (w *problem) file(path, text string) (fd int32) {
	fd = w.open(dir, path, oCreat|oTrunc, rightsRW, 0)
	if text != "" {
		w.write(fd, text)
	}
	return fd
}

func (w *problem) write(fd int32, text string) {
	var n uint32
	w.errno("write", fdWrite(fd, p(iov([]byte(text))), 1, p(&n)), ok)
	w.equal("written", n, uint32(len(text)))
}

func (w *problem) read(fd int32, size int) string {
	buf, n := make([]byte, size), uint32(0)
	w.errno("read", fdRead(fd, p(iov(buf)), 1, p(&n)), ok)
	return string(buf[:n])
}

func (w *problem) pread(fd int32, size int, at uint64) string {
	buf, n := make([]byte, size), uint32(0)
	w.errno("pread", fdPread(fd, p(iov(buf)), 1, at, p(&n)), ok)
	return string(buf[:n])
}

func openErr(path string, dirflags, oflags uint32, rights uint64) uint32 {
	var fd int32
	ptr, n := s(path)
	errno := pathOpen(dir, dirflags, ptr, n, oflags, rights, rightsRW, 0, p(&fd))
	if errno == ok {
		fdClose(fd)
	}
	return errno
}

func mkdir(path string) uint32  { ptr, n := s(path); return pathCreateDirectory(dir, ptr, n) }
func rmdir(path string) uint32  { ptr, n := s(path); return pathRemoveDirectory(dir, ptr, n) }
func unlink(path string) uint32 { ptr, n := s(path); return pathUnlinkFile(dir, ptr, n) }
func symlink(target, path string) uint32 {
	t, tn := s(target)
	ptr, n := s(path)
	return pathSymlink(t, tn, dir, ptr, n)
}
func rename(from string, at int32, to string) uint32 {
	f, fn := s(from)
	t, tn := s(to)
	return pathRename(dir, f, fn, at, t, tn)
}
func link(flags uint32, from string, at int32, to string) uint32 {
	f, fn := s(from)
	t, tn := s(to)
	return pathLink(dir, flags, f, fn, at, t, tn)
}

// stat is a filestat record.
type stat struct {
	dev, ino         uint64
	kind             uint64
	nlink, size      uint64
	atim, mtim, ctim uint64
}

func (w *problem) stat(flags uint32, path string) (st stat) {
	ptr, n := s(path)
	w.errno("stat "+path, pathFilestatGet(dir, flags, ptr, n, p(&st)), ok)
	return st
}

func statErr(flags uint32, path string) uint32 {
	var st stat
	ptr, n := s(path)
	return pathFilestatGet(dir, flags, ptr, n, p(&st))
}

// fdstat is an fdstat record.
type fdstat struct {
	kind, _          uint8
	flags            uint16
	_                uint32
	base, inheriting uint64
}

func (w *problem) fdstat(fd int32) (st fdstat) {
	w.errno("fdstat", fdFdstatGet(fd, p(&st)), ok)
	return st
}

func (w *problem) now(clock uint32) (ns uint64) {
	w.errno("clock", clockTimeGet(clock, 1, p(&ns)), ok)
	return ns
}

// subscription and event are those of poll_oneoff.
type subscription struct {
	userdata           uint64
	tag, _, _, _       uint8
	_                  uint32
	arg                uint64 // a clock's id, or a descriptor
	timeout, precision uint64
	flags              uint64
}

type event struct {
	userdata uint64
	errno    uint16
	kind     uint8
	nbytes   uint64
	flags    uint64
}

func (w *problem) poll(subs ...subscription) []event {
	events, n := make([]event, len(subs)), uint32(0)
	if !w.errno("poll", pollOneoff(p(&subs[0]), p(&events[0]), uint32(len(subs)), p(&n)), ok) {
		return nil
	}
	return events[:n]
}

func main() {
	failed := 0
	for _, c := range cases {
		var w problem
		c.do(&w)
		result := "ok"
		if w != "" {
			result = "not"
			failed++
		}
		fmt.Printf("%s\t%s\t%s\t%s\n", result, c.call, c.name, strings.ReplaceAll(string(w), "\n", " "))
	}
	fmt.Println("done", len(os.Args))
	procExit(77)
}
