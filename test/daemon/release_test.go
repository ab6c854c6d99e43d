package daemon_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shimwright/shimwright/internal/testkit"
)

// A release is a containerd that the tests know. What is to be known of one release and not of another is here.
type release struct {
	version     string
	format      int  // of config.toml
	answer      int  // the version in bootstrap.json; 0: the daemon knows no such file and reads address
	introspects bool // it calls -info
	users       bool // ctr run knows --user
}

// releases are the daemons in use, one for each dialect of a shim's start and its variants: hack/tools.sh pins them.
var releases = []release{
	{"1.6.20", 2, 0, false, false}, // Debian 12's. The bare address
	{"1.7.24", 2, 0, false, true},  // Debian 13's. JSON, which it does not keep
	{"2.1.9", 3, 2, true, true},    // JSON; version 3 would be understood
	{"2.4.2", 3, 3, true, true},    // protobuf
}

// chosen is the release that tests of one daemon use: SHIMWRIGHT_TEST_CONTAINERD, else the newest.
func chosen(t *testing.T) release {
	t.Helper()
	version := os.Getenv("SHIMWRIGHT_TEST_CONTAINERD")
	if version == "" {
		return releases[len(releases)-1]
	}
	for _, r := range releases {
		if r.version == version {
			return r
		}
	}
	t.Fatalf("SHIMWRIGHT_TEST_CONTAINERD=%s: the tests know %v", version, releases)
	return release{}
}

func (r release) String() string { return "containerd-" + r.version }

// tools finds the directory that has the release's containerd and ctr.
func (r release) tools(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("SHIMWRIGHT_TOOLS")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(cache, "shimwright", "tools")
	}
	dir = filepath.Join(dir, r.String())
	for _, name := range []string{"containerd", "ctr"} {
		out, err := exec.CommandContext(t.Context(), filepath.Join(dir, name), "--version").Output()
		if err != nil {
			testkit.Missing(t, "needs containerd and ctr %s (make deps): %v", r.version, err)
		}
		if !strings.Contains(string(out), r.version) {
			testkit.Missing(t, "needs containerd and ctr %s (make deps); %s says: %s", r.version, filepath.Join(dir, name), out)
		}
	}
	return dir
}

// config is a config.toml. What is of no use here would only make the daemon start later, or touch the machine.
func (r release) config(root, state, socket, level string) string {
	disabled := []string{
		"io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri",
		"io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
		"io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.blockfile",
		"io.containerd.snapshotter.v1.erofs",
	}
	return fmt.Sprintf(`version = %d
root = %q
state = %q
disabled_plugins = ["%s"]
[grpc]
  address = %q
[debug]
  level = %q
`, r.format, root, state, strings.Join(disabled, `", "`), socket, level)
}
