package testkit

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// Build builds a main package of the project ("./cmd/containerd-shim-runc-v2", "./examples/hello") as
// releases are built, with hack/build.sh, and returns the binary's absolute path. Its name is the
// package's last element. It is built once per test process and kept in bin/test, where the next
// process finds it up to date. Where there is no compiler, SHIMWRIGHT_TEST_BIN names a directory that has the
// binaries already.
func Build(t testing.TB, pkg string) string {
	t.Helper()
	once, _ := builds.LoadOrStore(pkg, sync.OnceValues(func() (string, error) { return build(pkg) }))
	path, err := once.(func() (string, error))()
	if err != nil {
		t.Fatalf("build %s: %v", pkg, err)
	}
	return path
}

// builds has one func() (path string, err error) for each package path.
var builds sync.Map

func build(pkg string) (string, error) {
	if dir := os.Getenv("SHIMWRIGHT_TEST_BIN"); dir != "" {
		path := filepath.Join(dir, filepath.Base(pkg))
		_, err := os.Stat(path)
		return path, err
	}
	root, err := Root()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "bin", "test")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	lock, err := os.Open(dir)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := flock(lock); err != nil {
		return "", err
	}
	cmd := exec.Command("hack/build.sh", dir, pkg)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return filepath.Join(dir, filepath.Base(pkg)), nil
}

// Root is the project's top directory, found from the current one upwards.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fs.ErrNotExist
		}
		dir = up
	}
}
