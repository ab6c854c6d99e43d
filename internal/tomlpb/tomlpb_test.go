package tomlpb

import (
	"errors"
	"strings"
	"testing"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/structpb"
)

func TestOptions(t *testing.T) {
	full := &runcoptions.Options{BinaryName: "/bin/crun", SystemdCgroup: true, IoUid: 7, Root: "a\nb"}
	for name, test := range map[string]struct {
		text string
		want *runcoptions.Options
	}{
		"nothing":       {"", &runcoptions.Options{}},
		"daemon's form": {"BinaryName = '/bin/crun'\nSystemdCgroup = true\nIoUid = 7 # x\nRoot = \"a\\nb\"\n", full},
		"field's names": {"binary_name = \"/bin/crun\"\nsystemd_cgroup = true\nio_uid = 0x7\nroot = 'a\nb'\n", nil},
		"multi-line":    {"binaryname = \"/bin/crun\"\nsystemdCgroup = true\nio_uid = +7\nroot = '''\na\nb'''\n", full},
		"ignored":       {"TypeUrl = 'x'\ntype_url.y = 3\nio_uid = 1\n[TypeURL.x]\nio_uid = 2", &runcoptions.Options{IoUid: 1}},
	} {
		got := new(runcoptions.Options)
		err := Unmarshal([]byte(test.text), got, "type_url")
		if test.want == nil {
			if err == nil {
				t.Errorf("%s: a line's end in a string of one line is taken", name)
			}
			continue
		}
		if err != nil || !proto.Equal(got, test.want) {
			t.Errorf("%s: %v, %v, want %v", name, got, err, test.want)
		}
	}
}

// everything is a message type with a field of every kind.
func everything(t testing.TB) protoreflect.MessageType {
	t.Helper()
	const prefix = "example.Everything."
	field := func(n int32, name string, label descriptorpb.FieldDescriptorProto_Label, kind descriptorpb.FieldDescriptorProto_Type, of string) *descriptorpb.FieldDescriptorProto {
		f := &descriptorpb.FieldDescriptorProto{Name: proto.String(name), Number: proto.Int32(n), Label: label.Enum(), Type: kind.Enum()}
		if of != "" {
			f.TypeName = proto.String("." + of)
		}
		return f
	}
	entry := func(name string, value *descriptorpb.FieldDescriptorProto, key descriptorpb.FieldDescriptorProto_Type) *descriptorpb.DescriptorProto {
		return &descriptorpb.DescriptorProto{
			Name: proto.String(name), Options: &descriptorpb.MessageOptions{MapEntry: proto.Bool(true)},
			Field: []*descriptorpb.FieldDescriptorProto{field(1, "key", one, key, ""), value},
		}
	}
	file := &descriptorpb.FileDescriptorProto{
		Name: proto.String("everything.proto"), Package: proto.String("example"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{
			Name: proto.String("Everything"),
			Field: []*descriptorpb.FieldDescriptorProto{
				field(1, "a_bool", one, descriptorpb.FieldDescriptorProto_TYPE_BOOL, ""),
				field(2, "an_int32", one, descriptorpb.FieldDescriptorProto_TYPE_INT32, ""),
				field(3, "a_uint64", one, descriptorpb.FieldDescriptorProto_TYPE_UINT64, ""),
				field(4, "a_float", one, descriptorpb.FieldDescriptorProto_TYPE_FLOAT, ""),
				field(5, "strings", many, descriptorpb.FieldDescriptorProto_TYPE_STRING, ""),
				field(6, "color", one, descriptorpb.FieldDescriptorProto_TYPE_ENUM, prefix+"Color"),
				field(7, "child", one, descriptorpb.FieldDescriptorProto_TYPE_MESSAGE, "example.Everything"),
				field(8, "children", many, descriptorpb.FieldDescriptorProto_TYPE_MESSAGE, "example.Everything"),
				field(9, "words", many, descriptorpb.FieldDescriptorProto_TYPE_MESSAGE, prefix+"WordsEntry"),
				field(10, "named", many, descriptorpb.FieldDescriptorProto_TYPE_MESSAGE, prefix+"NamedEntry"),
				field(11, "raw", one, descriptorpb.FieldDescriptorProto_TYPE_BYTES, ""),
				field(12, "numbered", many, descriptorpb.FieldDescriptorProto_TYPE_MESSAGE, prefix+"NumberedEntry"),
				field(13, "a_double", one, descriptorpb.FieldDescriptorProto_TYPE_DOUBLE, ""),
				field(14, "a_sint64", one, descriptorpb.FieldDescriptorProto_TYPE_SINT64, ""),
				field(15, "fixed32", one, descriptorpb.FieldDescriptorProto_TYPE_FIXED32, ""),
			},
			NestedType: []*descriptorpb.DescriptorProto{
				entry("WordsEntry", field(2, "value", one, descriptorpb.FieldDescriptorProto_TYPE_STRING, ""), descriptorpb.FieldDescriptorProto_TYPE_STRING),
				entry("NamedEntry", field(2, "value", one, descriptorpb.FieldDescriptorProto_TYPE_MESSAGE, "example.Everything"), descriptorpb.FieldDescriptorProto_TYPE_STRING),
				entry("NumberedEntry", field(2, "value", one, descriptorpb.FieldDescriptorProto_TYPE_STRING, ""), descriptorpb.FieldDescriptorProto_TYPE_INT32),
			},
			EnumType: []*descriptorpb.EnumDescriptorProto{{Name: proto.String("Color"), Value: []*descriptorpb.EnumValueDescriptorProto{
				{Name: proto.String("RED"), Number: proto.Int32(0)}, {Name: proto.String("BLUE"), Number: proto.Int32(4)},
			}}},
		}},
	}
	d, err := protodesc.NewFile(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	return dynamicpb.NewMessageType(d.Messages().Get(0))
}

const one, many = descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL, descriptorpb.FieldDescriptorProto_LABEL_REPEATED

func TestEveryKind(t *testing.T) {
	const text = `
a_bool = true
an_int32 = -2_147_483_648
a_uint64 = 9_223_372_036_854_775_807
a_float = 1.5e2
aDouble = -inf
a_sint64 = 0o17
fixed32 = 0b11
strings = [
  "a", # one
  'b',
]
color = "BLUE"
child.a_bool = true
child.child = { an_int32 = 3, strings = [] }
words = { "x y" = "1" }
[named.first]
an_int32 = 1
child.an_int32 = 2
[named."se.cond"]
color = "RED"
[[children]]
an_int32 = 10
[children.child]
a_float = 3
[[children]]
an_int32 = 20
[[children.children]]
an_int32 = 30
`
	m := everything(t).New().Interface()
	if err := Unmarshal([]byte(text), m); err != nil {
		t.Fatal(err)
	}
	get := func(path ...any) any {
		v := protoreflect.ValueOfMessage(m.ProtoReflect())
		for _, p := range path {
			switch p := p.(type) {
			case int:
				v = v.List().Get(p)
			case string:
				if mp, ok := v.Interface().(protoreflect.Map); ok {
					if v = mp.Get(protoreflect.ValueOfString(p).MapKey()); !v.IsValid() {
						return nil
					}
				} else {
					v = v.Message().Get(v.Message().Descriptor().Fields().ByName(protoreflect.Name(p)))
				}
			}
		}
		return v.Interface()
	}
	for _, test := range []struct {
		want any
		path []any
	}{
		{true, []any{"a_bool"}},
		{int32(-2147483648), []any{"an_int32"}},
		{uint64(9223372036854775807), []any{"a_uint64"}},
		{float32(150), []any{"a_float"}},
		{int64(15), []any{"a_sint64"}},
		{uint32(3), []any{"fixed32"}},
		{"a", []any{"strings", 0}},
		{"b", []any{"strings", 1}},
		{protoreflect.EnumNumber(4), []any{"color"}},
		{true, []any{"child", "a_bool"}},
		{int32(3), []any{"child", "child", "an_int32"}},
		{"1", []any{"words", "x y"}},
		{int32(1), []any{"named", "first", "an_int32"}},
		{int32(2), []any{"named", "first", "child", "an_int32"}},
		{protoreflect.EnumNumber(0), []any{"named", "se.cond", "color"}},
		{int32(10), []any{"children", 0, "an_int32"}},
		{float32(3), []any{"children", 0, "child", "a_float"}},
		{int32(20), []any{"children", 1, "an_int32"}},
		{int32(30), []any{"children", 1, "children", 0, "an_int32"}},
	} {
		if got := get(test.path...); got != test.want {
			t.Errorf("%v is %v (%T), want %v", test.path, got, got, test.want)
		}
	}
}

func TestRefused(t *testing.T) {
	typ := everything(t)
	for text, says := range map[string]string{
		"\n\nbinary = 1":                    `line 3: unknown key "binary": example.Everything has no such field`,
		"child.x = 1":                       `line 1: unknown key "x"`,
		"[x]":                               `line 1: unknown key "x"`,
		strings.Repeat("x", 1<<16) + " = 1": `line 1: unknown key "xxx`,
		"color = '" + strings.Repeat("x", 1<<16) + "'": `xxx" is no`,
		"an_int32 = " + strings.Repeat("1", 1<<16):     `does not fit`,
		"a_bool = 1":                           `line 1: key "a_bool": want a value of type bool, got an integer`,
		"a_bool = true\naBool = true":          `line 2: key "aBool" is given twice`,
		"[child]\n[child]":                     `line 2: key "child" is given twice`,
		"child = {}\n[child]":                  `line 2: key "child" is given twice`,
		"an_int32 = 'x'":                       `want a value of type int32, got a string`,
		"an_int32 = 2147483648":                `2147483648 does not fit into a value of type int32`,
		"a_uint64 = -1":                        `-1 does not fit`,
		"fixed32 = 4294967296":                 `does not fit`,
		"a_float = 1e40":                       `does not fit`,
		"color = 'GREEN'":                      `"GREEN" is no example.Everything.Color`,
		"color = 4":                            `want a value of type name of a example.Everything.Color, got an integer`,
		"strings = 'a'":                        `want an array of string, got a string`,
		"strings = ['a', 1]":                   `got an integer`,
		"strings = [['a']]":                    `got an array`,
		"raw = 'x'":                            `want a value of type bytes, got a string`,
		"raw = 2020-01-01":                     `got a date`,
		"child = 1":                            `want a value of type table, got an integer`,
		"a_bool.x = 1":                         `want a value of type bool, got a table`,
		"[a_bool]":                             `want a value of type bool, got a table`,
		"[[child]]":                            `got an array of tables`,
		"[children]":                           `want an array of table, got a table`,
		"words.x.y = 1":                        `want a value of type string, got a table`,
		"words.x = 1":                          `want a value of type string, got an integer`,
		"words.x = 'a'\nwords.x = 'b'":         `line 2: key "x" is given twice`,
		"[numbered]\n1 = 'x'":                  `key "numbered"`,
		"a_bool = ":                            `line 1: `,
		"a_bool = true\n\n[":                   `line 3: `,
		strings.Repeat("#", maxSize+1):         `more than`,
		"a_bool = tru":                         `line 1: `,
		"child = " + nested(maxDepth+10, "{}"): `more than 100 tables`,
	} {
		m := typ.New().Interface()
		if err := Unmarshal([]byte(text), m); !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), says) {
			t.Errorf("%.60q: %.500v, want %s", text, err, says)
		} else if len(err.Error()) > 500 {
			t.Errorf("%.60q: an error of %d bytes", text, len(err.Error()))
		}
	}
}

func nested(depth int, core string) string {
	return strings.Repeat("{child=", depth) + core + strings.Repeat("}", depth)
}

// Whatever the text, it is refused with a class, or taken whole: what was set can be written and read again.
func FuzzUnmarshal(f *testing.F) {
	for _, text := range []string{"a_bool = true", "[child]\nan_int32 = 0x_1", "[[children]]\n[children.child]\nstrings=['a']", "words = {a='b'}", "named.a.b.c=1", "a_float=nan", "=", "child=" + nested(5, "1")} {
		f.Add(text)
	}
	typ := everything(f)
	f.Fuzz(func(t *testing.T, text string) {
		for _, m := range []proto.Message{typ.New().Interface(), new(structpb.Struct)} {
			err := Unmarshal([]byte(text), m)
			if err != nil {
				if !errors.Is(err, errdefs.ErrInvalidArgument) {
					t.Errorf("%q: %v has no class", text, err)
				}
				continue
			}
			data, err := proto.Marshal(m)
			if err == nil {
				err = proto.Unmarshal(data, m.ProtoReflect().New().Interface())
			}
			if err != nil {
				t.Errorf("%q became what cannot be written: %v", text, err)
			}
		}
	})
}
