package server

import (
	"context"
	"net"
	"sync"

	"github.com/containerd/ttrpc"
)

// callers lets in peers of the shim's own user, and knows how many there are.
type callers struct {
	mu   sync.Mutex
	open int
	none chan struct{} // closed when the last one hangs up; nil when nobody waits
}

// Handshake admits a connection.
func (c *callers) Handshake(ctx context.Context, conn net.Conn) (net.Conn, any, error) {
	conn, who, err := ttrpc.UnixSocketRequireSameUser().Handshake(ctx, conn)
	if err != nil {
		return nil, nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open++
	return &caller{Conn: conn, left: sync.OnceFunc(c.left)}, who, nil
}

func (c *callers) left() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open--
	if c.open == 0 && c.none != nil {
		close(c.none)
		c.none = nil
	}
}

// wait returns when everybody has hung up, or with ctx.
func (c *callers) wait(ctx context.Context) {
	c.mu.Lock()
	if c.open == 0 {
		c.mu.Unlock()
		return
	}
	if c.none == nil {
		c.none = make(chan struct{})
	}
	none := c.none
	c.mu.Unlock()
	select {
	case <-none:
	case <-ctx.Done():
	}
}

// caller is an admitted connection.
type caller struct {
	net.Conn
	left func()
}

func (c *caller) Close() error {
	defer c.left()
	return c.Conn.Close()
}
