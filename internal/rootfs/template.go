package rootfs

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// A template is a text with references to earlier mounts:
//
//	{{ source N }}     what mount N is of
//	{{ target N }}     its target
//	{{ mount N }}      where it is mounted; of a loop device, the device
//	{{ overlay M N }}  where mounts M to N are mounted, either way round, with colons in between
//
// That is all that the daemon's format knows; what else Go's templates can do is refused.
type template []part

// A part is a text, or a reference if what is not empty.
type part struct {
	text        string
	what        string
	first, last int
}

// made is a mount that later ones can refer to.
type made struct{ source, target, at string }

func parseTemplate(s string) (template, error) {
	var t template
	for {
		text, rest, more := strings.Cut(s, "{{")
		if text != "" {
			t = append(t, part{text: text})
		}
		if !more {
			return t, nil
		}
		inner, after, closed := strings.Cut(rest, "}}")
		p, ok := parseReference(strings.Fields(inner))
		if !closed || !ok {
			return nil, fmt.Errorf("template %.200q: {{ source N }}, {{ target N }}, {{ mount N }} and {{ overlay M N }} are known: %w",
				s, errdefs.ErrInvalidArgument)
		}
		t = append(t, p)
		s = after
	}
}

func parseReference(words []string) (p part, ok bool) {
	if len(words) < 2 {
		return p, false
	}
	args := 1
	switch words[0] {
	case "source", "target", "mount":
	case "overlay":
		args = 2
	default:
		return p, false
	}
	if len(words) != 1+args {
		return p, false
	}
	first, ok1 := number(words[1])
	last, ok2 := number(words[args])
	return part{what: words[0], first: first, last: last}, ok1 && ok2
}

// number reads a number as people write it: to Go's templates 010 is 8.
func number(s string) (n int, ok bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && strconv.Itoa(n) == s
}

// check finds references to mounts that are not among the n earlier ones.
func (t template) check(n int) error {
	for _, p := range t {
		if p.what != "" && (min(p.first, p.last) < 0 || max(p.first, p.last) >= n) {
			return fmt.Errorf("template names mounts %d to %d, and %d come before: %w",
				min(p.first, p.last), max(p.first, p.last), n, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// fill puts in what check has found to be there.
func (t template) fill(earlier []made) string {
	var b strings.Builder
	for _, p := range t {
		switch p.what {
		case "":
			b.WriteString(p.text)
		case "source":
			b.WriteString(earlier[p.first].source)
		case "target":
			b.WriteString(earlier[p.first].target)
		default:
			b.WriteString(places(earlier, p.first, p.last))
		}
	}
	return b.String()
}

func places(earlier []made, first, last int) string {
	step := 1
	if first > last {
		step = -1
	}
	all := []string{earlier[first].at}
	for i := first; i != last; {
		i += step
		all = append(all, earlier[i].at)
	}
	return strings.Join(all, ":")
}

// within splits off a leading {{ mount N }}: the rest is a path below that mount.
func (t template) within() (mount int, path template, ok bool) {
	if len(t) == 0 || t[0].what != "mount" {
		return 0, t, false
	}
	return t[0].first, t[1:], true
}
