package cgroup2_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shimwright/shimwright/internal/testkit"
)

// bootTimeout bounds the guest, in which everything takes about 20 times as long as outside.
const bootTimeout = 10 * time.Minute

// The tests that run in the guest: those that make containers and read their cgroups.
var packages = []string{"internal/container", "internal/cgroup"}

// Those that do not: user-mode Linux has no CONFIG_CHECKPOINT_RESTORE.
const skip = "Checkpoint|Restore"

// guestInit is the guest's pid 1. Its last words for each package are "PACKAGE: STATUS".
const guestInit = `#!/bin/sh
export PATH=/bin HOME=/root SHIMWRIGHT_REQUIRE_ALL=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t cgroup2 none /sys/fs/cgroup
ip link set lo up
for p in %s; do
	cd /src/$p
	/tests/$(basename $p) -test.v -test.timeout 9m -test.skip '%s' 2>&1
	echo "$p: $?"
done
poweroff -f
`

func TestOnCgroup2(t *testing.T) {
	testkit.RequireRoot(t)
	linux, err := exec.LookPath("linux.uml")
	if err != nil {
		testkit.Missing(t, "needs user-mode Linux (Debian: user-mode-linux): %v", err)
	}
	guest := testkit.Rootfs(t)
	source, err := testkit.Root()
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"tests", "root", "run", "dev"} {
		if err := os.MkdirAll(filepath.Join(guest, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(guest, "init"), fmt.Sprintf(guestInit, strings.Join(packages, " "), skip))
	for _, p := range packages {
		dir := filepath.Join(guest, "src", p)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		build := exec.CommandContext(t.Context(), "go", "test", "-c", "-buildvcs=false", "-o", filepath.Join(guest, "tests", filepath.Base(p)),
			"-tags", "no_grpc seccomp netgo osusergo", "-ldflags", "-linkmode external -extldflags -static", "./"+p)
		build.Dir = source
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build the tests of %s: %v\n%s", p, err, out)
		}
	}

	disk := filepath.Join(t.TempDir(), "disk") // for limits of block devices
	if err := errors.Join(os.WriteFile(disk, nil, 0o600), os.Truncate(disk, 1<<20)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	boot := exec.CommandContext(ctx, linux, "mem=2G", "root=/dev/root", "rootfstype=hostfs", "rootflags="+guest, "rw", "init=/init",
		"ubd0="+disk, "con=null", "con0=null,fd:1", "quiet")
	out, err := boot.CombinedOutput() // its status says nothing
	said := string(out)
	for _, p := range packages {
		if !strings.Contains(said, p+": 0\n") && !strings.Contains(said, p+": 0\r\n") {
			t.Errorf("%s did not pass on cgroup v2 (guest: %v)", p, err)
		}
	}
	passed := strings.Count(said, "--- PASS: ")
	if passed < 20 || strings.Contains(said, "--- SKIP: ") {
		t.Errorf("%d tests ran, some may have been skipped", passed)
	}
	t.Logf("%d tests passed on cgroup v2", passed)
	if t.Failed() {
		t.Log(said)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
}
