package server

import (
	"context"
	"log/slog"
	"path"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
)

// logged notes each request, with what it was about, how long it took and how it ended, at debug level.
func logged(log *slog.Logger) ttrpc.UnaryServerInterceptor {
	return func(ctx context.Context, u ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
		if !log.Enabled(ctx, slog.LevelDebug) {
			return method(ctx, u)
		}
		var req any
		begin := time.Now()
		resp, err := method(ctx, func(v any) error {
			req = v
			return u(v)
		})
		attrs := append(about(req), slog.Duration("took", time.Since(begin)), slog.String("outcome", outcome(err)))
		if err != nil {
			attrs = append(attrs, slog.Any("error", err))
		}
		log.LogAttrs(ctx, slog.LevelDebug, path.Base(info.FullMethod), attrs...)
		return resp, err
	}
}

// about is the task, and the exec, that a request names.
func about(req any) (attrs []slog.Attr) {
	if r, ok := req.(interface{ GetID() string }); ok && r.GetID() != "" {
		attrs = append(attrs, slog.String("id", r.GetID()))
	}
	if r, ok := req.(interface{ GetExecID() string }); ok && r.GetExecID() != "" {
		attrs = append(attrs, slog.String("exec", r.GetExecID()))
	}
	return attrs
}

// outcome is ok, or the class of an error.
func outcome(err error) string {
	if err == nil {
		return "ok"
	}
	return errdefs.Resolve(errgrpc.ToNative(err)).Error()
}
