package socket

import (
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

// DefaultDir is where sockets are made unless the daemon says otherwise.
const DefaultDir = "/run/containerd/s"

const (
	scheme = "unix://"

	// maxPath is what fits into sockaddr_un.sun_path (108 bytes) with a final NUL, less one as containerd has it.
	maxPath = 106
)

// Address is the address of the shim that serves group, or a single container of that id, in a namespace of the
// daemon at address daemon. ErrInvalidArgument: the path would be too long for a socket.
func Address(dir, daemon, namespace, group string) (string, error) {
	return address(dir, daemon, namespace, group)
}

// DebugAddress is the address of the debug socket of the same shim.
func DebugAddress(dir, daemon, namespace, group string) (string, error) {
	return address(dir, daemon, namespace, group, "debug")
}

func address(dir string, who ...string) (string, error) {
	address := fmt.Sprintf("%s%s/%x", scheme, dir, sha256.Sum256([]byte(filepath.Join(who...))))
	_, err := Path(address)
	return address, err
}

// Path is the file of the socket at address unix:///path. ErrInvalidArgument: any other form (abstract sockets, which
// have no owner and no mode, among them), or too long.
func Path(address string) (string, error) {
	path, ok := strings.CutPrefix(address, scheme)
	switch {
	case !ok || !filepath.IsAbs(path) || strings.ContainsRune(path, 0):
		return "", fmt.Errorf("socket address %.120q is not of the form unix:///path: %w", address, errdefs.ErrInvalidArgument)
	case len(path) > maxPath:
		return "", fmt.Errorf("socket path %s has %d bytes, the limit is %d; choose a socket directory with a shorter name: %w",
			path, len(path), maxPath, errdefs.ErrInvalidArgument)
	}
	return path, nil
}
