//go:build !otel

package shim

import "context"

// traced does nothing in this build. With the build tag otel it makes a span of each request.
func traced(context.Context, *command) (stop func(), err error) { return func() {}, nil }
