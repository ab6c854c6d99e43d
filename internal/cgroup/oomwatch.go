package cgroup

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// OOMWatch tells of what the kernel's OOM killer does in one container: each kill once, and those that belong together
// as one. It costs a descriptor on the runtime's poller and a goroutine, no thread, and nothing while nothing happens.
type OOMWatch struct {
	group Group

	mu      sync.Mutex // also held during tell: what is said in Exited comes after what was told
	tell    func()     // nil before Watch and after Close
	over    bool       // after Close
	counted uint64     // kills
	told    uint64     // those of counted that were told
	others  uint64     // otherOOMKills at first
	last    time.Time  // when a kill was last counted
	pending bool       // v1: the kernel has announced an OOM, and no kill was counted since
	late    uint64     // v1: what the eventfd said when the group was gone

	file   *os.File      // v1: an eventfd; v2: memory.events
	closed chan struct{} // asks the goroutine to end
	done   chan struct{} // closed when it has
}

// OOMs is a watch of g that counts from now on.
func (g Group) OOMs() *OOMWatch {
	n, _ := g.OOMKills()
	return &OOMWatch{group: g, counted: n, told: n, others: g.otherOOMKills()}
}

// Watch calls tell for each batch of kills, those since OOMs included, until Close. tell must not wait, nor call w.
// Watch is called once at most. A container without a memory controller is no error.
func (w *OOMWatch) Watch(tell func()) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return nil
	}
	w.tell = tell
	err := w.open()
	w.count()
	w.settle()
	if w.file != nil {
		w.closed, w.done = make(chan struct{}), make(chan struct{})
		go w.run(w.file) // ends with Close, which waits for it
	}
	if err != nil && !isGone(err) {
		return fmt.Errorf("watch for OOM kills: %w", err)
	}
	return nil
}

// Exited is called when a process of the container has ended, before anybody is told of that: what was not told before
// is told now. Without a Watch it is returned instead. shot: the process died of a SIGKILL that is nobody's deed.
func (w *OOMWatch) Exited(shot bool) (oom bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count()
	if shot {
		w.guess()
	}
	if w.tell == nil {
		oom = w.counted > w.told
		w.told = w.counted
	}
	w.settle()
	return oom
}

// Close ends the watch: nothing is told from now on. Repeated: nothing.
func (w *OOMWatch) Close() {
	w.mu.Lock()
	file := w.file
	w.tell, w.file, w.over = nil, nil, true
	w.mu.Unlock()
	if file != nil {
		close(w.closed)
		_ = file.Close()
		<-w.done
	}
}

// count reads the counter and says whether there is something to tell. The caller holds mu.
func (w *OOMWatch) count() (news bool) {
	if n, _ := w.group.OOMKills(); n > w.counted {
		w.counted, w.pending, w.last = n, false, time.Now()
	}
	return w.counted > w.told
}

// settle tells what was counted, and says whether that was anything. The caller holds mu.
func (w *OOMWatch) settle() bool {
	if w.counted == w.told || w.tell == nil {
		return false
	}
	w.told = w.counted
	w.tell()
	return true
}

// guess is for a group that was removed with its last process, before its counter was read: systemd does that. What
// tells of a kill then is that an OOM was announced (v1), or that kills are counted where nothing but this group can
// have left them (v2). The caller holds mu.
func (w *OOMWatch) guess() {
	if !w.gone() {
		return
	}
	w.announced()
	if !w.pending && w.late == 1 && w.await(100*time.Millisecond) { // the removal is signalled a moment after it
		w.announced()
	}
	if time.Since(w.last) < aftermath {
		w.pending = false
	}
	if n := w.group.otherOOMKills(); w.pending || n > w.others+w.counted {
		w.counted, w.pending = max(w.counted+1, n-min(n, w.others)), false
	}
}

// aftermath is how long OOMs that v1 announces may belong to a kill that was counted: whoever wants memory while the
// victim is dying announces one.
const aftermath = time.Second

// gone tells whether the group was removed.
func (w *OOMWatch) gone() bool {
	dir, _, _ := w.group.memory()
	_, err := os.Stat(dir)
	return isGone(err)
}

// batch is how long kills that belong together are collected: the kernel takes a moment to end a whole group, and v2
// tells of a change every 10 ms at most.
const batch = 10 * time.Millisecond

// looks is how often the counter is looked at after an OOM was announced, until there is a kill, each time after twice
// as long: 1.3 s in all. v1 announces an OOM before the OOM killer acts, and to the groups below that have no part in it.
const looks = 7

// run follows the file until it is closed.
func (w *OOMWatch) run(file *os.File) {
	defer close(w.done)
	conn, err := file.SyscallConn()
	if err != nil {
		return
	}
	for conn.Read(func(uintptr) bool { return w.stirred() }) == nil {
		pause := batch
		for range looks {
			select {
			case <-w.closed:
				return
			case <-time.After(pause):
			}
			if w.look() {
				break
			}
			pause *= 2
		}
		w.calm()
	}
}

// stirred tells whether it is time to look.
func (w *OOMWatch) stirred() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	announced := w.announced()
	return w.count() || announced
}

// look tells what there is to tell, and says whether that is all for now.
func (w *OOMWatch) look() (done bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count()
	return w.settle() || w.group.unified() || w.tell == nil
}

// calm forgets an OOM that was announced to this group, and whose kill was in another.
func (w *OOMWatch) calm() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pending = w.pending && w.gone()
}

// announced takes what the eventfd of v1 says, and tells whether it was an OOM. The kernel also signals it, once, when
// the group is removed. The caller holds mu.
func (w *OOMWatch) announced() bool {
	var n uint64
	w.control(func(fd int) {
		var buf [8]byte
		if k, err := retry(func() (int, error) { return unix.Read(fd, buf[:]) }); err == nil && k == len(buf) {
			n = binary.NativeEndian.Uint64(buf[:])
		}
	})
	if n == 0 {
		return false
	}
	if w.gone() {
		w.late += n
		w.pending = w.pending || w.late > 1
	} else {
		w.pending = true
	}
	return w.pending
}

// await waits until the eventfd of v1 has something to say. The caller holds mu.
func (w *OOMWatch) await(atMost time.Duration) (ready bool) {
	w.control(func(fd int) {
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(atMost.Milliseconds()))
		ready = n > 0
	})
	return ready
}

// control calls fn with the eventfd, if there is one. The caller holds mu.
func (w *OOMWatch) control(fn func(fd int)) {
	if w.file == nil || w.group.unified() {
		return
	}
	if conn, err := w.file.SyscallConn(); err == nil {
		_ = conn.Control(func(fd uintptr) { fn(int(fd)) })
	}
}

// open opens what tells of OOMs, on the runtime's poller. The caller holds mu.
func (w *OOMWatch) open() (err error) {
	dir, file, ok := w.group.memory()
	if !ok {
		return nil
	}
	path := filepath.Join(dir, file)
	fd, err := retry(func() (int, error) { return unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0) })
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	if w.group.unified() {
		w.file = os.NewFile(uintptr(fd), path)
		return nil
	}
	defer unix.Close(fd)
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("eventfd", err)
	}
	if err := write(dir, "cgroup.event_control", fmt.Sprint(event, fd)); err != nil {
		_ = unix.Close(event)
		return err
	}
	w.file = os.NewFile(uintptr(event), "eventfd of "+path)
	return nil
}
