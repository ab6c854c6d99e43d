package cri_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/spdystream"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/shimwright/shimwright/internal/testkit"
)

// A session is a client's end of a streaming exec or attach: SPDY/3.1 with the streams of v4.channel.k8s.io, which
// is what a kubelet speaks.
type session struct {
	t              *testing.T
	stdin          *spdystream.Stream // closing it is the end of the input
	resize         *spdystream.Stream // nil without a terminal
	stdout, stderr *stream
	failure        *stream
}

// A stream collects what comes.
type stream struct {
	done chan struct{} // closed at its end

	mu   sync.Mutex
	text strings.Builder
}

func collect(r io.Reader) *stream {
	s := &stream{done: make(chan struct{})}
	go func() {
		defer close(s.done)
		for buf := make([]byte, 32<<10); ; {
			n, err := r.Read(buf)
			s.mu.Lock()
			s.text.Write(buf[:n])
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return s
}

func (s *stream) soFar() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// exec starts a streaming exec of a script.
func (c *container) exec(tty bool, script string) *session {
	c.t.Helper()
	r := call(c.node, c.runtime.Exec, &cri.ExecRequest{
		ContainerId: c.id, Cmd: []string{"sh", "-c", script}, Tty: tty, Stdin: true, Stdout: true, Stderr: !tty,
	})
	return c.session(r.Url, tty)
}

// attach attaches to the container's first process.
func (c *container) attach() *session {
	c.t.Helper()
	tty := c.config.Tty
	r := call(c.node, c.runtime.Attach, &cri.AttachRequest{ContainerId: c.id, Tty: tty, Stdin: true, Stdout: true, Stderr: !tty})
	return c.session(r.Url, tty)
}

// session opens the streams at a URL that the daemon gave. They are closed when the test is done.
func (n *node) session(url string, tty bool) *session {
	n.t.Helper()
	request, err := http.NewRequestWithContext(n.t.Context(), http.MethodPost, url, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	request.Header.Set("Connection", "Upgrade")
	request.Header.Set("Upgrade", "SPDY/3.1")
	request.Header.Set("X-Stream-Protocol-Version", "v4.channel.k8s.io")
	tcp, err := n.network.dial(request.URL.Host)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { tcp.Close() })
	if err := request.Write(tcp); err != nil {
		n.t.Fatal(err)
	}
	buffered := bufio.NewReader(tcp)
	response, err := http.ReadResponse(buffered, request)
	if err != nil {
		n.t.Fatal(err)
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		said, _ := io.ReadAll(response.Body)
		n.t.Fatalf("%s: %s: %s", url, response.Status, said)
	}
	conn, err := spdystream.NewConnection(upgraded{tcp, buffered}, false)
	if err != nil {
		n.t.Fatal(err)
	}
	served := make(chan struct{})
	go func() { // until the connection is closed, by either side
		defer close(served)
		conn.Serve(spdystream.NoOpStreamHandler)
	}()
	s := &session{t: n.t}
	n.t.Cleanup(func() {
		conn.Close()
		tcp.Close()
		<-served
		for _, c := range []*stream{s.stdout, s.stderr, s.failure} {
			if c != nil {
				<-c.done
			}
		}
	})
	open := func(kind string) *spdystream.Stream {
		stream, err := conn.CreateStream(http.Header{"streamType": {kind}}, nil, false)
		if err == nil {
			err = stream.WaitTimeout(patience)
		}
		if err != nil {
			n.t.Fatalf("open %s: %v", kind, err)
		}
		return stream
	}
	s.failure = collect(open("error"))
	s.stdin = open("stdin")
	s.stdout = collect(open("stdout"))
	if tty {
		s.resize = open("resize")
	} else {
		s.stderr = collect(open("stderr"))
	}
	return s
}

// upgraded is a connection whose first bytes were already read into a buffer.
type upgraded struct {
	net.Conn
	r *bufio.Reader
}

func (u upgraded) Read(p []byte) (int, error) { return u.r.Read(p) }

func (s *session) write(text string) {
	s.t.Helper()
	if _, err := io.WriteString(s.stdin, text); err != nil {
		s.t.Fatal(err)
	}
}

func (s *session) setSize(columns, rows int) {
	s.t.Helper()
	if _, err := fmt.Fprintf(s.resize, `{"Width":%d,"Height":%d}`+"\n", columns, rows); err != nil {
		s.t.Fatal(err)
	}
}

// await waits until stdout has that text.
func (s *session) await(text string) {
	s.t.Helper()
	defer func() {
		if s.t.Failed() {
			s.t.Logf("stdout is %q", s.stdout.soFar())
		}
	}()
	testkit.Await(s.t, patience, fmt.Sprintf("%q in stdout", text), func() bool { return strings.Contains(s.stdout.soFar(), text) })
}

// ended waits for the end of all streams and returns what they said.
func (s *session) ended() result {
	s.t.Helper()
	for _, c := range []*stream{s.stdout, s.stderr, s.failure} {
		if c == nil {
			continue
		}
		select {
		case <-c.done:
		case <-time.After(patience):
			s.t.Fatalf("a stream does not end; stdout is %q", s.stdout.soFar())
		}
	}
	r := result{stdout: strings.ReplaceAll(s.stdout.soFar(), "\r", "")}
	if s.stderr != nil {
		r.stderr = s.stderr.soFar()
	}
	var status struct {
		Status, Message string
		Details         struct {
			Causes []struct{ Reason, Message string }
		}
	}
	said := s.failure.soFar()
	if said == "" { // an attach says nothing
		return r
	}
	if err := json.Unmarshal([]byte(said), &status); err != nil {
		s.t.Fatalf("the error stream says %q: %v", said, err)
	}
	if status.Status == "Success" {
		return r
	}
	for _, cause := range status.Details.Causes {
		if cause.Reason == "ExitCode" {
			fmt.Sscan(cause.Message, &r.status)
		}
	}
	if r.status == 0 {
		s.t.Fatalf("the error stream says %q", said)
	}
	return r
}
