package shim_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/shimwright/shimwright/internal/bundle"
	"github.com/shimwright/shimwright/internal/socket"
	"golang.org/x/sys/unix"
)

// With -debug, and only then, the shim has a debug socket, which answers as net/http/pprof does.
func TestProfiles(t *testing.T) {
	s := newSite(t, "profiles", nil, "/bin/true")
	cmd := s.command(s.id, s.bundle, "start", "-debug")
	cmd.Stdin = bytes.NewReader(s.params(s.id))
	address, err := reply(cmd)
	if err != nil {
		t.Fatal(err)
	}
	c := s.connect(address)
	debug, err := socket.DebugAddress(s.sockets, "/run/daemon.sock", "test", s.id)
	if err != nil {
		t.Fatal(err)
	}
	path := strings.TrimPrefix(debug, "unix://")
	web := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}}
	const gzip = "\x1f\x8b"
	for _, tt := range []struct {
		query  string
		status int
		begins string
		has    string
	}{
		{"/debug/pprof/goroutine?debug=2", 200, "goroutine ", "shim.(*command).serve"},
		{"/debug/pprof/heap", 200, gzip, ""},
		{"/debug/pprof/allocs?debug=1&gc=1", 200, "heap profile", ""},
		{"/debug/pprof/threadcreate", 200, gzip, ""},
		{"/debug/pprof/block", 200, gzip, ""},
		{"/debug/pprof/profile?seconds=0.1", 200, gzip, ""},
		{"/debug/pprof/trace?seconds=0.1", 200, "go 1.", ""},
		{"/debug/pprof/cmdline", 200, "", "-namespace\x00test"},
		{"/debug/pprof/nothing", 400, "no profile", "goroutine"},
		{"/debug/pprof/profile?seconds=x", 400, "seconds=", ""},
		{"/debug/pprof/profile?seconds=-1", 400, "seconds=", ""},
		{"/debug/pprof/trace?seconds=1e9", 400, "seconds=", ""},
		{"/elsewhere", 400, "nothing is served", "/debug/pprof/"},
	} {
		resp, err := web.Get("http://shim" + tt.query)
		if err != nil {
			t.Errorf("%s: %v", tt.query, err)
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != tt.status || !bytes.HasPrefix(body, []byte(tt.begins)) || !bytes.Contains(body, []byte(tt.has)) {
			t.Errorf("%s: %s, %v, %.200q", tt.query, resp.Status, err, body)
		}
	}
	for _, garbage := range []string{"POST / HTTP/1.1\r\n\r\n", "GET\r\n\r\n", "\x00\xff\n\n", strings.Repeat("x", 20<<10)} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, garbage); err != nil {
			t.Error(err)
		}
		if answer, _ := io.ReadAll(conn); !bytes.HasPrefix(answer, []byte("HTTP/1.0 400 ")) && len(garbage) < 16<<10 {
			t.Errorf("%.20q: %.100q", garbage, answer)
		}
		conn.Close()
	}
	c.must("Shutdown", &taskapi.ShutdownRequest{})
	c.gone()

	quiet := s.up()
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("there is a debug socket without -debug: %v", err)
	}
	quiet.must("Shutdown", &taskapi.ShutdownRequest{})
	quiet.gone()
}

// With -debug each request leaves a line in the daemon's log: what it was about, how long it took, how it ended.
func TestRequestsAreLogged(t *testing.T) {
	s := newSite(t, "requests", nil, "/bin/true")
	fifo := filepath.Join(s.bundle, bundle.LogFile)
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(fifo, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	cmd := s.command(s.id, s.bundle, "start", "-debug")
	cmd.Stdin = bytes.NewReader(s.params(s.id))
	address, err := reply(cmd)
	if err != nil {
		t.Fatal(err)
	}
	c := s.connect(address)
	if err := c.call("Delete", &taskapi.DeleteRequest{ID: "nobody", ExecID: "nothing"}, &taskapi.DeleteResponse{}); err == nil {
		t.Error("Delete of nobody succeeds")
	}
	if err := reader.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	connect := regexp.MustCompile(`level=DEBUG msg=Connect .*took=\S+s outcome=ok`)
	refused := regexp.MustCompile(`level=DEBUG msg=Delete .*id=nobody exec=nothing took=\S+s outcome="not found" error=".*nobody.*"`)
	var log []byte
	buf := make([]byte, 64<<10)
	for !connect.Match(log) || !refused.Match(log) {
		n, err := reader.Read(buf)
		if err != nil {
			t.Fatalf("%v: the log does not tell requests: %s", err, log)
		}
		log = append(log, buf[:n]...)
	}
	c.must("Shutdown", &taskapi.ShutdownRequest{})
	c.gone()
}
