package cgroup2_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shimwright/shimwright/internal/testkit"
)

// bootTimeout bounds the guest, in which everything takes about 20 times as long as outside.
const bootTimeout = 10 * time.Minute

// guests boot side by side. Each runs the tests of packages, one after the other: those of the shim that make processes,
// mounts or cgroups. The rest would say nothing that it does not say outside: it asks the kernel for nothing that
// depends on cgroups. The daemon tests and test/cri are too slow here.
var guests = []struct {
	name     string
	packages []string
}{
	{"engine", []string{"internal/container", "internal/cgroup"}},
	{"shim", []string{"manager", "shim", "internal/stdio", "internal/reap", "cmd/containerd-shim-runc-v2"}},
	{"spec", []string{"test/spec"}},
	{"oci", []string{"internal/oci"}},
}

// programs are what the tests start, apart from themselves.
var programs = []string{"./cmd/containerd-shim-runc-v2", "./examples/hello", "./internal/testkit/crowd"}

// leftOut are tests that do not run in the guest, by their package, and why. Names are patterns.
var leftOut = map[string]map[string]string{
	"manager": {
		"TestRuncMountChain":                "needs mkfs.erofs and mkfs.ext4, which the guest has not",
		"TestLoad":                          "is about shims that are no shims; its time limits are short for a slow CPU",
		"TestRunc200OneAfterAnother":        "takes minutes; what it counts does not depend on cgroups",
		"TestRunc500LifecyclesEightAtATime": "takes minutes; what it counts does not depend on cgroups",
		"TestRunc20AtOnce":                  "takes long on one CPU; the same as one",
		"TestRuncProcesses$/^runc$":         "needs runc, which is not in the guest",
		"TestRuncShimKilled$/^runc$":        "needs runc, which is not in the guest",
		"TestContainerdsShim":               "is about containerd's shim",
	},
	"shim": {
		"TestTraces":                             "builds a shim",
		"TestNoDescriptorReachesTheContainer":    "busybox's shell runs ls within itself, which finds the descriptor that it reads with",
		"TestStartThatCannotAnswerLeavesNothing": "takes 8 s, and no cgroup",
	},
	"internal/reap": {"TestNobodyTakesAnothersStatus": "takes 26 s, and no cgroup"},
	"internal/container": {
		".*(Checkpoint|Restore).*":   "user-mode Linux has no CONFIG_CHECKPOINT_RESTORE",
		"TestEngine$/^TwentyAtOnce":  "takes long on one CPU; the same as one",
		"TestEngine$/^ParallelExecs": "takes long on one CPU; the same as one",
	},
	"internal/oci": {
		"TestRunc":                 "takes a minute; TestCrun makes the same calls, internal/container has the same cgroups",
		"TestRuncCheckpoint":       "user-mode Linux has no CONFIG_CHECKPOINT_RESTORE",
		"TestCrun$/^TwentyAtOnce":  "takes long on one CPU; the same as one",
		"TestCrun$/^ParallelExecs": "takes long on one CPU; the same as one",
	},
	"test/spec": {
		"TestRunc":                          "takes minutes; with libcontainer the same files are written",
		"TestEveryFieldIsTestedOrExplained": "reads the project's files, and starts nothing",
	},
}

// guestInit is the guest's pid 1. Its last words for each package are "PACKAGE: STATUS".
const guestInit = `#!/bin/sh
export PATH=/bin HOME=/root SHIMWRIGHT_REQUIRE_ALL=1 SHIMWRIGHT_TEST_BIN=/programs
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mkdir -p /dev/pts /dev/shm
ln -s /proc/self/fd/0 /dev/stdin
mount -t devpts devpts /dev/pts
mount -t cgroup2 none /sys/fs/cgroup
ip link set lo up
run() {
	cd /src/$1
	/tests/$(basename $1) -test.v -test.timeout 9m -test.skip "$2" 2>&1
	echo "$1: $?"
}
%s
poweroff -f
`

func TestOnCgroup2(t *testing.T) {
	testkit.RequireRoot(t)
	linux, err := exec.LookPath("linux.uml")
	if err != nil {
		testkit.Missing(t, "needs user-mode Linux (Debian: user-mode-linux): %v", err)
	}
	source, err := testkit.Root()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	run(t, source, "hack/build.sh", append([]string{bin}, programs...)...)
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, guest := range guests {
		root := testkit.Rootfs(t)
		script := ""
		for _, p := range guest.packages {
			if err := os.MkdirAll(filepath.Join(root, "src", p), 0o755); err != nil {
				t.Fatal(err)
			}
			run(t, source, "go", "test", "-c", "-buildvcs=false", "-o", filepath.Join(root, "tests")+"/"+filepath.Base(p),
				"-tags", "no_grpc seccomp netgo osusergo", "-ldflags", "-linkmode external -extldflags -static", "./"+p)
			script += fmt.Sprintf("run %s '^%s$'\n", p, strings.Join(slices.Sorted(maps.Keys(leftOut[p])), "$|^"))
		}
		if slices.Contains(guest.packages, "internal/oci") {
			addRuntimes(t, root)
		}
		write(t, filepath.Join(root, "init"), fmt.Sprintf(guestInit, script))
		if err := os.CopyFS(filepath.Join(root, "programs"), os.DirFS(bin)); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { boot(t, linux, root, guest.name, guest.packages) })
	}
}

// addRuntimes gives a guest crun and runc, with the libraries that crun was built with. runc does with these, too: they
// are the newer ones.
func addRuntimes(t *testing.T, root string) {
	t.Helper()
	tools := os.Getenv("SHIMWRIGHT_TOOLS")
	if tools == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		tools = filepath.Join(cache, "shimwright", "tools")
	}
	crun, _ := filepath.Glob(filepath.Join(tools, "crun-*", "root"))
	runc, err := exec.LookPath("runc")
	if err != nil || len(crun) != 1 {
		testkit.Missing(t, "needs runc and crun (hack/deps.sh test): %v, %q", err, crun)
	}
	binary, err := os.ReadFile(runc)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(root, "bin/runc"), string(binary))
	if err := errors.Join(
		os.CopyFS(filepath.Join(root, "usr"), os.DirFS(filepath.Join(crun[0], "usr"))),
		os.Symlink("../usr/bin/crun", filepath.Join(root, "bin/crun")),
		os.Symlink("usr/lib/x86_64-linux-gnu", filepath.Join(root, "lib64")),
	); err != nil {
		t.Fatal(err)
	}
}

// boot runs a guest to its end.
func boot(t *testing.T, linux, root, name string, packages []string) {
	disk := filepath.Join(root, "disk") // for limits of block devices
	if err := errors.Join(os.WriteFile(disk, nil, 0o600), os.Truncate(disk, 1<<20)); err != nil {
		t.Error(err)
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	began := time.Now()
	cmd := exec.CommandContext(ctx, linux, "mem=2G", "root=/dev/root", "rootfstype=hostfs", "rootflags="+root, "rw", "init=/init",
		"ubd0="+disk, "con=null", "con0=null,fd:1", "quiet")
	out, err := cmd.CombinedOutput() // its status says nothing
	said := strings.ReplaceAll(string(out), "\r", "")
	ok := true
	for _, p := range packages {
		if !strings.Contains(said, "\n"+p+": 0\n") {
			t.Errorf("%s did not pass on cgroup v2 (guest: %v)", p, err)
			ok = false
		}
	}
	passed := strings.Count(said, "--- PASS: ")
	if passed < 20 || strings.Contains(said, "--- SKIP: ") {
		t.Errorf("%s: %d tests passed, some may have been skipped", name, passed)
		ok = false
	}
	t.Logf("%s: %d tests passed on cgroup v2 in %v", name, passed, time.Since(began).Round(time.Second))
	if !ok {
		t.Log(said)
	}
}

func run(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
}
