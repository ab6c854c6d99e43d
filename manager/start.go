package manager

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"

	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/shimwright/shimwright/internal/bootstrap"
	"github.com/shimwright/shimwright/internal/bundle"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// StartRequest asks for a shim.
type StartRequest struct {
	ID        string // of the container: 1–76 characters, letters and digits with single '.', '_' or '-' between them
	Namespace string // of the same form
	Runtime   string // such as io.containerd.runc.v2, whose binary is in PATH, or the binary's absolute path

	// Spec becomes config.json; nil: none. By its annotation io.containerd.runc.v2.group or
	// io.kubernetes.cri.sandbox-id containers share a shim.
	Spec *specs.Spec

	Options proto.Message // the runtime's options; nil: none. A Create wants them again
	Debug   bool          // the shim logs more
}

// Start makes the bundle of a container and starts its shim, or finds the one of its group. There is no task yet:
// that is what Task().Create is for. On error nothing is left. ErrAlreadyExists: the container exists.
func (m *Manager) Start(ctx context.Context, r StartRequest) (_ *Shim, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("start %s: %w", r.ID, err)
		}
	}()
	for _, id := range []string{r.ID, r.Namespace} {
		if err := bundle.CheckID(id); err != nil {
			return nil, err
		}
	}
	binary, err := m.findBinary(r.Runtime)
	if err != nil {
		return nil, err
	}
	params := m.params(r.Namespace, r.ID)
	if r.Debug {
		params.Level = slog.LevelDebug
	}
	if r.Options != nil {
		options, err := typeurl.MarshalAnyToProto(r.Options)
		if err != nil {
			return nil, err
		}
		params.Extensions = []*anypb.Any{options}
	}
	s := &Shim{manager: m, id: r.ID, namespace: r.Namespace, bundle: m.bundle(r.Namespace, r.ID), binary: binary}
	if !m.claim(s.bundle, nil) {
		return nil, fmt.Errorf("container %s in namespace %s: %w", r.ID, r.Namespace, errdefs.ErrAlreadyExists)
	}
	defer m.release(s.bundle)
	if err := m.makeBundle(r.Namespace, r.ID, r.Spec); err != nil {
		return nil, err
	}
	if err := m.start(ctx, s, params, r.Debug); err != nil {
		m.abandon(context.WithoutCancel(ctx), s)
		return nil, err
	}
	return s, nil
}

// start runs the shim of a bundle that was just made. The path of the binary is written first: whatever happens then,
// Load knows how to clean up.
func (m *Manager) start(ctx context.Context, s *Shim, params *bootstrap.Params, debug bool) (err error) {
	if err := bundle.WriteFile(s.bundle, bundle.ShimBinaryFile, []byte(s.binary)); err != nil {
		return err
	}
	if s.log, err = m.openLog(s); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			s.log.Close()
		}
	}()
	out, err := m.runStart(ctx, s.binary, s.bundle, params, debug)
	if err != nil {
		return err
	}
	reply, err := bootstrap.ParseReply(out)
	if err != nil {
		return err
	}
	data, err := json.Marshal(reply)
	if err != nil {
		return err
	}
	if err := bundle.WriteFile(s.bundle, bundle.BootstrapFile, data); err != nil {
		return err
	}
	return m.connect(ctx, s, reply)
}

// abandon removes what a failed start has left, the shim too if there is one.
func (m *Manager) abandon(ctx context.Context, s *Shim) {
	ctx, cancel := context.WithTimeout(ctx, cleanupTimeout)
	defer cancel()
	if err := m.reach(ctx, s); err == nil {
		m.shutdown(ctx, s)
		s.Close()
	}
	if _, err := m.discard(ctx, s.binary, s.bundle); err != nil {
		m.config.Log.Error("clean up after a failed start", "namespace", s.namespace, "id", s.id, "err", err)
	}
}
