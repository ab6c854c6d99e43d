package testkit

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// addProcesses adds the processes that a test can have made: the descendants of this process, those
// that inherited token, those in another pid namespace, and shims. Others come and go as they please.
func addProcesses(s state, token string) {
	all := processes()
	self, namespace := os.Getpid(), readlink("/proc/self/ns/pid")
	descends := func(p process) bool {
		for i := 0; i < len(all) && p.parent > 1; i++ {
			if p.parent == self {
				return true
			}
			p = all[p.parent]
		}
		return false
	}
	for pid, p := range all {
		dir := "/proc/" + strconv.Itoa(pid)
		environ, _ := os.ReadFile(dir + "/environ")
		exe := readlink(dir + "/exe")
		ns := readlink(dir + "/ns/pid")
		switch {
		case pid == self:
			continue
		case p.state == "Z" && p.parent == 1: // it is the machine's init that is late
			continue
		case descends(p),
			bytes.Contains(environ, []byte(token)),
			ns != "" && ns != namespace,
			strings.HasPrefix(p.name, "containerd-shim"),
			strings.HasPrefix(filepath.Base(exe), "containerd-shim"):
		default:
			continue
		}
		cmdline, _ := os.ReadFile(dir + "/cmdline")
		command := strings.TrimSpace(string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
		if p.state == "Z" {
			command = "zombie"
		}
		s.add("process "+strconv.Itoa(pid)+" "+p.start, "process %d, child of %d: %s: %s", pid, p.parent, p.name, command)
	}
}

// A process is what /proc/PID/stat tells of it. start is in clock ticks since boot and with the pid
// tells it from every other process.
type process struct {
	name, state, start string
	parent             int
}

// processes lists the machine's processes, but not the kernel's threads, by pid.
func processes() map[int]process {
	all := make(map[int]process)
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		// The name is in brackets and may itself hold brackets and blanks.
		open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
		fields := strings.Fields(string(stat[end+1:]))
		parent, _ := strconv.Atoi(fields[1])
		if pid == kthreadd || parent == kthreadd {
			continue
		}
		all[pid] = process{name: string(stat[open+1 : end]), state: fields[0], start: fields[19], parent: parent}
	}
	return all
}

// addMounts adds the mounts of this mount namespace and the directories of every cgroup hierarchy
// among them.
func addMounts(s state) {
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		// "36 35 98:0 /root /point options optional… - type source options"
		left, right, _ := strings.Cut(line, " - ")
		place, kind := strings.Fields(left), strings.Fields(right)
		point := place[4]
		s.add("mount "+place[3]+" "+point+" "+kind[0], "mount %s (%s)", point, kind[0])
		if kind[0] == "cgroup" || kind[0] == "cgroup2" {
			addCgroups(s, point)
		}
	}
}

func addCgroups(s state, hierarchy string) {
	filepath.WalkDir(hierarchy, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil: // removed while we look
			return nil
		case !e.IsDir():
			return nil
		case e.Name() == "user.slice", strings.HasSuffix(e.Name(), ".service"): // systemd's own comings and goings
			return fs.SkipDir
		}
		s.add("cgroup "+path, "cgroup %s", path)
		return nil
	})
}

// addSockets adds what is in the default directory of shims' sockets.
func addSockets(s state) {
	addEntries(s, "socket", "/run/containerd/s/*")
}

// addStateDirs adds the containers that runtimes have recorded, each below its namespace.
func addStateDirs(s state) {
	addEntries(s, "state", "/run/containerd/runc/*/*")
}

// addLoops adds the loop devices that have a file behind them.
func addLoops(s state) {
	paths, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, path := range paths {
		file, err := os.ReadFile(path)
		if err != nil { // freed while we look
			continue
		}
		device := "/dev/" + strings.Split(path, "/")[3]
		s.add("loop "+device+string(file), "loop device %s: %s", device, bytes.TrimSpace(file))
	}
}

func addEntries(s state, kind, pattern string) {
	paths, _ := filepath.Glob(pattern)
	for _, path := range paths {
		s.add(kind+" "+path, "%s %s", kind, path)
	}
}

func readlink(path string) string {
	target, _ := os.Readlink(path)
	return target
}

// kthreadd is the pid of the kernel's threads' parent, in the first pid namespace.
const kthreadd = 2
