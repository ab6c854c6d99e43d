package shim_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/shimwright/shimwright/internal/testkit"
)

// A shim built with the tag otel sends a span of each request, with its outcome, to the collector that it is told.
func TestTraces(t *testing.T) {
	got := make(map[string]string) // guarded by the server: it is closed before this is read
	arrived := make(chan struct{}, 64)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		req := new(collector.ExportTraceServiceRequest)
		if err != nil || proto.Unmarshal(body, req) != nil || r.URL.Path != "/v1/traces" {
			t.Errorf("not an export of traces: %s, %v", r.URL, err)
		}
		for _, rs := range req.ResourceSpans {
			for _, a := range rs.Resource.Attributes {
				got[a.Key] = a.Value.GetStringValue()
			}
			for _, ss := range rs.ScopeSpans {
				for _, span := range ss.Spans {
					got[span.Name] = span.Status.GetCode().String()
				}
			}
		}
		arrived <- struct{}{}
	}))
	defer server.Close()
	dir := t.TempDir()
	root, err := testkit.Root()
	if err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-buildvcs=false", "-tags", "no_grpc seccomp otel", "-o", filepath.Join(dir, "shim"), "./shim")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	s := newSite(t, "traces", nil, "/bin/true")
	s.binary = filepath.Join(dir, "shim")
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	c := s.up()
	c.must("Connect", &taskapi.ConnectRequest{ID: s.id})
	if err := c.call("State", &taskapi.StateRequest{ID: "nobody"}, &taskapi.StateResponse{}); err == nil {
		t.Error("State of nobody succeeds")
	}
	c.must("Shutdown", &taskapi.ShutdownRequest{})
	c.gone()
	<-arrived
	server.Close()
	for name, want := range map[string]string{
		"containerd.task.v2.Task/Connect": "STATUS_CODE_UNSET",
		"containerd.task.v2.Task/State":   "STATUS_CODE_ERROR",
		"service.name":                    "io.example.host.v1",
		"service.instance.id":             "test/" + s.id,
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q; all: %v", name, got[name], want, got)
		}
	}
}
