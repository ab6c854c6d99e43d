package shim

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"runtime"
	"runtime/pprof"
	"runtime/trace"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
)

// The debug socket answers `ctr pprof --debug-socket`, curl and whatever speaks HTTP to /debug/pprof/. A server of
// net/http would make the binary a third larger.
const (
	profiles    = "/debug/pprof/"
	askTimeout  = 5 * time.Second  // until the request is there
	sendTimeout = 10 * time.Second // for the answer, after it was made
	longest     = 10 * time.Minute // that a profile or a trace may take
)

// serveDebug answers on l until it is closed and everybody has been answered, or ctx has ended.
func serveDebug(ctx context.Context, l net.Listener) {
	check := ttrpc.UnixSocketRequireSameUser()
	var asked sync.WaitGroup
	defer asked.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		asked.Go(func() {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(askTimeout))
			if conn, _, err := check.Handshake(ctx, conn); err == nil {
				answer(ctx, conn)
			}
		})
	}
}

// answer reads one request and writes what it asks for.
func answer(ctx context.Context, conn net.Conn) {
	out := &response{conn: conn}
	name, query, err := request(conn)
	if err == nil {
		err = profile(ctx, out, name, query)
	}
	if err != nil {
		out.refuse(err)
	}
}

// response writes its head before the first bytes of its body.
type response struct {
	conn  net.Conn
	begun bool
}

func (r *response) Write(p []byte) (int, error) {
	_ = r.conn.SetDeadline(time.Now().Add(sendTimeout))
	if !r.begun {
		r.begun = true
		if _, err := io.WriteString(r.conn, "HTTP/1.0 200 OK\r\nContent-Type: application/octet-stream\r\n\r\n"); err != nil {
			return 0, err
		}
	}
	return r.conn.Write(p)
}

func (r *response) refuse(err error) {
	if !r.begun {
		_ = r.conn.SetDeadline(time.Now().Add(sendTimeout))
		_, _ = fmt.Fprintf(r.conn, "HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\n\r\n%v\n", err)
	}
}

// request reads what is asked for: the profile's name and the query.
func request(conn net.Conn) (name string, query url.Values, err error) {
	in := bufio.NewReader(io.LimitReader(conn, 16<<10))
	line, err := in.ReadString('\n')
	if err != nil {
		return "", nil, fmt.Errorf("read the request: %w", err)
	}
	for header := line; strings.TrimSpace(header) != ""; { // to the end: a close with bytes unread would cut off the answer
		if header, err = in.ReadString('\n'); err != nil {
			return "", nil, fmt.Errorf("read the request: %w", err)
		}
	}
	fields := strings.Fields(line)
	if len(fields) != 3 || fields[0] != "GET" {
		return "", nil, fmt.Errorf("want GET %sNAME HTTP/1.1, got %.100q", profiles, line)
	}
	u, err := url.Parse(fields[1])
	if err != nil {
		return "", nil, err
	}
	name, ok := strings.CutPrefix(u.Path, profiles)
	if !ok {
		return "", nil, fmt.Errorf("nothing is served at %.100q; try %sgoroutine?debug=2", u.Path, profiles)
	}
	return name, u.Query(), nil
}

// profile writes what net/http/pprof would: an instant's view by name, or one of some seconds.
func profile(ctx context.Context, w io.Writer, name string, query url.Values) error {
	switch name {
	case "cmdline":
		_, err := io.WriteString(w, strings.Join(os.Args, "\x00"))
		return err
	case "profile":
		return during(ctx, w, query, 30*time.Second, pprof.StartCPUProfile, pprof.StopCPUProfile)
	case "trace":
		return during(ctx, w, query, time.Second, trace.Start, trace.Stop)
	}
	p := pprof.Lookup(name)
	if p == nil {
		names := []string{"cmdline", "profile", "trace"}
		for _, p := range pprof.Profiles() {
			names = append(names, p.Name())
		}
		return fmt.Errorf("no profile %.100q; there are %s", name, strings.Join(names, ", "))
	}
	level, err := number(query, "debug", 0)
	if err != nil {
		return err
	}
	if query.Get("gc") != "" {
		runtime.GC()
	}
	return p.WriteTo(w, int(level))
}

// during records for as long as query says.
func during(ctx context.Context, w io.Writer, query url.Values, usual time.Duration, start func(io.Writer) error, stop func()) error {
	seconds, err := number(query, "seconds", usual.Seconds())
	if err != nil {
		return err
	}
	took := time.Duration(seconds * float64(time.Second))
	if took <= 0 || took > longest {
		return fmt.Errorf("seconds=%v: want more than 0 and at most %v", seconds, longest.Seconds())
	}
	if err := start(w); err != nil {
		return err
	}
	defer stop()
	select {
	case <-time.After(took):
	case <-ctx.Done():
	}
	return nil
}

func number(query url.Values, key string, usual float64) (float64, error) {
	s := query.Get(key)
	if s == "" {
		return usual, nil
	}
	n, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, fmt.Errorf("%s=%.100q is no number", key, s)
	}
	return n, nil
}
