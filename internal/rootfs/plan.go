package rootfs

import (
	"fmt"
	"strings"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
)

// Transforms are the transforms that a daemon may leave to the shim whatever else it does itself. "format" is none of
// them: a daemon whose plug-ins make an earlier mount of the chain would leave a reference to it that only it can
// resolve. Where a daemon leaves all mounts of a request to the shim, "format" is understood too.
func Transforms() []string { return []string{"mkdir", "mkfs"} }

// A plan says how the mounts of a request are made, in order.
type plan struct {
	steps []step
	first int  // the first step that is mounted in the rootfs; what is before it is only built upon
	stage bool // whether it takes a stage
}

// A step is one mount. Its texts are templates if its type asked for format, else plain.
type step struct {
	label          string // names it in errors: index, type, source
	kind           string // without transforms; "loop" is a device and no file system
	source, target template
	options        []template
	dirs           []directory
	image          *image
	ids            *idmap
}

// newPlan reads a request. It touches nothing. ErrInvalidArgument: the request makes no sense.
func newPlan(mounts []*types.Mount) (*plan, error) {
	p := new(plan)
	for i, m := range mounts {
		if m == nil {
			return nil, invalid("mount %d is missing", i)
		}
		s, transformed, err := newStep(i, m)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.label, err)
		}
		// As the daemon does it: what comes before a transform, and a loop device itself, is not the rootfs.
		switch {
		case s.kind == "loop":
			p.first = i + 1
		case transformed:
			p.first = i
		}
		p.stage = p.stage || p.first > 0 || s.ids != nil
		p.steps = append(p.steps, s)
	}
	switch {
	case p.first == len(mounts):
		return nil, invalid("%s: the last mount has to be a file system", p.steps[p.first-1].label)
	case p.stage && len(p.steps[p.first].target) > 0:
		return nil, invalid("%s: it is the rootfs and cannot be below it", p.steps[p.first].label)
	}
	return p, nil
}

func newStep(i int, m *types.Mount) (s step, transformed bool, err error) {
	chain := strings.Split(m.Type, "/")
	s.kind = chain[len(chain)-1]
	s.label = fmt.Sprintf("mount %d (%s, source %s)", i, m.Type, m.Source)
	var format, mkdir, mkfs bool
	for _, transform := range chain[:len(chain)-1] {
		switch transform {
		case "format":
			format = true
		case "mkdir":
			mkdir = true
		case "mkfs":
			mkfs = true
		default:
			return s, false, invalid("unknown transform %q; format, mkdir and mkfs are known", transform)
		}
	}
	// Wherever format stands in the chain: nothing can be made of a path before it is filled in.
	text := func(v string) (template, error) {
		if !format {
			if v == "" {
				return nil, nil
			}
			return template{{text: v}}, nil
		}
		t, err := parseTemplate(v)
		if err == nil {
			err = t.check(i)
		}
		return t, err
	}
	if s.source, err = text(m.Source); err != nil {
		return s, false, err
	}
	if s.target, err = text(m.Target); err != nil {
		return s, false, err
	}
	if mkfs {
		s.image = newImage()
	}
	ids := new(idmap)
	for _, o := range m.Options {
		name, value, _ := strings.Cut(o, "=")
		ours, internal := strings.CutPrefix(name, "X-containerd.")
		what, key, _ := strings.Cut(ours, ".")
		switch {
		case internal && mkdir && what == "mkdir":
			t, err := newDirectory(key, value, text)
			if err != nil {
				return s, false, err
			}
			s.dirs = append(s.dirs, t)
		case internal && mkfs && what == "mkfs":
			if err := s.image.set(key, value); err != nil {
				return s, false, err
			}
		case internal && what == "dmverity":
			return s, false, fmt.Errorf("option %s: dm-verity devices are the daemon's to make: %w", name, errdefs.ErrNotImplemented)
		case internal:
			return s, false, invalid("option %s needs a transform that type %s does not name", name, m.Type)
		case name == "uidmap":
			ids.uids = value
		case name == "gidmap":
			ids.gids = value
		default:
			t, err := text(o)
			if err != nil {
				return s, false, err
			}
			s.options = append(s.options, t)
		}
	}
	if *ids != (idmap{}) {
		if err := ids.check(); err != nil {
			return s, false, err
		}
		s.ids = ids
	}
	if mkfs {
		err = s.image.check()
	}
	return s, format || mkdir || mkfs, err
}

// invalid is an ErrInvalidArgument.
func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}
