// Package bootstrap speaks the three dialects of a shim's start: what the daemon puts on stdin, and what it reads from stdout.
//
//	daemon     stdin                            stdout
//	1.6        runtime options as Any, or none  the bare address
//	1.7 – 2.2  runtime options as Any, or none  JSON: version 2, address, protocol
//	2.3 –      BootstrapParams                  BootstrapResult: version 3, address, protocol
//
// Nothing announces a dialect; Read tells them apart by what is there.
package bootstrap

import (
	"log/slog"
	"strings"

	"google.golang.org/protobuf/types/known/anypb"
)

// A Dialect is what the daemon speaks.
type Dialect int

// The dialects, by the daemon that speaks them.
const (
	Bare     Dialect = iota // 1.6
	JSON                    // 1.7 – 2.2
	Protobuf                // 2.3 and later
)

// String is the dialect's name.
func (d Dialect) String() string {
	switch d {
	case Bare:
		return "bare"
	case JSON:
		return "json"
	default:
		return "protobuf"
	}
}

// Variables that a daemon sets for its shims. 1.6 does not know the last one.
const (
	EnvTTRPCAddress = "TTRPC_ADDRESS"
	EnvGRPCAddress  = "GRPC_ADDRESS"
	EnvNamespace    = "NAMESPACE"
	EnvMaxVersion   = "MAX_SHIM_VERSION"
)

// Params are what a daemon tells the shim that it starts.
type Params struct {
	Dialect       Dialect
	ID, Namespace string

	GRPCAddress, TTRPCAddress string // of the daemon; empty: not told

	SocketDir  string       // where to make sockets; empty: the shim's default
	Level      slog.Level   // of the shim's log
	Extensions []*anypb.Any // from 2.3 on all that there are, before that the runtime's options or nothing

	DaemonVersion, DaemonBinary string // for information; empty: not told
}

// Options are the runtime's options; nil: none were given. From 2.3 on they are one extension of several and
// are known by their type's name, which ends in Options.
func (p *Params) Options() *anypb.Any {
	for _, ext := range p.Extensions {
		if p.Dialect != Protobuf || isOptions(ext.GetTypeUrl()) {
			return ext
		}
	}
	return nil
}

func isOptions(typeURL string) bool {
	name := typeURL[strings.LastIndexAny(typeURL, "./")+1:]
	return strings.EqualFold(name, "Options")
}
