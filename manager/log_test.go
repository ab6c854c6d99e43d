package manager

import (
	"log/slog"
	"testing"
)

func TestLogLevel(t *testing.T) {
	for line, want := range map[string]slog.Level{
		`time=2026-09-01T08:00:00Z level=WARN msg="signal ignored"`:  slog.LevelWarn,
		`time="2026-09-01T08:00:00Z" level=warning msg=x`:            slog.LevelWarn,
		`{"time":"2026-09-01T08:00:00Z","level":"ERROR","msg":"x"}`:  slog.LevelError,
		`{"level": "debug", "msg": "x"}`:                             slog.LevelDebug,
		`level=fatal msg=x`:                                          slog.LevelError,
		`level=info msg="an error"`:                                  slog.LevelInfo,
		`panic: runtime error: index out of range [3] with length 3`: slog.LevelInfo,
		``: slog.LevelInfo,
	} {
		if got := logLevel(line); got != want {
			t.Errorf("%s: %v, want %v", line, got, want)
		}
	}
}
