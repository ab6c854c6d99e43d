package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// A container's processes hold its client's FIFOs and files themselves. Those are outside the container, where criu
// finds no path to them: it has to be told which they are, and on restore which of the new task's streams takes
// the place of each.

// Streams are the files outside a container that its processes have open, by the names that criu knows them under, and
// which of the streams 0, 1 and 2 each is.
type Streams map[string]int

// streamsFile keeps the Streams in an image.
const streamsFile = "streams.json"

// FindStreams looks through the open files of pids. paths are those of the task's streams. ErrFailedPrecondition: there are
// others outside, of an exec, for which a restored task would have nothing.
func FindStreams(pids []int, paths []string) (Streams, error) {
	outside, err := mountIDs("self")
	if err != nil {
		return nil, err
	}
	found := make(Streams)
	for _, pid := range pids {
		dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
		entries, _ := os.ReadDir(dir) // ended: none
		for _, e := range entries {
			file := filepath.Join(dir, e.Name())
			var st unix.Stat_t
			if unix.Stat(file, &st) != nil {
				continue
			}
			kind := st.Mode & unix.S_IFMT
			if kind != unix.S_IFIFO && kind != unix.S_IFREG {
				continue
			}
			mount, writable, err := fdinfo(filepath.Join("/proc", strconv.Itoa(pid), "fdinfo", e.Name()))
			if err != nil || !outside[mount] {
				continue
			}
			path, err := os.Readlink(file)
			if err != nil {
				continue
			}
			stream := slices.Index(paths, strings.TrimSuffix(path, " (deleted)"))
			if stream < 0 && kind == unix.S_IFREG && !writable { // no stream: criu may say what it thinks of it
				continue
			}
			if stream < 0 {
				return nil, fmt.Errorf("process %d has %s open, which is outside the container and no stream of the task's: end the exec that it belongs to: %w", pid, path, errdefs.ErrFailedPrecondition)
			}
			found[fmt.Sprintf("file[%x:%x]", mount, st.Ino)] = stream
		}
	}
	return found, nil
}

// mountIDs are the ids of the mounts that process pid sees (proc(5), mountinfo).
func mountIDs(pid string) (map[int]bool, error) {
	list, err := os.ReadFile("/proc/" + pid + "/mountinfo")
	if err != nil {
		return nil, err
	}
	ids := make(map[int]bool)
	for line := range strings.Lines(string(list)) {
		id, _, _ := strings.Cut(line, " ")
		if n, err := strconv.Atoi(id); err == nil {
			ids[n] = true
		}
	}
	return ids, nil
}

// fdinfo reads what the kernel tells of an open file: its mount, and whether it can be written to.
func fdinfo(path string) (mount int, writable bool, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, false, err
	}
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch name {
		case "mnt_id":
			mount, err = strconv.Atoi(value)
		case "flags":
			var flags uint64
			flags, err = strconv.ParseUint(value, 8, 64)
			writable = flags&unix.O_ACCMODE != unix.O_RDONLY
		}
		if err != nil {
			return 0, false, err
		}
	}
	return mount, writable, nil
}

// Save notes the streams in the image in dir.
func (s Streams) Save(dir string) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, streamsFile), data, 0o600)
}

// LoadStreams reads what Save wrote. An image that another shim made has none.
func LoadStreams(dir string) (Streams, error) {
	data, err := os.ReadFile(filepath.Join(dir, streamsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var s Streams
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", streamsFile, err)
	}
	return s, nil
}

// DefaultConfig is the configuration file that runc has criu read.
const DefaultConfig = "/etc/criu/runc.conf"

// DumpConfig is a configuration file for criu that adds to what is in file base: the streams are outside.
func (s Streams) DumpConfig(base string, c Criu) []byte {
	return s.config(base, c.config(), func(key string, _ int) string { return "external " + key })
}

// RestoreConfig is a configuration file for criu that adds to what is in file base: the streams are those that criu is
// started with.
func (s Streams) RestoreConfig(base string) []byte {
	return s.config(base, "", func(key string, stream int) string {
		// criu takes the name for a path and drops its first character. Found so, the file is handed on as it is; by its
		// whole name it would be opened once more, and be refused if it is of another kind.
		return fmt.Sprintf("inherit-fd fd[%d]:%s", stream, key[1:])
	})
}

func (s Streams) config(base, more string, line func(key string, stream int) string) []byte {
	var text []byte
	if base != "" {
		text, _ = os.ReadFile(base) // criu does without as well
		text = append(text, '\n')
	}
	text = append(text, more...)
	for key, stream := range s {
		text = append(text, line(key, stream)+"\n"...)
	}
	return text
}
