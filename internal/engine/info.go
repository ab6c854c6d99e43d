package engine

// Name is the runtime's, as the daemon knows it, whatever the engine.
const Name = "io.containerd.runc.v2"

// FeaturesURL is the type under which the daemon decodes an engine's features, from JSON.
const FeaturesURL = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"

// DefaultRoot is where the state of containers is kept, in a directory for each namespace.
const DefaultRoot = "/run/containerd/runc"
