package manager

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/shimwright/shimwright/internal/bundle"
	"golang.org/x/sys/unix"
)

// openLog forwards what the shim writes to the fifo in its bundle, line by line, until it is closed.
func (m *Manager) openLog(s *Shim) (io.Closer, error) {
	log := m.config.Log.With("namespace", s.namespace, "id", s.id)
	path := filepath.Join(s.bundle, bundle.LogFile)
	if err := unix.Mkfifo(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make the shim's log: %w", err)
	}
	// For both directions, so that opening waits for nobody and the last writer's going is not the end.
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open the shim's log: %w", err)
	}
	go func() { // ends when f is closed
		lines := bufio.NewReaderSize(f, 64<<10) // longer lines come in parts
		for {
			line, _, err := lines.ReadLine()
			if err != nil {
				return
			}
			log.Log(context.Background(), logLevel(string(line)), string(line))
		}
	}()
	return f, nil
}

// logLevel is the level that a line of slog's or logrus' text or JSON form names; info where there is none.
func logLevel(line string) slog.Level {
	_, rest, ok := strings.Cut(line, "level")
	if !ok {
		return slog.LevelInfo
	}
	rest = strings.ToLower(strings.TrimLeft(rest, `":= `))
	for name, level := range map[string]slog.Level{
		"trace": slog.LevelDebug,
		"debug": slog.LevelDebug,
		"warn":  slog.LevelWarn,
		"error": slog.LevelError,
		"fatal": slog.LevelError,
		"panic": slog.LevelError,
	} {
		if strings.HasPrefix(rest, name) {
			return level
		}
	}
	return slog.LevelInfo
}
