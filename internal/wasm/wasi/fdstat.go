package wasi

import (
	"encoding/binary"
	"io/fs"

	"github.com/tetratelabs/wazero/api"
	"golang.org/x/sys/unix"
)

// Rights of a descriptor. They say what it was opened for; it is the kernel that refuses.
const (
	rightDatasync  = 1 << 0
	rightRead      = 1 << 1
	rightSeek      = 1 << 2
	rightSetFlags  = 1 << 3
	rightSync      = 1 << 4
	rightTell      = 1 << 5
	rightWrite     = 1 << 6
	rightAdvise    = 1 << 7
	rightAllocate  = 1 << 8
	rightsOfPaths  = 1<<21 - 1<<9 | 7<<24 // path_create_directory to path_filestat_set_times, path_symlink to path_unlink_file
	rightStat      = 1 << 21
	rightSetSize   = 1 << 22
	rightSetTimes  = 1 << 23
	rightPoll      = 1 << 27
	rightShutdown  = 1 << 28
	rightAccept    = 1 << 29
	rightsOfBytes  = rightSetFlags | rightStat | rightPoll
	rightsOfFiles  = rightsOfBytes | rightDatasync | rightSeek | rightSync | rightTell | rightAdvise | rightSetTimes
	rightsToWrite  = rightWrite | rightAllocate | rightSetSize
	rightsOfDirs   = rightsOfPaths | rightDatasync | rightSetFlags | rightSync | rightStat | rightSetTimes
	rightsOfSocket = rightsOfBytes | rightRead | rightWrite | rightShutdown | rightAccept
)

// Kinds of files.
const (
	typeUnknown = iota
	typeBlock
	typeCharacter
	typeDirectory
	typeRegular
	_ // datagram socket
	typeSocket
	typeLink
)

func fileType(m fs.FileMode) byte {
	switch {
	case m.IsRegular():
		return typeRegular
	case m.IsDir():
		return typeDirectory
	case m&fs.ModeSymlink != 0:
		return typeLink
	case m&fs.ModeCharDevice != 0:
		return typeCharacter
	case m&fs.ModeDevice != 0:
		return typeBlock
	case m&fs.ModeSocket != 0:
		return typeSocket
	}
	return typeUnknown
}

// Flags of a descriptor.
const (
	flagAppend = 1 << iota
	flagDsync
	flagNonblock
	flagRsync
	flagSync
)

func fdFdstatGet(mod api.Module, args []uint64) error {
	d, err := lookup(mod, args[0])
	if err != nil {
		return err
	}
	out, ok := mod.Memory().Read(uint32(args[1]), 24)
	if !ok {
		return unix.EFAULT
	}
	st, errno := d.Stat()
	if errno != 0 {
		return errno
	}
	flags, rights, inherited := 0, 0, 0
	kind := fileType(st.Mode)
	fd, known := kernelFD(d.File, args[0])
	mode := unix.O_RDWR
	if known {
		if mode, err = unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil {
			return err
		}
		for host, guest := range map[int]int{unix.O_APPEND: flagAppend, unix.O_DSYNC: flagDsync, unix.O_NONBLOCK: flagNonblock, unix.O_SYNC: flagSync} {
			if mode&host == host {
				flags |= guest
			}
		}
	}
	switch kind {
	case typeDirectory:
		rights, inherited = rightsOfDirs, rightsOfDirs|rightsOfFiles|rightRead|rightsToWrite
	case typeSocket:
		rights = rightsOfSocket
	default:
		if rights = rightsOfFiles; kind == typeCharacter { // by this, and its type, wasi-libc knows a terminal
			rights &^= rightSeek | rightTell
		}
		if mode&unix.O_ACCMODE != unix.O_WRONLY {
			rights |= rightRead
		}
		if mode&unix.O_ACCMODE != unix.O_RDONLY {
			rights |= rightsToWrite
		}
	}
	clear(out)
	out[0] = kind
	binary.LittleEndian.PutUint16(out[2:], uint16(flags))
	binary.LittleEndian.PutUint64(out[8:], uint64(rights))
	binary.LittleEndian.PutUint64(out[16:], uint64(inherited))
	return nil
}
