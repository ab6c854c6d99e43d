// Package tomlpb reads TOML (https://toml.io/en/v1.0.0) into protobuf messages, as daemons and operators write options.
//
// A key names a field in any of its spellings: systemd_cgroup, systemdCgroup, SystemdCgroup. Tables are messages or maps
// with string keys, arrays are repeated fields, enums go by their values' names. Bytes, and dates and times, have no form.
package tomlpb

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2/unstable"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// What is read at most: of bytes, and of tables inside each other in a value.
const maxSize, maxDepth = 256 << 10, 100

// Unmarshal sets the fields of m that data names, and leaves out the top-level keys in ignore. ErrInvalidArgument: data
// is not TOML, or a key is unknown, given twice or has a value of another type; the error names the key and its line.
func Unmarshal(data []byte, m proto.Message, ignore ...string) error {
	if len(data) > maxSize {
		return fmt.Errorf("more than %d bytes of TOML: %w", maxSize, errdefs.ErrInvalidArgument)
	}
	d := &decoder{data: data, set: make(map[string]bool)}
	for _, key := range ignore {
		d.ignore = append(d.ignore, plain(key))
	}
	if err := d.document(m.ProtoReflect()); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}

type decoder struct {
	parser unstable.Parser
	data   []byte
	ignore []string
	set    map[string]bool // the paths of what was given a value
}

// table is where keys are set: a message, or a map's entries.
type table struct {
	message protoreflect.Message
	entries protoreflect.Map // with field
	field   protoreflect.FieldDescriptor
	path    string // of keys, from the top
}

func (d *decoder) document(m protoreflect.Message) error {
	d.parser.Reset(d.data)
	top := table{message: m}
	at, skip := top, false
	for d.parser.NextExpression() {
		e := d.parser.Expression()
		var err error
		switch e.Kind {
		case unstable.KeyValue:
			if !skip {
				err = d.keyValue(at, e, 0)
			}
		case unstable.Table, unstable.ArrayTable:
			key := e.Key()
			key.Next()
			if skip = d.ignored(top, key.Node()); !skip {
				at, err = d.open(top, e.Key(), e.Kind == unstable.ArrayTable)
			}
		}
		if err != nil {
			return err
		}
	}
	if err := d.parser.Error(); err != nil {
		var bad *unstable.ParserError
		if errors.As(err, &bad) && len(bad.Highlight) > 0 {
			return fmt.Errorf("line %d: %w", d.lineAt(int(d.parser.Range(bad.Highlight).Offset)), err)
		}
		return err
	}
	return nil
}

// open finds the table that a header names, and makes it. An array's is a new one each time.
func (d *decoder) open(t table, key unstable.Iterator, array bool) (table, error) {
	for key.Next() {
		var err error
		if t, err = d.down(t, key.Node(), array && key.IsLast()); err != nil {
			return table{}, err
		}
		if key.IsLast() && !array {
			if err := d.once(t.path, key.Node()); err != nil {
				return table{}, err
			}
		}
	}
	return t, nil
}

// down goes one key further; grow adds an element to an array of tables.
func (d *decoder) down(t table, key *unstable.Node, grow bool) (table, error) {
	field, path, err := d.find(t, key)
	if err != nil {
		return table{}, err
	}
	switch {
	case t.entries != nil:
		if t.field.MapValue().Message() == nil || grow {
			return table{}, d.wrong(key, t.field.MapValue(), "a table")
		}
		entry := t.entries.Mutable(protoreflect.ValueOfString(string(key.Data)).MapKey())
		return table{message: entry.Message(), path: path}, nil
	case field.IsMap() && !grow:
		if field.MapKey().Kind() != protoreflect.StringKind {
			return table{}, d.wrong(key, field, "a table")
		}
		return table{entries: t.message.Mutable(field).Map(), field: field, path: path}, nil
	case field.IsList() && field.Message() != nil:
		list := t.message.Mutable(field).List()
		if grow {
			list.AppendMutable()
		}
		if list.Len() == 0 {
			return table{}, d.wrong(key, field, "a table")
		}
		return table{message: list.Get(list.Len() - 1).Message(), path: fmt.Sprint(path, list.Len())}, nil
	case field.Message() != nil && !field.IsMap() && !field.IsList() && !grow:
		return table{message: t.message.Mutable(field).Message(), path: path}, nil
	case grow:
		return table{}, d.wrong(key, field, "an array of tables")
	default:
		return table{}, d.wrong(key, field, "a table")
	}
}

func (d *decoder) keyValue(t table, e *unstable.Node, depth int) error {
	for key := e.Key(); key.Next(); {
		if t.path == "" && d.ignored(t, key.Node()) {
			return nil
		}
		if key.IsLast() {
			return d.assign(t, key.Node(), e.Value(), depth)
		}
		var err error
		if t, err = d.down(t, key.Node(), false); err != nil {
			return err
		}
	}
	return nil
}

// assign gives the field, or entry, of t that key names a value.
func (d *decoder) assign(t table, key, v *unstable.Node, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("line %d: more than %d tables in each other", d.line(key), maxDepth)
	}
	field, path, err := d.find(t, key)
	if err != nil {
		return err
	}
	if err := d.once(path, key); err != nil {
		return err
	}
	kind := field
	if t.entries != nil {
		kind = t.field.MapValue()
	}
	switch {
	case v.Kind == unstable.InlineTable:
		inner, err := d.down(t, key, false)
		if err != nil {
			return err
		}
		return d.inline(inner, v, depth)
	case v.Kind == unstable.Array && t.entries == nil && field.IsList():
		list := t.message.Mutable(field).List()
		for it := v.Children(); it.Next(); {
			n := it.Node()
			switch {
			case n.Kind == unstable.Comment:
			case n.Kind == unstable.InlineTable && field.Message() != nil:
				inner := table{message: list.AppendMutable().Message(), path: fmt.Sprint(path, list.Len())}
				if err := d.inline(inner, n, depth); err != nil {
					return err
				}
			default:
				value, err := d.scalar(field, key, n)
				if err != nil {
					return err
				}
				list.Append(value)
			}
		}
		return nil
	case t.entries == nil && field.IsList():
		return d.wrong(key, field, names[v.Kind])
	}
	value, err := d.scalar(kind, key, v)
	if err != nil {
		return err
	}
	if t.entries != nil {
		t.entries.Set(protoreflect.ValueOfString(string(key.Data)).MapKey(), value)
	} else {
		t.message.Set(field, value)
	}
	return nil
}

func (d *decoder) inline(t table, v *unstable.Node, depth int) error {
	for it := v.Children(); it.Next(); {
		if n := it.Node(); n.Kind == unstable.KeyValue {
			if err := d.keyValue(t, n, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// find is the field of t that key names, nil in a map, and its path.
func (d *decoder) find(t table, key *unstable.Node) (protoreflect.FieldDescriptor, string, error) {
	if t.entries != nil {
		return nil, t.path + "\x00" + string(key.Data) + "\x00", nil
	}
	fields := t.message.Descriptor().Fields()
	name := plain(string(key.Data))
	for i := range fields.Len() {
		if f := fields.Get(i); plain(string(f.Name())) == name {
			return f, t.path + "\x00" + name + "\x00", nil
		}
	}
	return nil, "", fmt.Errorf("line %d: unknown key %.100q: %s has no such field", d.line(key), key.Data, t.message.Descriptor().FullName())
}

// once refuses what is given a value for the second time.
func (d *decoder) once(path string, key *unstable.Node) error {
	if d.set[path] {
		return fmt.Errorf("line %d: key %.100q is given twice", d.line(key), key.Data)
	}
	d.set[path] = true
	return nil
}

func (d *decoder) ignored(t table, key *unstable.Node) bool {
	if t.path != "" {
		return false
	}
	name := plain(string(key.Data))
	for _, i := range d.ignore {
		if i == name {
			return true
		}
	}
	return false
}

// plain is what all spellings of a name have in common.
func plain(name string) string { return strings.ToLower(strings.ReplaceAll(name, "_", "")) }

// scalar converts v to what one value of field holds.
func (d *decoder) scalar(field protoreflect.FieldDescriptor, key, v *unstable.Node) (protoreflect.Value, error) {
	var value protoreflect.Value
	var err error
	switch kind := field.Kind(); {
	case kind == protoreflect.BoolKind && v.Kind == unstable.Bool:
		value = protoreflect.ValueOfBool(string(v.Data) == "true")
	case kind == protoreflect.StringKind && v.Kind == unstable.String:
		value = protoreflect.ValueOfString(string(v.Data))
	case kind == protoreflect.EnumKind && v.Kind == unstable.String:
		e := field.Enum().Values().ByName(protoreflect.Name(v.Data))
		if e == nil {
			return value, fmt.Errorf("line %d: key %q: %.100q is no %s", d.line(key), key.Data, v.Data, field.Enum().FullName())
		}
		value = protoreflect.ValueOfEnum(e.Number())
	case v.Kind == unstable.Integer && isInt(kind, 32):
		var i int64
		i, err = strconv.ParseInt(string(v.Data), 0, 32)
		value = protoreflect.ValueOfInt32(int32(i))
	case v.Kind == unstable.Integer && isInt(kind, 64):
		var i int64
		i, err = strconv.ParseInt(string(v.Data), 0, 64)
		value = protoreflect.ValueOfInt64(i)
	case v.Kind == unstable.Integer && isUint(kind, 32):
		var i uint64
		i, err = strconv.ParseUint(unsigned(v), 0, 32)
		value = protoreflect.ValueOfUint32(uint32(i))
	case v.Kind == unstable.Integer && isUint(kind, 64):
		var i uint64
		i, err = strconv.ParseUint(unsigned(v), 0, 63) // TOML's integers are signed
		value = protoreflect.ValueOfUint64(i)
	case (kind == protoreflect.FloatKind || kind == protoreflect.DoubleKind) && (v.Kind == unstable.Float || v.Kind == unstable.Integer):
		var f float64
		f, err = strconv.ParseFloat(strings.ReplaceAll(string(v.Data), "_", ""), 64)
		value = protoreflect.ValueOfFloat64(f)
		if kind == protoreflect.FloatKind {
			value = protoreflect.ValueOfFloat32(float32(f))
			if math.Abs(f) > math.MaxFloat32 && !math.IsInf(f, 0) {
				err = strconv.ErrRange
			}
		}
	default:
		return value, d.wrong(key, field, names[v.Kind])
	}
	if err != nil {
		return value, fmt.Errorf("line %d: key %q: %.100s does not fit into %s", d.line(key), key.Data, v.Data, kindName(field))
	}
	return value, nil
}

// unsigned drops the plus sign, which only TOML allows.
func unsigned(v *unstable.Node) string { return strings.TrimPrefix(string(v.Data), "+") }

func isInt(k protoreflect.Kind, bits int) bool {
	if bits == 32 {
		return k == protoreflect.Int32Kind || k == protoreflect.Sint32Kind || k == protoreflect.Sfixed32Kind
	}
	return k == protoreflect.Int64Kind || k == protoreflect.Sint64Kind || k == protoreflect.Sfixed64Kind
}

func isUint(k protoreflect.Kind, bits int) bool {
	if bits == 32 {
		return k == protoreflect.Uint32Kind || k == protoreflect.Fixed32Kind
	}
	return k == protoreflect.Uint64Kind || k == protoreflect.Fixed64Kind
}

func (d *decoder) wrong(key *unstable.Node, field protoreflect.FieldDescriptor, got string) error {
	return fmt.Errorf("line %d: key %q: want %s, got %s", d.line(key), key.Data, kindName(field), got)
}

// names are what TOML calls its values.
var names = map[unstable.Kind]string{
	unstable.String: "a string", unstable.Bool: "a boolean", unstable.Integer: "an integer", unstable.Float: "a float",
	unstable.Array: "an array", unstable.InlineTable: "a table",
	unstable.LocalDate: "a date", unstable.LocalTime: "a time", unstable.LocalDateTime: "a time", unstable.DateTime: "a time",
}

// kindName is what a field wants to be given.
func kindName(field protoreflect.FieldDescriptor) string {
	one := field.Kind().String()
	switch {
	case field.IsMap(), field.Message() != nil:
		one = "table"
	case field.Kind() == protoreflect.EnumKind:
		one = "name of a " + string(field.Enum().FullName())
	}
	if field.IsList() {
		return "an array of " + one
	}
	return "a value of type " + one
}

func (d *decoder) line(n *unstable.Node) int { return d.lineAt(int(n.Raw.Offset)) }

func (d *decoder) lineAt(offset int) int {
	return 1 + bytes.Count(d.data[:min(offset, len(d.data))], []byte{'\n'})
}
