package bootstrap

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
)

const (
	protocolTTRPC = "ttrpc"
	maxVersion    = 3 // of the task service
)

// WriteReply tells a daemon that speaks d that the shim serves ttrpc at address, and what else it can do. Old dialects
// have no words for that.
func WriteReply(w io.Writer, d Dialect, address string, abilities ...proto.Message) error {
	reply, err := encodeReply(d, address, abilities)
	if err == nil {
		_, err = w.Write(reply)
	}
	if err != nil {
		return fmt.Errorf("reply to start: %w", err)
	}
	return nil
}

func encodeReply(d Dialect, address string, abilities []proto.Message) ([]byte, error) {
	switch d {
	case Bare:
		return []byte(address), nil
	case JSON:
		return json.Marshal(&bootapi.BootstrapResult{Version: 2, Address: address, Protocol: protocolTTRPC})
	default:
		r := &bootapi.BootstrapResult{Version: 3, Address: address, Protocol: protocolTTRPC}
		for _, ability := range abilities {
			if err := r.AddExtension(ability); err != nil {
				return nil, err
			}
		}
		return proto.MarshalOptions{Deterministic: true}.Marshal(r)
	}
}

// ParseReply reads a shim's reply in any dialect. A bootstrap.json reads like one. ErrInvalidArgument: it is none,
// for instance because the shim wrote something else in between; ErrNotImplemented: it wants a newer daemon.
func ParseReply(out []byte) (*bootapi.BootstrapResult, error) {
	r := decodeReply(out)
	switch {
	case r == nil || !isAddress(r.Address):
		return nil, fmt.Errorf("the shim's reply %.200q names no address: %w", out, errdefs.ErrInvalidArgument)
	case r.Version < 2 || r.Version > maxVersion:
		return nil, fmt.Errorf("the shim wants version %d of the task service, known are 2 to %d: %w", r.Version, maxVersion, errdefs.ErrNotImplemented)
	case r.Protocol == "":
		r.Protocol = protocolTTRPC
	}
	return r, nil
}

// decodeReply is nil if out is nothing of the kind. No text is well-formed protobuf by accident: '{' and 'u' open
// fields that do not end.
func decodeReply(out []byte) *bootapi.BootstrapResult {
	r := new(bootapi.BootstrapResult)
	if proto.Unmarshal(out, r) == nil {
		return r
	}
	text := bytes.TrimSpace(out)
	if bytes.HasPrefix(text, []byte("{")) {
		r = new(bootapi.BootstrapResult)
		if json.Unmarshal(text, r) != nil {
			return nil
		}
		return r
	}
	return &bootapi.BootstrapResult{Version: 2, Address: string(text), Protocol: protocolTTRPC}
}

// isAddress: scheme://rest, printable and in one piece.
func isAddress(s string) bool {
	scheme, rest, ok := strings.Cut(s, "://")
	return ok && scheme != "" && rest != "" && !strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c == 0x7f || c == '\ufffd' })
}
