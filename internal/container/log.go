package container

import (
	"context"
	"io"
	"log/slog"

	"github.com/sirupsen/logrus"
	bridge "github.com/sirupsen/logrus/hooks/slog"
)

// redirectLogrus sends what libcontainer logs to log. logrus has one standard logger for the whole process.
func redirectLogrus(log *slog.Logger) {
	std := logrus.StandardLogger()
	std.SetOutput(io.Discard)
	std.SetFormatter(silent{})
	hooks := make(logrus.LevelHooks)
	hooks.Add(bridge.NewHook(log, nil))
	std.ReplaceHooks(hooks)
	switch ctx := context.Background(); {
	case log.Enabled(ctx, slog.LevelDebug):
		std.SetLevel(logrus.DebugLevel)
	case log.Enabled(ctx, slog.LevelInfo):
		std.SetLevel(logrus.InfoLevel)
	default:
		std.SetLevel(logrus.WarnLevel)
	}
}

// silent saves the work of formatting what is discarded.
type silent struct{}

func (silent) Format(*logrus.Entry) ([]byte, error) { return nil, nil }
