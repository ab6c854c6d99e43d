package bootstrap_test

import (
	"bytes"
	"encoding/hex"
	"io"
	"log/slog"
	"math"
	"strings"
	"testing"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/shimwright/shimwright/internal/bootstrap"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/anypb"
)

const address = "unix:///run/containerd/s/0123"

// golden holds, byte for byte, what daemons put on stdin and read from stdout.
var golden = []struct {
	name    string
	params  bootstrap.Params
	env     []string
	stdin   string // hex
	reply   string // hex
	version int32
}{
	{
		name:    "1.6",
		params:  bootstrap.Params{Dialect: bootstrap.Bare, ID: "c1", Namespace: "ns", GRPCAddress: "/g", TTRPCAddress: "/t"},
		env:     []string{"TTRPC_ADDRESS=/t", "GRPC_ADDRESS=/g", "NAMESPACE=ns"},
		reply:   hex.EncodeToString([]byte(address)),
		version: 2,
	},
	{
		name: "2.2",
		params: bootstrap.Params{
			Dialect: bootstrap.JSON, ID: "c1", Namespace: "ns", GRPCAddress: "/g", TTRPCAddress: "/t",
			Extensions: []*anypb.Any{{TypeUrl: "x.Options", Value: []byte{8, 1}}},
		},
		env:     []string{"TTRPC_ADDRESS=/t", "GRPC_ADDRESS=/g", "NAMESPACE=ns", "MAX_SHIM_VERSION=2"},
		stdin:   "0a09782e4f7074696f6e73" + "12020801",
		reply:   hex.EncodeToString([]byte(`{"version":2,"address":"` + address + `","protocol":"ttrpc"}`)),
		version: 2,
	},
	{
		name: "2.4",
		params: bootstrap.Params{
			Dialect: bootstrap.Protobuf, ID: "c1", Namespace: "ns", GRPCAddress: "/g", TTRPCAddress: "/t",
			SocketDir: "/s", Level: slog.LevelDebug, DaemonVersion: "v2", DaemonBinary: "/d",
			Extensions: []*anypb.Any{{TypeUrl: "x.Options", Value: []byte{8, 1}}},
		},
		env: []string{"TTRPC_ADDRESS=/t", "GRPC_ADDRESS=/g", "NAMESPACE=ns", "MAX_SHIM_VERSION=2"},
		stdin: "0a026331" + "12026e73" + "18fcffffffffffffffff01" + "22027632" + "2a022f74" + "32022f67" + "3a022f64" +
			"4211" + "0a0f" + "0a09782e4f7074696f6e73" + "12020801" + "4a022f73",
		reply:   "0803" + "121d" + hex.EncodeToString([]byte(address)) + "1a05" + hex.EncodeToString([]byte("ttrpc")),
		version: 3,
	},
}

func TestWireForms(t *testing.T) {
	for _, g := range golden {
		t.Run(g.name, func(t *testing.T) {
			stdin, err := g.params.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if got := hex.EncodeToString(stdin); got != g.stdin {
				t.Errorf("stdin\ngot  %s\nwant %s", got, g.stdin)
			}
			if diff := cmp.Diff(g.env, g.params.Environ()); diff != "" {
				t.Errorf("environment: %s", diff)
			}
			got, err := bootstrap.Read(bytes.NewReader(stdin), "c1", "ns", getenv(g.env))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&g.params, got, protocmp.Transform()); diff != "" {
				t.Errorf("params: %s", diff)
			}

			var reply bytes.Buffer
			if err := bootstrap.WriteReply(&reply, g.params.Dialect, address); err != nil {
				t.Fatal(err)
			}
			if got := hex.EncodeToString(reply.Bytes()); got != g.reply {
				t.Errorf("reply\ngot  %s\nwant %s", got, g.reply)
			}
			result, err := bootstrap.ParseReply(reply.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			want := &bootapi.BootstrapResult{Version: g.version, Address: address, Protocol: "ttrpc"}
			if diff := cmp.Diff(want, result, protocmp.Transform()); diff != "" {
				t.Errorf("result: %s", diff)
			}
		})
	}
}

// What a shim can do reaches the daemons that ask, and does not disturb the others.
func TestReplyNamesAbilities(t *testing.T) {
	can := &types.MountCapabilities{Transforms: []string{"mkdir"}}
	for _, g := range golden {
		var reply bytes.Buffer
		if err := bootstrap.WriteReply(&reply, g.params.Dialect, address, can); err != nil {
			t.Fatal(err)
		}
		result, err := bootstrap.ParseReply(reply.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		got := new(types.MountCapabilities)
		found, err := result.FindExtension(got)
		if err != nil || found != (g.params.Dialect == bootstrap.Protobuf) || found && !proto.Equal(can, got) {
			t.Errorf("%s: found %v: %v, %v", g.name, found, got, err)
		}
	}
}

func TestOptions(t *testing.T) {
	runc, err := anypb.New(&options.Options{Root: "/r"})
	if err != nil {
		t.Fatal(err)
	}
	other := &anypb.Any{TypeUrl: "containerd.io/cri.v1.PodSandboxConfig"}
	for _, test := range []struct {
		name    string
		dialect bootstrap.Dialect
		exts    []*anypb.Any
		want    *anypb.Any
	}{
		{"none", bootstrap.Protobuf, nil, nil},
		{"among others", bootstrap.Protobuf, []*anypb.Any{other, runc}, runc},
		{"only others", bootstrap.Protobuf, []*anypb.Any{other}, nil},
		{"old daemons send nothing else", bootstrap.JSON, []*anypb.Any{other}, other},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := &bootstrap.Params{Dialect: test.dialect, Extensions: test.exts}
			if got := p.Options(); got != test.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

// Legacy runtime options may be well-formed BootstrapParams; only the ids tell.
func TestParamsOfAnotherContainerAreNone(t *testing.T) {
	legacy, err := proto.Marshal(&anypb.Any{TypeUrl: "c1.Options", Value: []byte("not ns")})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, id, namespace string }{
		{"wrong namespace", "c1.Options", "ns"},
		{"wrong id", "c1", "not ns"},
		{"no id", "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := bootstrap.Read(bytes.NewReader(legacy), test.id, test.namespace, getenv(nil))
			if err != nil {
				t.Fatal(err)
			}
			if p.Dialect != bootstrap.Bare || p.Options().GetTypeUrl() != "c1.Options" {
				t.Errorf("dialect %v, options %v", p.Dialect, p.Options())
			}
		})
	}
	if p, err := bootstrap.Read(strings.NewReader(""), "", "", getenv(nil)); err != nil || p.Dialect != bootstrap.Bare {
		t.Errorf("nothing at all: %v, %v", p, err)
	}
}

func TestReadRefuses(t *testing.T) {
	if _, err := bootstrap.Read(strings.NewReader("no protobuf"), "c1", "ns", getenv(nil)); !errdefs.IsInvalidArgument(err) {
		t.Errorf("garbage: %v", err)
	}
	endless := &counter{}
	if _, err := bootstrap.Read(endless, "c1", "ns", getenv(nil)); !errdefs.IsInvalidArgument(err) {
		t.Errorf("endless: %v", err)
	}
	if endless.n > 11<<20 {
		t.Errorf("read %d bytes", endless.n)
	}
}

func TestParseReplyRefuses(t *testing.T) {
	newer, _ := proto.Marshal(&bootapi.BootstrapResult{Version: 4, Address: address, Protocol: "ttrpc"})
	for _, test := range []struct {
		name, out string
		is        func(error) bool
	}{
		{"nothing", "", errdefs.IsInvalidArgument},
		{"a message", "exec: \"runc\": executable file not found in $PATH", errdefs.IsInvalidArgument},
		{"a message before the address", "warning: deprecated\n" + address, errdefs.IsInvalidArgument},
		{"torn JSON", `{"version":2,"address":"unix:///`, errdefs.IsInvalidArgument},
		{"no address", `{"version":2,"protocol":"ttrpc"}`, errdefs.IsInvalidArgument},
		{"no version", `{"address":"unix:///x","protocol":"ttrpc"}`, errdefs.IsNotImplemented},
		{"a newer version", string(newer), errdefs.IsNotImplemented},
		{"a newer version as JSON", `{"version":4,"address":"unix:///x"}`, errdefs.IsNotImplemented},
		{"an abstract socket", "\x00/containerd-shim/x", errdefs.IsInvalidArgument},
	} {
		t.Run(test.name, func(t *testing.T) {
			if r, err := bootstrap.ParseReply([]byte(test.out)); !test.is(err) {
				t.Errorf("got %v, %v", r, err)
			}
		})
	}
}

func FuzzRead(f *testing.F) {
	for _, g := range golden {
		stdin, _ := hex.DecodeString(g.stdin)
		f.Add(stdin, "c1", "ns", true)
	}
	f.Fuzz(func(t *testing.T, data []byte, id, namespace string, modern bool) {
		env := []string{}
		if modern {
			env = append(env, "MAX_SHIM_VERSION=2")
		}
		p, err := bootstrap.Read(bytes.NewReader(data), id, namespace, getenv(env))
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Fatalf("class of %v", err)
			}
			return
		}
		if p.ID != id || p.Namespace != namespace {
			t.Fatalf("became %q in %q", p.ID, p.Namespace)
		}
		p.Options()
		if p.Level > math.MaxInt32 || p.Level < math.MinInt32 {
			t.Fatalf("level %d", p.Level)
		}
		again, err := p.Encode()
		if err != nil {
			t.Fatal(err)
		}
		p2, err := bootstrap.Read(bytes.NewReader(again), id, namespace, getenv(p.Environ()))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(p, p2, protocmp.Transform()); diff != "" {
			t.Fatalf("read, written, read: %s", diff)
		}
	})
}

func FuzzParseReply(f *testing.F) {
	for _, g := range golden {
		reply, _ := hex.DecodeString(g.reply)
		f.Add(reply)
	}
	f.Add([]byte(`{"version":3,"address":"unix:///x","protocol":"grpc","extensions":[{"value":{"type_url":"x","value":"eA=="}}]}`))
	f.Fuzz(func(t *testing.T, out []byte) {
		r, err := bootstrap.ParseReply(out)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) && !errdefs.IsNotImplemented(err) {
				t.Fatalf("class of %v", err)
			}
			return
		}
		if !strings.Contains(r.Address, "://") || r.Version < 2 || r.Version > 3 || r.Protocol == "" {
			t.Fatalf("accepted %v", r)
		}
	})
}

func getenv(env []string) func(string) string {
	return func(key string) string {
		for _, kv := range env {
			if v, ok := strings.CutPrefix(kv, key+"="); ok {
				return v
			}
		}
		return ""
	}
}

// counter reads without end.
type counter struct{ n int }

func (c *counter) Read(p []byte) (int, error) { c.n += len(p); return len(p), nil }

var _ io.Reader = (*counter)(nil)
