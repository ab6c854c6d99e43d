package options_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/shimwright/shimwright/internal/bundle"
	"github.com/shimwright/shimwright/internal/options"
)

func TestDecode(t *testing.T) {
	full := &options.Options{BinaryName: "crun", Root: "/x", SystemdCgroup: true, IoUid: 3}
	for name, test := range map[string]struct {
		a       *anypb.Any
		want    *options.Options
		invalid bool
	}{
		"none":          {nil, &options.Options{}, false},
		"empty":         {&anypb.Any{}, &options.Options{}, false},
		"full":          {pack(t, full), full, false},
		"foreign":       {&anypb.Any{TypeUrl: "fun.Options"}, nil, true},
		"torn":          {&anypb.Any{TypeUrl: pack(t, full).TypeUrl, Value: []byte{0xff}}, nil, true},
		"relative root": {pack(t, &options.Options{Root: "x"}), nil, true},
	} {
		got, err := options.Decode(test.a)
		if test.invalid != errdefs.IsInvalidArgument(err) || !test.invalid && !proto.Equal(got, test.want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// What CRI passes to a runtime of another name, and ctr with --runtime-config-path.
func TestDecodeTOML(t *testing.T) {
	file := filepath.Join(t.TempDir(), "options.toml")
	if err := os.WriteFile(file, []byte("Root = '/from/file'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const name = "containerd.runc.v1.Options"
	for about, test := range map[string]struct {
		generic *runtimeoptions.Options
		want    *options.Options
		says    string // of what is wrong, instead
	}{
		"nothing":           {&runtimeoptions.Options{}, &options.Options{}, ""},
		"body":              {&runtimeoptions.Options{ConfigBody: []byte("SystemdCgroup = true\nBinaryName = 'crun'\n")}, &options.Options{SystemdCgroup: true, BinaryName: "crun"}, ""},
		"containerd's own":  {&runtimeoptions.Options{TypeUrl: name, ConfigBody: []byte(defaults)}, &options.Options{SystemdCgroup: true}, ""},
		"file":              {&runtimeoptions.Options{TypeUrl: "type.googleapis.com/" + name, ConfigPath: file, ConfigBody: []byte("Root = '/from/body'")}, &options.Options{Root: "/from/file"}, ""},
		"no file":           {&runtimeoptions.Options{ConfigPath: file + "x"}, nil, "no such file"},
		"a directory":       {&runtimeoptions.Options{ConfigPath: filepath.Dir(file)}, nil, "not a file"},
		"relative":          {&runtimeoptions.Options{ConfigPath: "x"}, nil, "not absolute"},
		"of another":        {&runtimeoptions.Options{TypeUrl: "io.containerd.runsc.v1.options"}, nil, "want " + name},
		"unknown":           {&runtimeoptions.Options{ConfigBody: []byte("\nSystemdCgroups = true")}, nil, `config_body: line 2: unknown key "SystemdCgroups"`},
		"wrong type":        {&runtimeoptions.Options{ConfigBody: []byte("IoUid = '1'")}, nil, `line 1: key "IoUid": want a value of type uint32, got a string`},
		"cannot be honored": {&runtimeoptions.Options{ConfigBody: []byte("Root = 'x'")}, nil, "not absolute"},
	} {
		a, err := anypb.New(test.generic)
		if err != nil {
			t.Fatal(err)
		}
		got, err := options.Decode(a)
		if test.want != nil && (err != nil || !proto.Equal(got, test.want)) {
			t.Errorf("%s: %v, %v, want %v", about, got, err, test.want)
		}
		if test.want == nil && (!errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), test.says)) {
			t.Errorf("%s: %v, want %s", about, err, test.says)
		}
	}
}

// defaults is the section that containerd 1.7 writes, copied to a runtime of another name.
const defaults = `BinaryName = ""
CriuImagePath = ""
CriuPath = ""
CriuWorkPath = ""
IoGid = 0
IoUid = 0
NoNewKeyring = false
NoPivotRoot = false
Root = ""
ShimCgroup = ""
SystemdCgroup = true
TypeUrl = "containerd.runc.v1.Options"
`

func pack(t *testing.T, o *options.Options) *anypb.Any {
	t.Helper()
	a, err := anypb.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestReadWhatWasWritten(t *testing.T) {
	dir := t.TempDir()
	if o, err := options.Read(dir); err != nil || !proto.Equal(o, &options.Options{}) {
		t.Errorf("before: %v, %v", o, err)
	}
	want := &options.Options{BinaryName: "/bin/crun", Root: "/x"}
	if err := options.Write(dir, want); err != nil {
		t.Fatal(err)
	}
	if o, err := options.Read(dir); err != nil || !proto.Equal(o, want) {
		t.Errorf("%v, %v, want %v", o, err, want)
	}
	if name, err := os.ReadFile(filepath.Join(dir, bundle.RuntimeFile)); err != nil || string(name) != "/bin/crun" {
		t.Errorf("%s: %q, %v", bundle.RuntimeFile, name, err)
	}
}

func TestReadOfATornFile(t *testing.T) {
	dir := t.TempDir()
	for _, text := range []string{`{"root":`, `[]`} {
		if err := bundle.WriteFile(dir, bundle.OptionsFile, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if o, err := options.Read(dir); err == nil || !proto.Equal(o, &options.Options{}) {
			t.Errorf("%s: %v, %v", text, o, err)
		}
	}
	if err := bundle.WriteFile(dir, bundle.OptionsFile, []byte(`{"root":"x"}`)); err != nil {
		t.Fatal(err)
	}
	if o, err := options.Read(dir); err != nil || o.Root != "" {
		t.Errorf("relative root: %v, %v", o, err)
	}
}
