package checkpoint

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// The first criu that freezes containers on cgroup v2 and keeps their clocks in a time namespace.
const minMajor, minMinor = 3, 14

// Criu is the criu in PATH.
type Criu struct{ major, minor int }

func (c Criu) before(major, minor int) bool {
	return c.major < major || c.major == major && c.minor < minor
}

// Ready checks that there is a criu in PATH, and that it is new enough. ErrFailedPrecondition: there is none, or it is not.
func Ready(ctx context.Context) (Criu, error) {
	path, err := exec.LookPath("criu")
	if err != nil {
		return Criu{}, fmt.Errorf("criu is needed, and not in the shim's PATH (%w): install criu %d.%d or newer on this machine: %w", err, minMajor, minMinor, errdefs.ErrFailedPrecondition)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return Criu{}, fmt.Errorf("%s --version: %w: %w", path, err, errdefs.ErrFailedPrecondition)
	}
	c, ok := parseVersion(string(out))
	if !ok {
		return Criu{}, fmt.Errorf("%s --version says %q, which is not criu's answer: %w", path, out, errdefs.ErrFailedPrecondition)
	}
	if c.before(minMajor, minMinor) {
		return c, fmt.Errorf("%s is version %d.%d: install criu %d.%d or newer: %w", path, c.major, c.minor, minMajor, minMinor, errdefs.ErrFailedPrecondition)
	}
	return c, nil
}

// parseVersion reads "Version: 4.2.1", the first of the lines.
func parseVersion(text string) (c Criu, ok bool) {
	line, _, _ := strings.Cut(text, "\n")
	version, ok := strings.CutPrefix(line, "Version: ")
	major, rest, dot := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	var err1, err2 error
	c.major, err1 = strconv.Atoi(major)
	c.minor, err2 = strconv.Atoi(minor)
	return c, ok && dot && err1 == nil && err2 == nil
}

// config are lines for criu's configuration file that this machine needs. To hold the network still, criu would call
// iptables, which many machines no longer have.
func (c Criu) config() string {
	if _, err := exec.LookPath("iptables-restore"); err == nil || c.before(3, 17) {
		return ""
	}
	return "network-lock nftables\n"
}
