//go:build wasip1

package main

import (
	"bytes"
	"os"
	"strings"
	"unsafe"
)

var cases = []struct {
	call, name string
	do         func(w *problem)
}{
	{"args_sizes_get", "number and bytes", func(w *problem) {
		var n, size uint32
		w.errno("sizes", argsSizesGet(p(&n), p(&size)), ok)
		w.equal("n", n, uint32(3))
		w.equal("bytes", size, uint32(len("calls\x00one\x00two words\x00")))
	}},
	{"args_get", "strings in order", func(w *problem) {
		var argv [3]uint32
		buf := make([]byte, 64)
		kept = buf
		w.errno("get", argsGet(p(&argv), unsafe.Pointer(&buf[0])), ok)
		w.equal("args", string(buf[:len("calls\x00one\x00two words\x00")]), "calls\x00one\x00two words\x00")
		w.equal("second pointer", argv[1]-argv[0], uint32(len("calls")+1))
	}},
	{"environ_sizes_get", "number and bytes", func(w *problem) {
		var n, size uint32
		w.errno("sizes", environSizesGet(p(&n), p(&size)), ok)
		w.equal("n", n, uint32(3))
		w.equal("bytes", size, uint32(len("A=b\x00EMPTY=\x00PWD=/\x00")))
	}},
	{"environ_get", "strings in order", func(w *problem) {
		var env [3]uint32
		buf := make([]byte, 64)
		kept = buf
		w.errno("get", environGet(p(&env), unsafe.Pointer(&buf[0])), ok)
		w.equal("environment", string(bytes.TrimRight(buf, "\x00")), "A=b\x00EMPTY=\x00PWD=/")
		w.equal("os.Getenv", os.Getenv("A"), "b")
	}},
	{"clock_res_get", "realtime and monotonic", func(w *problem) {
		for id := range uint32(2) {
			var res uint64
			w.errno("get", clockResGet(id, p(&res)), ok)
			if res == 0 || res > 1e7 {
				w.add("resolution of %d is %d ns", id, res)
			}
		}
	}},
	{"clock_res_get", "unknown clock", func(w *problem) {
		var res uint64
		w.errno("get", clockResGet(99, p(&res)), inval)
	}},
	{"clock_time_get", "realtime is now", func(w *problem) {
		if now := w.now(0); now < 1.6e18 {
			w.add("now is %d", now)
		}
	}},
	{"clock_time_get", "monotonic grows", func(w *problem) {
		a := w.now(1)
		if b := w.now(1); b < a {
			w.add("from %d to %d", a, b)
		}
	}},
	{"clock_time_get", "processor time", func(w *problem) {
		var at uint64
		w.errno("get", clockTimeGet(2, 1, p(&at)), ok)
	}},
	{"clock_time_get", "unknown clock", func(w *problem) {
		var at uint64
		w.errno("get", clockTimeGet(99, 1, p(&at)), inval)
	}},
	{"fd_advise", "each advice", func(w *problem) {
		fd := w.file("advise", "text")
		defer fdClose(fd)
		for advice := range uint32(6) {
			w.errno("advise", fdAdvise(fd, 0, 4, advice), ok)
		}
		w.errno("unknown advice", fdAdvise(fd, 0, 4, 9), inval)
		w.errno("no descriptor", fdAdvise(99, 0, 4, 0), badf)
	}},
	{"fd_allocate", "grows, and never shrinks", func(w *problem) {
		fd := w.file("allocate", "text")
		defer fdClose(fd)
		w.errno("allocate", fdAllocate(fd, 0, 1000), ok)
		w.equal("size", w.stat(0, "allocate").size, uint64(1000))
		w.errno("allocate less", fdAllocate(fd, 0, 10), ok)
		w.equal("size", w.stat(0, "allocate").size, uint64(1000))
		w.equal("text", w.pread(fd, 5, 0), "text\x00")
	}},
	{"fd_allocate", "nonsense", func(w *problem) {
		fd := w.file("allocate", "")
		defer fdClose(fd)
		w.errno("no bytes", fdAllocate(fd, 0, 0), inval)
		w.errno("negative", fdAllocate(fd, 1<<63, 1), inval)
		w.errno("a directory", fdAllocate(dir, 0, 1), badf, isdir)
		w.errno("no descriptor", fdAllocate(99, 0, 1), badf)
	}},
	{"fd_allocate", "read-only descriptor", func(w *problem) {
		fdClose(w.file("allocate", ""))
		fd := w.open(dir, "allocate", 0, rightRead, 0)
		defer fdClose(fd)
		w.errno("allocate", fdAllocate(fd, 0, 10), badf)
	}},
	{"fd_close", "once", func(w *problem) {
		fd := w.file("close", "")
		w.errno("close", fdClose(fd), ok)
		w.errno("again", fdClose(fd), badf)
		w.errno("no descriptor", fdClose(99), badf)
		w.errno("negative", fdClose(-1), badf)
	}},
	{"fd_close", "the lowest number is free again", func(w *problem) {
		a := w.file("close", "")
		b := w.file("close2", "")
		fdClose(a)
		c := w.file("close3", "")
		w.equal("next", c, a)
		fdClose(b)
		fdClose(c)
	}},
	{"fd_datasync", "file", func(w *problem) {
		fd := w.file("sync", "x")
		defer fdClose(fd)
		w.errno("datasync", fdDatasync(fd), ok)
		w.errno("no descriptor", fdDatasync(99), badf)
	}},
	{"fd_sync", "file and directory", func(w *problem) {
		fd := w.file("sync", "x")
		defer fdClose(fd)
		w.errno("sync", fdSync(fd), ok)
		d := w.open(dir, ".", oDirectory, 0, 0)
		defer fdClose(d)
		w.errno("sync a directory", fdSync(d), ok)
		w.errno("no descriptor", fdSync(99), badf)
	}},
	{"fd_fdstat_get", "kinds", func(w *problem) {
		fd := w.file("fdstat", "")
		defer fdClose(fd)
		w.equal("file", w.fdstat(fd).kind, uint8(4))
		w.equal("directory", w.fdstat(dir).kind, uint8(3))
		w.equal("listener", w.fdstat(listener).kind, uint8(6))
		w.equal("a listener's flags", w.fdstat(listener).flags, uint16(fdNonblock))
		w.errno("no descriptor", fdFdstatGet(99, p(new(fdstat))), badf)
	}},
	{"fd_fdstat_get", "flags", func(w *problem) {
		for _, flags := range []uint32{0, fdAppend, fdNonblock, fdAppend | fdNonblock, fdDsync, fdSyncFlag | fdDsync} {
			fd := w.open(dir, "fdstat", oCreat, rightsRW, flags)
			w.equal("flags", uint32(w.fdstat(fd).flags), flags)
			fdClose(fd)
		}
	}},
	{"fd_fdstat_get", "rights", func(w *problem) {
		fdClose(w.file("fdstat", ""))
		for _, rights := range []uint64{rightRead, rightWrite, rightRead | rightWrite} {
			fd := w.open(dir, "fdstat", 0, rights, 0)
			w.equal("rights", w.fdstat(fd).base&(rightRead|rightWrite), rights)
			fdClose(fd)
		}
		w.equal("a directory's right to seek", w.fdstat(dir).base&(1<<2), uint64(0))
		w.equal("a directory's rights for files", w.fdstat(dir).inheriting&(rightRead|rightWrite), uint64(rightRead|rightWrite))
	}},
	{"fd_fdstat_set_flags", "append", func(w *problem) {
		fd := w.file("append", "one")
		defer fdClose(fd)
		w.errno("set", fdFdstatSetFlags(fd, fdAppend), ok)
		w.equal("flags", w.fdstat(fd).flags, uint16(fdAppend))
		w.errno("seek", fdSeek(fd, 0, 0, p(new(uint64))), ok)
		w.write(fd, "two")
		w.equal("text", w.pread(fd, 9, 0), "onetwo")
		w.errno("unset", fdFdstatSetFlags(fd, 0), ok)
		w.equal("flags", w.fdstat(fd).flags, uint16(0))
	}},
	{"fd_fdstat_set_flags", "nonblock", func(w *problem) {
		w.errno("set", fdFdstatSetFlags(late, fdNonblock), ok)
		w.equal("flags", w.fdstat(late).flags, uint16(fdNonblock))
		w.errno("unset", fdFdstatSetFlags(late, 0), ok)
		w.equal("flags", w.fdstat(late).flags, uint16(0))
	}},
	{"fd_fdstat_set_flags", "sync", func(w *problem) {
		fd := w.file("setsync", "")
		defer fdClose(fd)
		w.errno("set", fdFdstatSetFlags(fd, fdSyncFlag), ok)
	}},
	{"fd_fdstat_set_rights", "fewer", func(w *problem) {
		fd := w.file("rights", "")
		defer fdClose(fd)
		w.errno("set", fdFdstatSetRights(fd, rightRead, 0), ok)
	}},
	{"fd_filestat_get", "file", func(w *problem) {
		fd := w.file("filestat", "12345")
		defer fdClose(fd)
		var st stat
		w.errno("get", fdFilestatGet(fd, p(&st)), ok)
		w.equal("kind", st.kind, uint64(4))
		w.equal("size", st.size, uint64(5))
		w.equal("links", st.nlink, uint64(1))
		w.equal("the same by path", st, w.stat(0, "filestat"))
		w.errno("no descriptor", fdFilestatGet(99, p(&st)), badf)
	}},
	{"fd_filestat_get", "streams and directories", func(w *problem) {
		var st stat
		for fd := range int32(3) {
			w.errno("stream", fdFilestatGet(fd, p(&st)), ok)
		}
		w.errno("directory", fdFilestatGet(dir, p(&st)), ok)
		w.equal("kind", st.kind, uint64(3))
	}},
	{"fd_filestat_set_size", "both ways", func(w *problem) {
		fd := w.file("size", "12345")
		defer fdClose(fd)
		w.errno("shrink", fdFilestatSetSize(fd, 2), ok)
		w.errno("grow", fdFilestatSetSize(fd, 4), ok)
		w.equal("text", w.pread(fd, 9, 0), "12\x00\x00")
		w.errno("negative", fdFilestatSetSize(fd, 1<<63), inval)
		w.errno("a directory", fdFilestatSetSize(dir, 1), badf, isdir, inval)
	}},
	{"fd_filestat_set_times", "set, now, omit", func(w *problem) {
		fd := w.file("times", "")
		defer fdClose(fd)
		w.errno("set", fdFilestatSetTimes(fd, 1e9, 2e9, 1|4), ok)
		st := w.stat(0, "times")
		w.equal("atim", st.atim, uint64(1e9))
		w.equal("mtim", st.mtim, uint64(2e9))
		w.errno("now", fdFilestatSetTimes(fd, 0, 0, 8), ok)
		st = w.stat(0, "times")
		w.equal("atim", st.atim, uint64(1e9))
		if st.mtim < 1.6e18 {
			w.add("mtim is %d", st.mtim)
		}
		w.errno("set and now", fdFilestatSetTimes(fd, 1, 1, 1|2), inval)
	}},
	{"fd_pread", "leaves the offset", func(w *problem) {
		fd := w.file("pread", "0123456789")
		defer fdClose(fd)
		w.equal("text", w.pread(fd, 3, 4), "456")
		w.equal("at the end", w.pread(fd, 3, 9), "9")
		w.equal("beyond", w.pread(fd, 3, 99), "")
		var at uint64
		fdTell(fd, p(&at))
		w.equal("offset", at, uint64(10))
		w.errno("no descriptor", fdPread(99, p(iov(make([]byte, 1))), 1, 0, p(new(uint32))), badf)
		w.errno("negative offset", fdPread(fd, p(iov(make([]byte, 1))), 1, 1<<63, p(new(uint32))), inval)
	}},
	{"fd_pwrite", "leaves the offset", func(w *problem) {
		fd := w.file("pwrite", "0123456789")
		defer fdClose(fd)
		var n uint32
		w.errno("pwrite", fdPwrite(fd, p(iov([]byte("abc"))), 1, 4, p(&n)), ok)
		w.errno("pwrite beyond", fdPwrite(fd, p(iov([]byte("z"))), 1, 11, p(&n)), ok)
		w.equal("text", w.pread(fd, 20, 0), "0123abc789\x00z")
		var at uint64
		fdTell(fd, p(&at))
		w.equal("offset", at, uint64(10))
	}},
	{"fd_pwrite", "beyond 4 GiB", func(w *problem) {
		fd := w.file("large", "")
		defer fdClose(fd)
		var n uint32
		w.errno("pwrite", fdPwrite(fd, p(iov([]byte("far"))), 1, 5<<30, p(&n)), ok)
		w.equal("size", w.stat(0, "large").size, uint64(5<<30+3))
		w.equal("text", w.pread(fd, 9, 5<<30), "far")
		unlink("large")
	}},
	{"fd_prestat_get", "lengths, and an end", func(w *problem) {
		var st [2]uint32
		for fd := int32(dir); fd <= other; fd++ {
			w.errno("get", fdPrestatGet(fd, p(&st)), ok)
			w.equal("length", st, [2]uint32{0, 1})
		}
		w.errno("a listener", fdPrestatGet(listener, p(&st)), badf)
		w.errno("a stream", fdPrestatGet(1, p(&st)), badf, notdir, ok)
		w.errno("no descriptor", fdPrestatGet(99, p(&st)), badf)
	}},
	{"fd_prestat_dir_name", "names", func(w *problem) {
		buf := make([]byte, 1)
		for fd, want := range map[int32]string{dir: "a", other: "b"} {
			w.errno("get", fdPrestatDirName(fd, unsafe.Pointer(&buf[0]), 1), ok)
			w.equal("name", string(buf), want)
		}
		w.errno("no directory", fdPrestatDirName(listener, unsafe.Pointer(&buf[0]), 1), badf, notdir)
	}},
	{"fd_read", "in pieces, to the end", func(w *problem) {
		fd := w.file("read", "0123456789")
		defer fdClose(fd)
		w.errno("seek", fdSeek(fd, 0, 0, p(new(uint64))), ok)
		a, b, n := make([]byte, 3), make([]byte, 4), uint32(0)
		vec := [3]iovec{*iov(a), {}, *iov(b)}
		w.errno("read", fdRead(fd, p(&vec), 3, p(&n)), ok)
		w.equal("read", string(a)+"|"+string(b), "012|3456")
		w.equal("the rest", w.read(fd, 10), "789")
		w.equal("the end", w.read(fd, 10), "")
	}},
	{"fd_read", "what cannot be read", func(w *problem) {
		n, buf := uint32(0), make([]byte, 1)
		w.errno("a directory", fdRead(dir, p(iov(buf)), 1, p(&n)), isdir, badf)
		w.errno("no descriptor", fdRead(99, p(iov(buf)), 1, p(&n)), badf)
		fdClose(w.file("read", "x"))
		fd := w.open(dir, "read", 0, rightWrite, 0)
		defer fdClose(fd)
		w.errno("write-only", fdRead(fd, p(iov(buf)), 1, p(&n)), badf)
	}},
	{"fd_read", "standard input", func(w *problem) {
		w.equal("input", w.read(0, 5), "input")
	}},
	{"fd_readdir", "every entry once, in small pieces", func(w *problem) {
		mkdir("list")
		for _, name := range []string{"one", "two", "three", "four"} {
			fdClose(w.file("list/"+name, ""))
		}
		for _, size := range []int{27, 64, 4096} {
			fd := w.open(dir, "list", oDirectory, 0, 0)
			names := w.list(fd, size, nil)
			fdClose(fd)
			for _, name := range []string{".", "..", "one", "two", "three", "four"} {
				if strings.Count(names, "/"+name+"/") != 1 {
					w.add("with %d bytes: %s", size, names)
					break
				}
			}
		}
		w.errno("no directory", fdReaddir(1, p(new([64]byte)), 64, 0, p(new(uint32))), badf, notdir)
	}},
	{"fd_readdir", "entries removed meanwhile", func(w *problem) {
		mkdir("remove")
		for i := range 100 {
			fdClose(w.file("remove/f"+string(rune('a'+i/26))+string(rune('a'+i%26)), ""))
		}
		fd := w.open(dir, "remove", oDirectory, 0, 0)
		defer fdClose(fd)
		n := 0
		w.list(fd, 200, func(name string) {
			n++
			if name[0] == 'f' {
				w.errno("unlink "+name, unlink("remove/"+name), ok)
			}
		})
		w.equal("entries", n, 102)
		w.errno("remove", rmdir("remove"), ok)
	}},
	{"fd_readdir", "from the start again, with what is new", func(w *problem) {
		mkdir("again")
		fd := w.open(dir, "again", oDirectory, 0, 0)
		defer fdClose(fd)
		w.list(fd, 4096, nil)
		fdClose(w.file("again/new", ""))
		if names := w.list(fd, 4096, nil); !strings.Contains(names, "/new/") {
			w.add("the second time: %s", names)
		}
	}},
	{"fd_readdir", "an earlier cookie", func(w *problem) {
		mkdir("cookie")
		for _, name := range []string{"one", "two", "three"} {
			fdClose(w.file("cookie/"+name, ""))
		}
		fd := w.open(dir, "cookie", oDirectory, 0, 0)
		defer fdClose(fd)
		w.list(fd, 64, nil)
		w.errno("readdir", fdReaddir(fd, p(new([512]byte)), 512, 1, p(new(uint32))), ok)
	}},
	{"fd_renumber", "moves, and closes what was there", func(w *problem) {
		a, b := w.file("renumber-a", "a"), w.file("renumber-b", "b")
		w.errno("renumber", fdRenumber(a, b), ok)
		w.errno("the old number", fdClose(a), badf)
		w.equal("the new number", w.pread(b, 9, 0), "a")
		fdClose(b)
		w.errno("no descriptor", fdRenumber(99, 5), badf)
	}},
	{"fd_renumber", "to itself", func(w *problem) {
		fd := w.file("renumber", "x")
		defer fdClose(fd)
		w.errno("renumber", fdRenumber(fd, fd), ok)
		w.equal("text", w.pread(fd, 9, 0), "x")
	}},
	{"fd_seek", "each whence", func(w *problem) {
		fd := w.file("seek", "0123456789")
		defer fdClose(fd)
		var at uint64
		for _, c := range []struct {
			by     int64
			whence uint32
			want   uint64
		}{{4, 0, 4}, {2, 1, 6}, {-1, 1, 5}, {-3, 2, 7}, {5 << 30, 0, 5 << 30}, {0, 0, 0}} {
			w.errno("seek", fdSeek(fd, c.by, c.whence, p(&at)), ok)
			w.equal("offset", at, c.want)
		}
		w.errno("before the start", fdSeek(fd, -1, 0, p(&at)), inval)
		w.errno("unknown whence", fdSeek(fd, 0, 9, p(&at)), inval)
		w.errno("a directory", fdSeek(dir, 0, 0, p(&at)), isdir, badf)
		w.errno("no descriptor", fdSeek(99, 0, 0, p(&at)), badf)
	}},
	{"fd_seek", "a pipe", func(w *problem) {
		w.errno("seek", fdSeek(1, 0, 1, p(new(uint64))), spipe, badf)
	}},
	{"fd_tell", "after reads and writes", func(w *problem) {
		fd := w.file("tell", "0123456789")
		defer fdClose(fd)
		var at uint64
		w.errno("tell", fdTell(fd, p(&at)), ok)
		w.equal("offset", at, uint64(10))
		w.errno("no descriptor", fdTell(99, p(&at)), badf)
	}},
	{"fd_write", "in pieces", func(w *problem) {
		fd := w.file("write", "")
		defer fdClose(fd)
		a, b, n := []byte("one"), []byte("two"), uint32(0)
		vec := [2]iovec{*iov(a), *iov(b)}
		w.errno("write", fdWrite(fd, p(&vec), 2, p(&n)), ok)
		w.equal("written", n, uint32(6))
		w.equal("text", w.pread(fd, 9, 0), string(a)+string(b))
		w.errno("no descriptor", fdWrite(99, p(&vec), 2, p(&n)), badf)
		ro := w.open(dir, "write", 0, rightRead, 0)
		defer fdClose(ro)
		w.errno("read-only", fdWrite(ro, p(&vec), 2, p(&n)), badf)
	}},
	{"path_create_directory", "once", func(w *problem) {
		w.errno("make", mkdir("made"), ok)
		w.errno("again", mkdir("made"), exist)
		w.errno("with a slash", mkdir("made/slash/"), ok)
		w.errno("without its parent", mkdir("nowhere/made"), noent)
		w.errno("out of the directory", mkdir("../made"), perm)
		w.errno("absolute", mkdir("/made"), perm)
		w.equal("kind", w.stat(0, "made/slash").kind, uint64(3))
	}},
	{"path_filestat_get", "links, followed or not", func(w *problem) {
		fdClose(w.file("stat", "12345"))
		w.errno("symlink", symlink("stat", "stat-link"), ok)
		w.equal("followed", w.stat(follow, "stat-link").size, uint64(5))
		w.equal("not followed", w.stat(0, "stat-link").kind, uint64(7))
		w.errno("missing", statErr(0, "nothing"), noent)
		w.errno("a file as a directory", statErr(0, "stat/"), notdir)
		w.errno("out", statErr(0, "../x"), perm)
	}},
	{"path_filestat_set_times", "of a file and a directory", func(w *problem) {
		fdClose(w.file("set", ""))
		mkdir("set-dir")
		for _, flags := range []uint32{0, follow} {
			for _, name := range []string{"set", "set-dir"} {
				ptr, n := s(name)
				w.errno("set "+name, pathFilestatSetTimes(dir, flags, ptr, n, 3e9, 4e9, 1|4), ok)
				st := w.stat(0, name)
				w.equal("atim", st.atim, uint64(3e9))
				w.equal("mtim", st.mtim, uint64(4e9))
			}
		}
		ptr, n := s("set")
		w.errno("set and now", pathFilestatSetTimes(dir, 0, ptr, n, 1, 1, 4|8), inval)
	}},
	{"path_filestat_set_times", "of a link itself", func(w *problem) {
		fdClose(w.file("set", ""))
		before := w.stat(0, "set")
		w.errno("symlink", symlink("set", "set-link"), ok)
		ptr, n := s("set-link")
		w.errno("set", pathFilestatSetTimes(dir, 0, ptr, n, 5e9, 6e9, 1|4), ok)
		w.equal("the link's", w.stat(0, "set-link").mtim, uint64(6e9))
		w.equal("the file's", w.stat(0, "set").mtim, before.mtim)
	}},
	{"path_link", "a second name", func(w *problem) {
		fdClose(w.file("link", "x"))
		w.errno("link", link(0, "link", dir, "link-2"), ok)
		w.equal("links", w.stat(0, "link").nlink, uint64(2))
		w.equal("inode", w.stat(0, "link").ino, w.stat(0, "link-2").ino)
		w.errno("again", link(0, "link", dir, "link-2"), exist)
		w.errno("missing", link(0, "nothing", dir, "link-3"), noent)
		w.errno("a name with a slash", link(0, "link", dir, "link-3/"), noent)
		mkdir("link-dir")
		w.errno("a directory", link(0, "link-dir", dir, "link-3"), perm)
	}},
	{"path_link", "a symbolic link, not followed", func(w *problem) {
		symlink("nothing", "dangling-1")
		w.errno("link", link(0, "dangling-1", dir, "dangling-2"), ok)
		w.equal("kind", w.stat(0, "dangling-2").kind, uint64(7))
	}},
	{"path_link", "a symbolic link, followed", func(w *problem) {
		fdClose(w.file("link-to", "x"))
		symlink("link-to", "link-from")
		w.errno("link", link(follow, "link-from", dir, "link-made"), ok, inval)
	}},
	{"path_link", "into another preopen", func(w *problem) {
		fdClose(w.file("link-over", "x"))
		w.errno("link", link(0, "link-over", other, "link-over"), ok, xdev)
	}},
	{"path_open", "create and exclude", func(w *problem) {
		w.errno("missing", openErr("new", follow, 0, rightsRW), noent)
		w.errno("create", openErr("new", follow, oCreat|oExcl, rightsRW), ok)
		w.errno("again", openErr("new", follow, oCreat|oExcl, rightsRW), exist)
		symlink("nothing", "dangling")
		w.errno("exclusive, on a dangling link", openErr("dangling", follow, oCreat|oExcl, rightsRW), exist)
		w.errno("exclusive, on a dangling link, not followed", openErr("dangling", 0, oCreat|oExcl, rightsRW), exist)
		w.errno("a dangling link", openErr("dangling", follow, 0, rightRead), noent)
	}},
	{"path_open", "truncates", func(w *problem) {
		fdClose(w.file("trunc", "12345"))
		fdClose(w.open(dir, "trunc", oTrunc, rightsRW, 0))
		w.equal("size", w.stat(0, "trunc").size, uint64(0))
	}},
	{"path_open", "appends", func(w *problem) {
		fdClose(w.file("open-append", "12"))
		fd := w.open(dir, "open-append", 0, rightsRW, fdAppend)
		w.write(fd, "34")
		w.equal("text", w.pread(fd, 9, 0), "1234")
		fdClose(fd)
	}},
	{"path_open", "directories", func(w *problem) {
		mkdir("open-dir")
		fd := w.open(dir, "open-dir", oDirectory, 0, 0)
		fdClose(w.open(fd, "inside", oCreat, rightsRW, 0))
		fdClose(fd)
		w.equal("kind", w.stat(0, "open-dir/inside").kind, uint64(4))
		w.errno("a file as a directory", openErr("open-dir/inside", follow, oDirectory, 0), notdir)
		w.errno("a file with a slash", openErr("open-dir/inside/", follow, 0, rightRead), notdir)
		w.errno("a directory with a slash", openErr("open-dir/", follow, 0, rightRead), ok)
		w.errno("a new file with a slash", openErr("open-dir/new/", follow, oCreat, rightsRW), isdir, notdir, noent)
		w.errno("a directory to write to", openErr("open-dir", follow, 0, rightWrite), isdir)
		w.errno("create a directory", openErr("open-dir/new", follow, oCreat|oDirectory, 0), inval, notdir)
		w.errno("a descriptor that is a file", func() uint32 {
			file := w.open(dir, "open-dir/inside", 0, rightRead, 0)
			defer fdClose(file)
			ptr, n := s("x")
			return pathOpen(file, 0, ptr, n, 0, rightRead, 0, 0, p(new(int32)))
		}(), notdir)
	}},
	{"path_open", "links, followed or not", func(w *problem) {
		fdClose(w.file("open-target", "x"))
		symlink("open-target", "open-link")
		symlink("loop-b", "loop-a")
		symlink("loop-a", "loop-b")
		w.errno("followed", openErr("open-link", follow, 0, rightRead), ok)
		w.errno("not followed", openErr("open-link", 0, 0, rightRead), loop)
		w.errno("a loop", openErr("loop-a", follow, 0, rightRead), loop)
	}},
	{"path_open", "stays in the directory", func(w *problem) {
		w.errno("..", openErr("..", follow, 0, rightRead), perm)
		w.errno("../b", openErr("../b", follow, 0, rightRead), perm)
		w.errno("absolute", openErr("/a", follow, 0, rightRead), perm)
		w.errno("a winding way that stays", openErr("made/../made/./slash/..", follow, 0, rightRead), ok)
		w.errno("no name", openErr("", follow, 0, rightRead), noent, inval)
	}},
	{"path_open", "as many as the limit, and no more", func(w *problem) {
		var fds []int32
		for {
			var fd int32
			ptr, n := s("open-target")
			errno := pathOpen(dir, 0, ptr, n, 0, rightRead, 0, 0, p(&fd))
			if errno != ok {
				w.errno("open", errno, 33) // EMFILE
				break
			}
			if fds = append(fds, fd); len(fds) > 100000 {
				w.add("no end")
				break
			}
		}
		for _, fd := range fds {
			fdClose(fd)
		}
		w.errno("after that", openErr("open-target", 0, 0, rightRead), ok)
	}},
	{"path_open", "below a renamed directory's descriptor", func(w *problem) {
		mkdir("moved")
		fd := w.open(dir, "moved", oDirectory, 0, 0)
		defer fdClose(fd)
		w.errno("rename", rename("moved", dir, "moved-2"), ok)
		var in int32
		ptr, n := s("x")
		w.errno("open", pathOpen(fd, 0, ptr, n, oCreat, rightsRW, 0, 0, p(&in)), ok)
		fdClose(in)
	}},
	{"path_readlink", "what it says", func(w *problem) {
		symlink("some/target", "readlink")
		buf, used := make([]byte, 64), uint32(0)
		ptr, n := s("readlink")
		w.errno("readlink", pathReadlink(dir, ptr, n, unsafe.Pointer(&buf[0]), 64, p(&used)), ok)
		w.equal("target", string(buf[:used]), "some/target")
		ptr, n = s("made")
		w.errno("no link", pathReadlink(dir, ptr, n, unsafe.Pointer(&buf[0]), 64, p(&used)), inval)
	}},
	{"path_readlink", "in a small buffer", func(w *problem) {
		symlink("some/target", "readlink")
		buf, used := make([]byte, 4), uint32(0)
		ptr, n := s("readlink")
		w.errno("readlink", pathReadlink(dir, ptr, n, unsafe.Pointer(&buf[0]), 4, p(&used)), ok)
		w.equal("target", string(buf[:used]), "some")
	}},
	{"path_remove_directory", "empty ones", func(w *problem) {
		mkdir("rmdir")
		mkdir("rmdir/in")
		w.errno("full", rmdir("rmdir"), notempty)
		w.errno("empty", rmdir("rmdir/in/"), ok)
		w.errno("empty", rmdir("rmdir"), ok)
		w.errno("missing", rmdir("rmdir"), noent)
		fdClose(w.file("rmdir-file", ""))
		w.errno("a file", rmdir("rmdir-file"), notdir)
		symlink("made", "rmdir-link")
		w.errno("a link", rmdir("rmdir-link"), notdir)
		w.errno("a link with a slash", rmdir("rmdir-link/"), notdir)
		w.equal("what it led to", w.stat(0, "made").kind, uint64(3))
	}},
	{"path_rename", "files", func(w *problem) {
		fdClose(w.file("rename", "x"))
		w.errno("rename", rename("rename", dir, "renamed"), ok)
		w.errno("the old name", statErr(0, "rename"), noent)
		fdClose(w.file("rename", "yy"))
		w.errno("over another", rename("rename", dir, "renamed"), ok)
		w.equal("size", w.stat(0, "renamed").size, uint64(2))
		w.errno("missing", rename("rename", dir, "renamed"), noent)
		w.errno("with a slash", rename("renamed/", dir, "x"), notdir)
		w.errno("out", rename("renamed", dir, "../x"), perm)
	}},
	{"path_rename", "directories", func(w *problem) {
		for _, name := range []string{"ren-a", "ren-b", "ren-full"} {
			mkdir(name)
		}
		fdClose(w.file("ren-full/file", ""))
		fdClose(w.file("ren-file", ""))
		w.errno("over an empty one", rename("ren-a", dir, "ren-b"), ok)
		w.errno("over a full one", rename("ren-b", dir, "ren-full"), notempty, exist)
		w.errno("over a file", rename("ren-b", dir, "ren-file"), notdir)
		w.errno("a file over a directory", rename("ren-file", dir, "ren-b"), isdir)
		w.errno("into itself", rename("ren-b", dir, "ren-b/in"), inval)
		w.errno("to a name with a slash", rename("ren-b/", dir, "ren-c/"), ok)
	}},
	{"path_rename", "into another preopen", func(w *problem) {
		fdClose(w.file("ren-over", "x"))
		w.errno("rename", rename("ren-over", other, "ren-over"), ok, xdev)
	}},
	{"path_symlink", "relative ones", func(w *problem) {
		w.errno("make", symlink("made", "symlink"), ok)
		w.errno("again", symlink("made", "symlink"), exist)
		w.errno("dangling", symlink("nothing", "symlink-2"), ok)
		w.errno("with a slash", symlink("made", "symlink-3/"), noent, notdir)
		w.errno("absolute", symlink("/made", "symlink-4"), perm)
		w.equal("through it", w.stat(follow, "symlink/slash").kind, uint64(3))
	}},
	{"path_unlink_file", "what is no directory", func(w *problem) {
		fdClose(w.file("unlink", ""))
		w.errno("with a slash", unlink("unlink/"), notdir)
		w.errno("file", unlink("unlink"), ok)
		w.errno("missing", unlink("unlink"), noent)
		w.errno("directory", unlink("made"), isdir, perm)
		symlink("made", "unlink-link")
		w.errno("link", unlink("unlink-link"), ok)
		w.equal("what it led to", w.stat(0, "made").kind, uint64(3))
	}},
	{"path_unlink_file", "an open file lives on", func(w *problem) {
		fd := w.file("unlink", "alive")
		defer fdClose(fd)
		w.errno("unlink", unlink("unlink"), ok)
		w.equal("text", w.pread(fd, 9, 0), "alive")
	}},
	{"poll_oneoff", "a clock", func(w *problem) {
		began := w.now(1)
		events := w.poll(subscription{userdata: 7, arg: 1, timeout: 20e6})
		if took := w.now(1) - began; took < 20e6 || took > 5e9 {
			w.add("took %d ns", took)
		}
		w.equal("events", len(events), 1)
		w.equal("event", events[0], event{userdata: 7})
	}},
	{"poll_oneoff", "a clock, at an absolute time", func(w *problem) {
		for clock := range uint32(2) {
			began := w.now(clock)
			w.equal("events", len(w.poll(subscription{arg: uint64(clock), timeout: began + 20e6, flags: 1})), 1)
			if took := w.now(clock) - began; took < 20e6 || took > 5e9 {
				w.add("took %d ns", took)
			}
		}
	}},
	{"poll_oneoff", "the first of two clocks", func(w *problem) {
		events := w.poll(subscription{userdata: 1, arg: 1, timeout: 3600e9}, subscription{userdata: 2, arg: 1, timeout: 1e6})
		w.equal("events", len(events), 1)
		w.equal("whose", events[0].userdata, uint64(2))
	}},
	{"poll_oneoff", "files are ready", func(w *problem) {
		fd := w.file("poll", "12345")
		defer fdClose(fd)
		events := w.poll(subscription{userdata: 1, tag: 1, arg: uint64(fd)}, subscription{userdata: 2, tag: 2, arg: uint64(fd)})
		w.equal("events", len(events), 2)
		for _, e := range events {
			w.equal("errno", e.errno, uint16(ok))
		}
	}},
	{"poll_oneoff", "standard output is ready", func(w *problem) {
		events := w.poll(subscription{tag: 2, arg: 1}, subscription{arg: 1, timeout: 3600e9})
		w.equal("events", len(events), 1)
		w.equal("event", events[0], event{kind: 2})
	}},
	{"poll_oneoff", "descriptors that are not there", func(w *problem) {
		events := w.poll(subscription{tag: 1, arg: 99}, subscription{arg: 1, timeout: 3600e9})
		w.equal("events", len(events), 1)
		w.equal("errno", events[0].errno, uint16(badf))
	}},
	{"poll_oneoff", "nonsense", func(w *problem) {
		var sub subscription
		var out event
		w.errno("nothing", pollOneoff(p(&sub), p(&out), 0, p(new(uint32))), inval)
		sub.tag = 9
		w.errno("unknown kind", pollOneoff(p(&sub), p(&out), 1, p(new(uint32))), inval)
	}},
	{"poll_oneoff", "a socket that nobody calls is not ready", func(w *problem) {
		events := w.poll(subscription{tag: 1, arg: late}, subscription{userdata: 3, arg: 1, timeout: 20e6})
		w.equal("events", len(events), 1)
		w.equal("whose", events[0].userdata, uint64(3))
	}},
	{"sock_accept", "nobody is there", func(w *problem) {
		w.errno("nonblock", fdFdstatSetFlags(late, fdNonblock), ok)
		w.errno("accept", sockAccept(late, 0, p(new(int32))), again)
		w.errno("not a socket", sockAccept(dir, 0, p(new(int32))), notsock, badf)
		w.errno("no descriptor", sockAccept(99, 0, p(new(int32))), badf)
	}},
	{"sock_accept", "waits for a client", func(w *problem) {
		conn = -1
		w.errno("block", fdFdstatSetFlags(listener, 0), ok)
		w.errno("accept", sockAccept(listener, 0, p(&conn)), ok)
		w.equal("kind", w.fdstat(conn).kind, uint8(6))
		w.equal("flags", w.fdstat(conn).flags, uint16(0))
	}},
	{"sock_recv", "peek, read, end", func(w *problem) {
		buf, n, flags := make([]byte, 5), uint32(0), uint16(0)
		w.equal("ready", len(w.poll(subscription{tag: 1, arg: uint64(conn)})), 1)
		w.errno("peek", sockRecv(conn, p(iov(buf[:2])), 1, 1, p(&n), p(&flags)), ok)
		w.equal("peeked", string(buf[:n]), "he")
		w.errno("receive", sockRecv(conn, p(iov(buf)), 1, 0, p(&n), p(&flags)), ok)
		w.equal("received", string(buf[:n]), "hello")
		w.errno("at the end", sockRecv(conn, p(iov(buf)), 1, 0, p(&n), p(&flags)), ok)
		w.equal("bytes", n, uint32(0))
		w.errno("not a socket", sockRecv(dir, p(iov(buf)), 1, 0, p(&n), p(&flags)), notsock, badf)
	}},
	{"sock_send", "to the client", func(w *problem) {
		var n uint32
		w.errno("send", sockSend(conn, p(iov([]byte("answer"))), 1, 0, p(&n)), ok)
		w.equal("sent", n, uint32(6))
		w.errno("not a socket", sockSend(dir, p(iov([]byte("x"))), 1, 0, p(&n)), notsock, badf)
	}},
	{"sock_shutdown", "writing", func(w *problem) {
		w.errno("shutdown", sockShutdown(conn, 2), ok)
		w.errno("unknown direction", sockShutdown(conn, 0), inval)
		w.errno("not a socket", sockShutdown(dir, 2), notsock, badf)
	}},
	{"fd_close", "a connection ends", func(w *problem) {
		w.errno("close", fdClose(conn), ok)
		w.errno("again", fdClose(conn), badf)
	}},
	{"poll_oneoff", "a socket that is called", func(w *problem) {
		os.Stderr.WriteString("ready\n")
		events := w.poll(subscription{userdata: 4, tag: 1, arg: late}, subscription{userdata: 5, arg: 1, timeout: 30e9})
		w.equal("events", len(events), 1)
		w.equal("whose", events[0].userdata, uint64(4))
		w.errno("accept", sockAccept(late, fdNonblock, p(&conn)), ok)
		w.equal("flags", w.fdstat(conn).flags, uint16(fdNonblock))
		events = w.poll(subscription{userdata: 6, tag: 1, arg: uint64(conn)}, subscription{userdata: 7, tag: 2, arg: uint64(conn)})
		if len(events) == 0 || events[0].errno != ok {
			w.add("events: %v", events)
		}
		w.errno("block", fdFdstatSetFlags(conn, 0), ok)
		w.equal("received", w.read(conn, 5)+w.read(conn, 5), "hello")
		w.errno("close", fdClose(conn), ok)
	}},
	{"proc_raise", "aborts", func(w *problem) {
		w.errno("raise", procRaise(0), ok)
	}},
	{"random_get", "bytes that differ", func(w *problem) {
		a, b := make([]byte, 32), make([]byte, 32)
		w.errno("get", randomGet(unsafe.Pointer(&a[0]), 32), ok)
		w.errno("get", randomGet(unsafe.Pointer(&b[0]), 32), ok)
		if bytes.Equal(a, b) || bytes.Equal(a, make([]byte, 32)) {
			w.add("%x, %x", a, b)
		}
		w.errno("nothing", randomGet(unsafe.Pointer(&a[0]), 0), ok)
	}},
	{"sched_yield", "returns", func(w *problem) { w.errno("yield", schedYield(), ok) }},
	{"proc_exit", "ends at once, with its code", func(*problem) {}}, // what main ends with
}

// conn is a connection that the cases of sockets hand on.
var conn int32

// list reads a directory to its end, and names its entries: /one/two/.
func (w *problem) list(fd int32, size int, each func(name string)) string {
	names, cookie := "/", uint64(0)
	for range 10000 {
		buf, used := make([]byte, size), uint32(0)
		if !w.errno("readdir", fdReaddir(fd, unsafe.Pointer(&buf[0]), uint32(size), cookie, p(&used)), ok) {
			return names
		}
		entries := 0
		for rest := buf[:used]; len(rest) >= 24; {
			end := 24 + int(le.Uint32(rest[16:]))
			if len(rest) < end {
				if entries == 0 {
					size = end + 8 // not even one fits in
				}
				break
			}
			cookie = le.Uint64(rest)
			name := string(rest[24:end])
			names += name + "/"
			if each != nil {
				each(name)
			}
			entries++
			rest = rest[end:]
		}
		if int(used) < len(buf) {
			return names
		}
	}
	w.add("no end: %.100s", names)
	return names
}
