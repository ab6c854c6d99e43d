package cgroup

import (
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Stats reads what the container uses: io.containerd.cgroups.v2.Metrics on a host with the unified hierarchy alone,
// else io.containerd.cgroups.v1.Metrics. What the host does not count is left out. ErrNotFound: the groups are gone.
//
// The files are read here: containerd's managers, which fill the same messages, link in systemd's and eBPF's worlds.
func (g Group) Stats() (proto.Message, error) {
	switch {
	case !g.exists():
		return nil, fmt.Errorf("cgroup: %w", errdefs.ErrNotFound)
	case g.unified():
		return statsV2(dir(g[""])), nil
	default:
		return g.statsV1(), nil
	}
}

// dir is a group's directory. A file that is not there, or says something else than expected, says nothing.
type dir string

// lines are the fields of each line of file.
func (d dir) lines(file string) (lines [][]string) {
	data, _ := read(string(d), file)
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 0 {
			lines = append(lines, fields)
		}
	}
	return lines
}

// number is the only figure in file; "max" is the greatest there is.
func (d dir) number(file string) uint64 {
	data, _ := read(string(d), file)
	return figure(strings.TrimSpace(string(data)))
}

func figure(s string) uint64 {
	if s == "max" {
		return math.MaxUint64
	}
	n, _ := strconv.ParseUint(s, 10, 64)
	return n
}

// table is a file of lines "name figure".
func (d dir) table(file string) map[string]uint64 {
	t := make(map[string]uint64)
	for _, fields := range d.lines(file) {
		if len(fields) == 2 {
			t[fields[0]] = figure(fields[1])
		}
	}
	return t
}

// fill sets the fields of m that are figures from those of the same name, underscores apart.
func fill(m proto.Message, figures map[string]uint64) {
	plain := make(map[string]uint64, len(figures))
	for name, n := range figures {
		plain[strings.ReplaceAll(name, "_", "")] = n
	}
	r := m.ProtoReflect()
	fields := r.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		n, ok := plain[strings.ReplaceAll(string(f.Name()), "_", "")]
		if ok && f.Kind() == protoreflect.Uint64Kind && !f.IsList() {
			r.Set(f, protoreflect.ValueOfUint64(n))
		}
	}
}

// pairs are the figures of fields "name=figure".
func pairs(fields []string) map[string]uint64 {
	t := make(map[string]uint64, len(fields))
	for _, field := range fields {
		if name, value, ok := strings.Cut(field, "="); ok {
			t[name] = figure(value)
		}
	}
	return t
}

// device splits "major:minor".
func device(s string) (major, minor uint64, ok bool) {
	a, b, ok := strings.Cut(s, ":")
	return figure(a), figure(b), ok
}

// pageSizes are the sizes of huge pages that are counted in d, as "2MB". limit is the end of the name of a file that is
// there for each.
func (d dir) pageSizes(limit string) (sizes []string) {
	files, _ := filepath.Glob(filepath.Join(string(d), "hugetlb.*."+limit))
	for _, file := range files {
		size := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "hugetlb."), "."+limit)
		if !strings.Contains(size, ".") { // reservations, and other kinds of limits
			sizes = append(sizes, size)
		}
	}
	return sizes
}
