package wasi

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"reflect"
	"strings"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental/sys"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
	"golang.org/x/sys/unix"
)

// Module is the name that guests import WASI's functions by.
const Module = wasi_snapshot_preview1.ModuleName

const i32, i64 = api.ValueTypeI32, api.ValueTypeI64

// A function takes what the guest has passed; its result is the guest's errno.
type function func(mod api.Module, args []uint64) error

// ours are the functions that wazero's host lacks, or has otherwise than WASI says.
var ours = []struct {
	name   string
	params []api.ValueType
	do     function
}{
	{"fd_allocate", []api.ValueType{i32, i64, i64}, fdAllocate},
	{"fd_fdstat_get", []api.ValueType{i32, i32}, fdFdstatGet},
	{"fd_renumber", []api.ValueType{i32, i32}, fdRenumber},
	{"path_filestat_set_times", []api.ValueType{i32, i32, i32, i32, i64, i64, i32}, pathFilestatSetTimes},
	{"path_link", []api.ValueType{i32, i32, i32, i32, i32, i32, i32}, pathLink},
	{"path_readlink", []api.ValueType{i32, i32, i32, i32, i32, i32}, pathReadlink},
	{"path_rename", []api.ValueType{i32, i32, i32, i32, i32, i32}, pathRename},
	{"poll_oneoff", []api.ValueType{i32, i32, i32, i32}, pollOneoff},
	{"sock_accept", []api.ValueType{i32, i32, i32}, sockAccept},
	{"sock_shutdown", []api.ValueType{i32, i32}, sockShutdown},
}

// Instantiate makes WASI preview 1 for the modules of r: wazero's, and ours over it.
func Instantiate(ctx context.Context, r wazero.Runtime) error {
	b := r.NewHostModuleBuilder(Module)
	wasi_snapshot_preview1.NewFunctionExporter().ExportFunctions(b)
	for _, f := range ours {
		b.NewFunctionBuilder().WithName(f.name).WithGoModuleFunction(api.GoModuleFunc(func(_ context.Context, mod api.Module, stack []uint64) {
			for i, t := range f.params { // of an i32 the upper half is anything
				if t == i32 {
					stack[i] = uint64(uint32(stack[i]))
				}
			}
			stack[0] = uint64(errnoOf(f.do(mod, stack)))
		}), f.params, []api.ValueType{i32}).Export(f.name)
	}
	_, err := b.Instantiate(ctx)
	return err
}

// table is a guest's table of descriptors. wazero keeps it in an internal package, so it is reached by reflection; the
// tests of poll_oneoff and sock_accept notice when it has moved.
func table(mod api.Module) reflect.Value {
	return reflect.ValueOf(mod).Elem().FieldByName("Sys").MethodByName("FS").Call(nil)[0]
}

// descriptor is an entry of a guest's table.
type descriptor struct {
	sys.File
	fs   sys.FS // that it was opened in; nil: none
	name string // in fs
}

// lookup finds a descriptor.
func lookup(mod api.Module, fd uint64) (descriptor, error) {
	found := table(mod).MethodByName("LookupFile").Call([]reflect.Value{reflect.ValueOf(int32(fd))})
	if !found[1].Bool() {
		return descriptor{}, unix.EBADF
	}
	entry := found[0].Elem()
	d := descriptor{name: entry.FieldByName("Name").String()}
	d.File, _ = entry.FieldByName("File").Interface().(sys.File)
	d.fs, _ = entry.FieldByName("FS").Interface().(sys.FS)
	if entry.FieldByName("IsPreopen").Bool() {
		d.name = ""
	}
	return d, nil
}

// insert gives f the lowest free descriptor. If there is none, it is closed.
func insert(mod api.Module, f sys.File) (int32, error) {
	in := table(mod).MethodByName("OpenFile").Call([]reflect.Value{
		reflect.ValueOf(&once{file: f}), reflect.ValueOf("."), reflect.ValueOf(sys.O_RDWR), reflect.ValueOf(fs.FileMode(0)),
	})
	if errno, _ := in[1].Interface().(sys.Errno); errno != 0 {
		f.Close()
		return 0, errno
	}
	return int32(in[0].Int()), nil
}

// once is a file system that opens a file which is open already.
type once struct {
	sys.UnimplementedFS
	file sys.File
}

func (o *once) OpenFile(string, sys.Oflag, fs.FileMode) (sys.File, sys.Errno) { return o.file, 0 }

// kernelFD is the kernel's descriptor of f, which the guest has as fd.
func kernelFD(f sys.File, fd uint64) (int, bool) {
	switch f := f.(type) {
	case interface{ kernel() int }:
		return f.kernel(), true
	default: // the streams are wazero's files; preopened directories have nothing to wait for
		return int(fd), fd <= 2
	}
}

// at resolves a path that is relative to a directory's descriptor.
func at(mod api.Module, fd, ptr, size uint64) (*Dir, string, error) {
	b, ok := mod.Memory().Read(uint32(ptr), uint32(size))
	if !ok {
		return nil, "", unix.EFAULT
	}
	d, err := lookup(mod, fd)
	if err != nil {
		return nil, "", err
	}
	dir, ok := d.fs.(*Dir)
	if is, errno := d.IsDir(); !ok || errno != 0 || !is {
		return nil, "", unix.ENOTDIR
	}
	name := string(b)
	if name == "" {
		return nil, "", unix.ENOENT
	}
	clean := path.Clean(name)
	if !fs.ValidPath(clean) { // absolute, or out of the directory
		return nil, "", unix.EPERM
	}
	if strings.HasSuffix(name, "/") {
		clean += "/"
	}
	return dir, path.Join("/", d.name) + "/" + clean, nil
}

// lookupFollow is the flag by which a symbolic link at the end of a path is followed.
const lookupFollow = 1

func pathLink(mod api.Module, args []uint64) error {
	from, old, err := at(mod, args[0], args[2], args[3])
	if err != nil {
		return err
	}
	to, name, err := at(mod, args[4], args[5], args[6])
	if err != nil {
		return err
	}
	if args[1]&lookupFollow != 0 {
		return unix.EINVAL // as Linux hosts have it: what a link leads to may be gone by then
	}
	if strings.HasSuffix(name, "/") {
		return unix.ENOENT
	}
	return from.linkTo(old, to, name)
}

func pathRename(mod api.Module, args []uint64) error {
	from, old, err := at(mod, args[0], args[1], args[2])
	if err != nil {
		return err
	}
	to, name, err := at(mod, args[3], args[4], args[5])
	if err != nil {
		return err
	}
	return from.renameTo(old, to, name)
}

// pathReadlink fills a buffer that is too small.
func pathReadlink(mod api.Module, args []uint64) error {
	d, name, err := at(mod, args[0], args[1], args[2])
	if err != nil {
		return err
	}
	buf, ok := mod.Memory().Read(uint32(args[3]), uint32(args[4]))
	if !ok {
		return unix.EFAULT
	}
	target, errno := d.Readlink(name)
	if errno != 0 {
		return errno
	}
	if !mod.Memory().WriteUint32Le(uint32(args[5]), uint32(copy(buf, target))) {
		return unix.EFAULT
	}
	return nil
}

// fdRenumber leaves alone what has the number already; wazero's would close it.
func fdRenumber(mod api.Module, args []uint64) error {
	if _, err := lookup(mod, args[0]); err != nil || args[0] == args[1] {
		return err
	}
	out := table(mod).MethodByName("Renumber").Call([]reflect.Value{reflect.ValueOf(int32(args[0])), reflect.ValueOf(int32(args[1]))})
	if errno, _ := out[0].Interface().(sys.Errno); errno != 0 {
		return errno
	}
	return nil
}

// Flags of fstflags.
const (
	setAtim = 1 << iota
	setAtimNow
	setMtim
	setMtimNow
)

func pathFilestatSetTimes(mod api.Module, args []uint64) error {
	d, name, err := at(mod, args[0], args[2], args[3])
	if err != nil {
		return err
	}
	atim, err := stamp(args[4], args[6]&setAtim != 0, args[6]&setAtimNow != 0)
	if err != nil {
		return err
	}
	mtim, err := stamp(args[5], args[6]&setMtim != 0, args[6]&setMtimNow != 0)
	if err != nil {
		return err
	}
	flags := unix.O_NOFOLLOW
	if args[1]&lookupFollow != 0 {
		flags = 0
	}
	return d.utimens(name, flags, atim, mtim)
}

func stamp(ns uint64, set, now bool) (unix.Timespec, error) {
	switch {
	case set && now:
		return unix.Timespec{}, unix.EINVAL
	case set:
		return unix.NsecToTimespec(int64(ns)), nil
	case now:
		return unix.Timespec{Nsec: unix.UTIME_NOW}, nil
	}
	return unix.Timespec{Nsec: unix.UTIME_OMIT}, nil
}

func fdAllocate(mod api.Module, args []uint64) error {
	d, err := lookup(mod, args[0])
	if err != nil {
		return err
	}
	f, ok := d.File.(*file)
	if !ok {
		return unix.EBADF
	}
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		err = unix.Fallocate(f.fd, 0, int64(args[1]), int64(args[2]))
	}
	return err
}

// errnos are WASI's numbers of the kernel's errors.
var errnos = map[unix.Errno]uint32{
	unix.E2BIG: 1, unix.EACCES: 2, unix.EADDRINUSE: 3, unix.EADDRNOTAVAIL: 4, unix.EAGAIN: 6, unix.EBADF: 8, unix.EBUSY: 10,
	unix.ECONNABORTED: 13, unix.ECONNREFUSED: 14, unix.ECONNRESET: 15, unix.EDQUOT: 19, unix.EEXIST: 20, unix.EFAULT: 21, unix.EFBIG: 22,
	unix.EINTR: 27, unix.EINVAL: 28, unix.EIO: 29, unix.EISDIR: 31, unix.ELOOP: 32, unix.EMFILE: 33, unix.EMLINK: 34, unix.ENAMETOOLONG: 37,
	unix.ENFILE: 41, unix.ENOBUFS: 42, unix.ENODEV: 43, unix.ENOENT: 44, unix.ENOMEM: 48, unix.ENOSPC: 51, unix.ENOSYS: 52, unix.ENOTCONN: 53,
	unix.ENOTDIR: 54, unix.ENOTEMPTY: 55, unix.ENOTSOCK: 57, unix.ENOTSUP: 58, unix.ENXIO: 60, unix.EOVERFLOW: 61, unix.EPERM: 63, unix.EPIPE: 64,
	unix.ERANGE: 68, unix.EROFS: 69, unix.ESPIPE: 70, unix.ETIMEDOUT: 73, unix.ETXTBSY: 74, unix.EXDEV: 75,
}

// errnoOf is what the guest gets for an error; 0: none.
func errnoOf(err error) uint32 {
	if err == nil {
		return 0
	}
	var errno unix.Errno
	if errors.As(err, &errno) && errnos[errno] != 0 {
		return errnos[errno]
	}
	return errnos[unix.EIO]
}
