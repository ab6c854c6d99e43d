package manager

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/shimwright/shimwright/internal/bootstrap"
	"google.golang.org/protobuf/proto"
)

// findBinary is the absolute path of a runtime's shim: that of io.containerd.runc.v2 is containerd-shim-runc-v2 in
// PATH, or else beside this program; an absolute path is itself.
func (m *Manager) findBinary(runtime string) (string, error) {
	if filepath.IsAbs(runtime) {
		if _, err := exec.LookPath(runtime); err != nil {
			return "", fmt.Errorf("runtime: %w: %w", err, errdefs.ErrNotFound)
		}
		return runtime, nil
	}
	parts := strings.Split(runtime, ".")
	if len(parts) < 2 || parts[0] == "" || strings.Contains(runtime, "/") {
		return "", fmt.Errorf("runtime %q is neither an absolute path nor of the form prefix.name.version: %w", runtime, errdefs.ErrInvalidArgument)
	}
	name := "containerd-shim-" + strings.Join(parts[len(parts)-2:], "-")
	path, err := exec.LookPath(name)
	if err == nil {
		return filepath.Abs(path)
	}
	beside := filepath.Join(filepath.Dir(m.self), name)
	if _, besideErr := exec.LookPath(beside); besideErr == nil {
		return beside, nil
	}
	return "", fmt.Errorf("runtime %s: %w: %w", runtime, err, errdefs.ErrNotFound)
}

// command is the shim's binary as daemons call it, in the bundle dir.
func (m *Manager) command(ctx context.Context, binary, dir string, p *bootstrap.Params, debug bool, action string, more ...string) *exec.Cmd {
	args := append([]string{
		"-namespace", p.Namespace,
		"-address", p.GRPCAddress,
		"-publish-binary", m.self,
		"-id", p.ID,
	}, more...)
	if debug {
		args = append(args, "-debug")
	}
	cmd := exec.CommandContext(ctx, binary, append(args, action)...)
	cmd.Dir = dir
	cmd.Env = append(append(append(os.Environ(), "GOMAXPROCS=2"), p.Environ()...), m.config.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 5 * time.Second // for children that keep its output open
	return cmd
}

// params are what the manager tells each of its shims.
func (m *Manager) params(namespace, id string) *bootstrap.Params {
	return &bootstrap.Params{
		Dialect:       m.config.Dialect.bootstrap(),
		ID:            id,
		Namespace:     namespace,
		GRPCAddress:   m.events.address(), // there is no gRPC, but shims derive their sockets' names from it
		TTRPCAddress:  m.events.address(),
		SocketDir:     m.config.SocketDir,
		DaemonVersion: "shimwright",
		DaemonBinary:  m.self,
	}
}

// runStart runs the binary's start and returns its reply.
func (m *Manager) runStart(ctx context.Context, binary, dir string, p *bootstrap.Params, debug bool) ([]byte, error) {
	stdin, err := p.Encode()
	if err != nil {
		return nil, err
	}
	cmd := m.command(ctx, binary, dir, p, debug, "start")
	cmd.Stdin = bytes.NewReader(stdin)
	// Together, as daemons do it: a shim that speaks where it should not is noticed here and not only there.
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, callError(ctx, "start", err, out)
	}
	return out, nil
}

// runDelete runs the binary's delete, which frees everything that the container of the bundle dir still has.
func (m *Manager) runDelete(ctx context.Context, binary, dir string) (Exit, error) {
	namespace, id := filepath.Base(filepath.Dir(dir)), filepath.Base(dir)
	var stdout, stderr bytes.Buffer
	cmd := m.command(ctx, binary, dir, m.params(namespace, id), false, "delete", "-bundle", dir)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return Exit{}, callError(ctx, "delete", err, stderr.Bytes())
	}
	if warnings := bytes.TrimSpace(stderr.Bytes()); len(warnings) > 0 {
		m.config.Log.Warn("shim delete", "namespace", namespace, "id", id, "stderr", string(warnings))
	}
	var r taskapi.DeleteResponse
	if err := proto.Unmarshal(stdout.Bytes(), &r); err != nil {
		return Exit{}, fmt.Errorf("reply of the shim's delete: %w", err)
	}
	return exitOf(&r), nil
}

// callError says what the binary had to say, and whether it was cut short.
func callError(ctx context.Context, action string, err error, output []byte) error {
	if ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	if text := bytes.TrimSpace(output); len(text) > 0 {
		err = fmt.Errorf("%w: %s", err, text)
	}
	return fmt.Errorf("shim %s: %w", action, err)
}
