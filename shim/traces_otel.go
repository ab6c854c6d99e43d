//go:build otel

package shim

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/otelttrpc"
	"github.com/containerd/ttrpc"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
)

// flushTimeout bounds what the shim's end waits for a collector.
const flushTimeout = time.Second

// traced makes a span of each request, below the daemon's own if that traces too, and sends them to the collector that
// OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT names (OTLP over HTTP). Without either, or with
// OTEL_SDK_DISABLED=true, there are no traces. stop sends what is left.
func traced(ctx context.Context, c *command) (stop func(), err error) {
	stop = func() {}
	if c.getenv("OTEL_SDK_DISABLED") == "true" ||
		c.getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" && c.getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == "" {
		return stop, nil
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return stop, fmt.Errorf("traces: %w", err)
	}
	who, err := resource.New(ctx, resource.WithAttributes(
		attribute.String("service.name", c.name),
		attribute.String("service.version", c.config.version),
		attribute.String("service.instance.id", c.flags.namespace+"/"+c.flags.id),
	), resource.WithFromEnv())
	if err != nil {
		return stop, fmt.Errorf("traces: %w", err)
	}
	provider := trace.NewTracerProvider(trace.WithBatcher(exporter), trace.WithResource(who))
	otel.SetTracerProvider(provider)
	otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}))
	c.config.interceptors = slices.Concat([]ttrpc.UnaryServerInterceptor{otelttrpc.UnaryServerInterceptor()}, c.config.interceptors)
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
		defer cancel()
		_ = provider.Shutdown(ctx)
	}, nil
}
