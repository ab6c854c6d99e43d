package bootstrap

import (
	"fmt"
	"io"
	"log/slog"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// maxInput is how much of stdin is read, in bytes.
const maxInput = 10 << 20

// Read reads what the daemon tells a shim at its start. id and namespace are the ones of the command line; getenv tells
// what the older dialects have in the environment. ErrInvalidArgument: stdin is too long or makes no sense.
func Read(stdin io.Reader, id, namespace string, getenv func(string) string) (*Params, error) {
	data, err := io.ReadAll(io.LimitReader(stdin, maxInput+1))
	if err != nil {
		return nil, fmt.Errorf("read stdin: %w", err)
	}
	if len(data) > maxInput {
		return nil, fmt.Errorf("stdin is longer than %d bytes: %w", maxInput, errdefs.ErrInvalidArgument)
	}
	p := &Params{
		ID:           id,
		Namespace:    namespace,
		GRPCAddress:  getenv(EnvGRPCAddress),
		TTRPCAddress: getenv(EnvTTRPCAddress),
	}
	if len(data) > 0 && p.decodeParams(data) {
		return p, nil
	}
	p.Dialect = Bare
	if getenv(EnvMaxVersion) != "" {
		p.Dialect = JSON
	}
	return p, p.decodeOptions(data)
}

// decodeParams takes data as BootstrapParams if it names the id and namespace of p. The runtime options of the older
// dialects may be well-formed BootstrapParams by accident, but then they name no one.
func (p *Params) decodeParams(data []byte) bool {
	var m bootapi.BootstrapParams
	if proto.Unmarshal(data, &m) != nil || m.InstanceID == "" || m.InstanceID != p.ID || m.Namespace != p.Namespace {
		return false
	}
	p.Dialect = Protobuf
	p.GRPCAddress = m.ContainerdGrpcAddress
	p.TTRPCAddress = m.ContainerdTtrpcAddress
	p.SocketDir = m.GetSocketDir()
	p.Level = slog.Level(m.LogLevel) // the same numbers
	p.DaemonVersion, p.DaemonBinary = m.ContainerdVersion, m.ContainerdBinary
	for _, ext := range m.Extensions {
		if ext.GetValue() != nil {
			p.Extensions = append(p.Extensions, ext.Value)
		}
	}
	return true
}

func (p *Params) decodeOptions(data []byte) error {
	var options anypb.Any
	if err := proto.Unmarshal(data, &options); err != nil {
		return fmt.Errorf("runtime options on stdin: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if options.TypeUrl != "" {
		p.Extensions = []*anypb.Any{&options}
	}
	return nil
}

// Encode is the other direction of Read: what a daemon that speaks p.Dialect puts on the shim's stdin.
func (p *Params) Encode() ([]byte, error) {
	if p.Dialect != Protobuf {
		if options := p.Options(); options != nil {
			return proto.Marshal(options)
		}
		return nil, nil
	}
	m := &bootapi.BootstrapParams{
		InstanceID:             p.ID,
		Namespace:              p.Namespace,
		LogLevel:               bootapi.LogLevel(p.Level),
		ContainerdVersion:      p.DaemonVersion,
		ContainerdTtrpcAddress: p.TTRPCAddress,
		ContainerdGrpcAddress:  p.GRPCAddress,
		ContainerdBinary:       p.DaemonBinary,
	}
	if p.SocketDir != "" {
		m.SocketDir = &p.SocketDir
	}
	for _, ext := range p.Extensions {
		m.Extensions = append(m.Extensions, &bootapi.Extension{Value: ext})
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}

// Environ is what a daemon that speaks p.Dialect sets for the shim, as KEY=value.
func (p *Params) Environ() []string {
	env := []string{
		EnvTTRPCAddress + "=" + p.TTRPCAddress,
		EnvGRPCAddress + "=" + p.GRPCAddress,
		EnvNamespace + "=" + p.Namespace,
	}
	if p.Dialect != Bare {
		env = append(env, EnvMaxVersion+"=2")
	}
	return env
}
