package options_test

import (
	"os"
	"path/filepath"
	"testing"

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
