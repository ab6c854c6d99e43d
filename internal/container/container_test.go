package container_test

import (
	"strings"
	"syscall"
	"testing"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/shimwright/shimwright/internal/container"
	"github.com/shimwright/shimwright/internal/enginetest"
	"github.com/shimwright/shimwright/internal/reap"
	"github.com/shimwright/shimwright/internal/testkit"
)

func TestMain(m *testing.M) { enginetest.Main(m) }

var inside = enginetest.Engine{
	New: func(root string, r *reap.Reaper) enginetest.Runtime {
		return container.New(container.Config{Root: root, Namespace: enginetest.Namespace, Reaper: r})
	},
	NoCommand:     `runc create failed: unable to start container process: error during container init: exec: "nosuch": executable file not found in $PATH`,
	NoCommandExec: `exec failed: unable to start container process: exec: "nosuch": executable file not found in $PATH`,
	NoSystemd:     "slice:prefix:name",
	Classes:       true,
}

// host is where this engine's own tests have their containers.
type host struct{ *enginetest.Host }

func newHost(t testing.TB) *host { return &host{enginetest.NewHost(t, inside)} }

func TestEngine(t *testing.T) { enginetest.Run(t, inside) }

func TestCheckpoint(t *testing.T) { enginetest.RunCheckpoint(t, inside) }

func TestTermOfCreated(t *testing.T) {
	h := newHost(t)
	c, _ := h.Created("c", "true")
	if err := c.Kill(t.Context(), syscall.SIGTERM, false); err != nil {
		t.Fatal(err)
	}
	enginetest.ExitsWith(t, c, 2) // Go's way to die of a signal that pid 1 does not die of
}

func TestInfo(t *testing.T) {
	h := &enginetest.Host{T: t}
	e := inside.New("/x", nil)
	info, err := e.Info(t.Context(), h.Options(&runcoptions.Options{Root: "/x"}))
	if err != nil {
		t.Fatal(err)
	}
	if info.Name != "io.containerd.runc.v2" || info.Options == nil || !strings.Contains(string(info.Features.Value), `"ociVersionMax"`) {
		t.Errorf("info %v", info)
	}
	if _, err := e.Info(t.Context(), &anypb.Any{TypeUrl: "fun"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("foreign options: %v", err)
	}
}

// Another engine's options are refused, not left unheeded.
func TestBinaryIsAnotherEngines(t *testing.T) {
	h := newHost(t)
	r, _ := h.Request("c", testkit.Spec(h.Rootfs, "true"))
	r.Options = h.Options(&runcoptions.Options{BinaryName: "crun"})
	if _, err := h.Make(t.Context(), r); !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), `"crun"`) {
		t.Errorf("create: %v", err)
	}
	h.NothingLeft(r)
}
