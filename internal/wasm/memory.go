package wasm

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/containerd/errdefs"
	"github.com/tetratelabs/wazero/experimental"
)

// share is how much of room, the container's limit, the guest can have: what the runner itself does not need, so that a
// guest that wants too much sees an allocation fail, rather than the kernel end it. All in bytes; room 0: no limit.
// ErrInvalidArgument: it is less than the module begins with.
func share(room int64, module []byte) (uint64, error) {
	debug.FreeOSMemory() // of compiling or loading much is left
	if room <= 0 {
		return maxPages * pageSize, nil
	}
	own := footprint() + headroom(room)
	rest := max(room-own, 0)
	if least := minimum(module); least > uint64(rest) {
		return 0, fmt.Errorf("it begins with %d KiB of memory, and of the container's limit of %d KiB its runner leaves %d KiB: %w",
			least>>10, room>>10, rest>>10, errdefs.ErrInvalidArgument)
	}
	return uint64(rest), nil
}

// headroom is how much more than at the start the runner itself, not the guest, may need before it collects garbage.
func headroom(room int64) int64 {
	const least, most = 4 << 20, 16 << 20
	if room <= 0 {
		return most
	}
	return min(max(room/8, least), most)
}

// footprint is the memory that this process has to itself.
func footprint() int64 {
	var size, resident, shared int64
	statm, err := os.ReadFile("/proc/self/statm")
	if err == nil {
		_, err = fmt.Sscan(string(statm), &size, &resident, &shared)
	}
	if err != nil { // no /proc: compiled code, which is not on the heap, is about as much
		return 2 * heap()
	}
	return (resident - shared) * int64(os.Getpagesize())
}

// heap is what Go has of the kernel.
func heap() int64 {
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	return int64(mem.Sys - mem.HeapReleased)
}

// minimum is how much memory a module begins with, in bytes.
func minimum(module []byte) (size uint64) {
	sections(module, func(id byte, content []byte) {
		const memory = 5
		count, n := uleb(content)
		if id != memory || n == 0 || count == 0 || len(content) < n+1 {
			return
		}
		pages, _ := uleb(content[n+1:]) // after its flags
		size = pages * pageSize
	})
	return size
}

// memory bounds the memory of guests, and makes an allocation that fails one that the guest can see, rather than a panic.
type memory struct {
	experimental.MemoryAllocator
	most uint64 // bytes
}

func (m memory) Allocate(size, most uint64) experimental.LinearMemory {
	return linear{m.MemoryAllocator.Allocate(size, most), m.most}
}

type linear struct {
	experimental.LinearMemory
	most uint64
}

func (l linear) Reallocate(size uint64) (data []byte) {
	if size > l.most {
		return nil
	}
	defer func() {
		if recover() != nil {
			data = nil
		}
	}()
	return l.LinearMemory.Reallocate(size)
}
