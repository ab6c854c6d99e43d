package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
)

// mapped turns errors into status codes, here and nowhere else.
func mapped(ctx context.Context, u ttrpc.Unmarshaler, _ *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
	resp, err := method(ctx, u)
	if err != nil {
		return nil, errgrpc.ToGRPC(classed(err))
	}
	return resp, nil
}

// classed gives the machine's own troubles a class where nobody has given one.
func classed(err error) error {
	if !errdefs.IsUnknown(errgrpc.ToNative(errgrpc.ToGRPC(err))) {
		return err
	}
	for _, full := range [...]syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOSPC, syscall.EDQUOT, syscall.ENOMEM, syscall.EAGAIN} {
		if errors.Is(err, full) {
			return fmt.Errorf("%w: %w", err, errdefs.ErrResourceExhausted)
		}
	}
	if errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	}
	return err
}

// recovered makes an internal error of a panic, and keeps the other tasks of the shim alive.
func recovered(log *slog.Logger) ttrpc.UnaryServerInterceptor {
	return func(ctx context.Context, u ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (resp any, err error) {
		defer func() {
			if p := recover(); p != nil {
				log.Error("panic", "method", info.FullMethod, "panic", p, "stack", string(debug.Stack()))
				resp, err = nil, fmt.Errorf("panic: %v: %w", p, errdefs.ErrInternal)
			}
		}()
		return method(ctx, u)
	}
}

// invalid is a refusal of what the caller sent.
func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

// decoded gives a message that cannot be decoded the class of a bad request.
func decoded(err error) error {
	if err == nil || errors.Is(err, errdefs.ErrInvalidArgument) {
		return err
	}
	return fmt.Errorf("decode request: %w: %w", err, errdefs.ErrInvalidArgument)
}
