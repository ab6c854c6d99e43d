package testkit

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// WasmDir is the directory that holds modules, and WasmCache what is compiled of them: both outlive the tests, which
// would spend their time in compiling else.
func WasmDir(t testing.TB) string {
	t.Helper()
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "bin", "test", "wasm")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// WasmCache is the cache of compiled modules that tests share.
func WasmCache(t testing.TB) string { return filepath.Join(WasmDir(t), "cache") }

// WasmGo builds a package of the project, such as ./testdata/wasm/probe, as a module.
func WasmGo(t testing.TB, pkg string) string {
	t.Helper()
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(WasmDir(t), filepath.Base(pkg)+".wasm")
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-trimpath", "-ldflags=-s -w", "-o", path, pkg)
	build.Dir = root
	build.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, out)
	}
	return path
}

// WasmC builds a C program of the project, such as testdata/wasm/hog.c, as a module.
func WasmC(t testing.TB, source string) string {
	t.Helper()
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	clang, err := exec.LookPath("clang-14")
	if err != nil {
		Missing(t, "needs clang, lld and wasi-libc (make deps): %v", err)
	}
	path := filepath.Join(WasmDir(t), filepath.Base(source)+".wasm")
	build := exec.CommandContext(t.Context(), clang, "--target=wasm32-wasi", "-O1", "-o", path, filepath.Join(root, source))
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", source, err, out)
	}
	return path
}

// WasmProgram is a program that others wrote, as a module: yq, jsonnet, esbuild, python or sqlite. hack/deps.sh has it.
func WasmProgram(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("SHIMWRIGHT_TOOLS")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(cache, "shimwright", "tools")
	}
	path := filepath.Join(dir, "wasm-1", name+".wasm")
	if _, err := os.Stat(path); err != nil {
		Missing(t, "needs %s (make deps): %v", name, err)
	}
	return path
}

// WasmPrograms is what WasmProgram's programs are to do, and to say.
var WasmPrograms = []struct {
	Name   string
	Args   []string
	Files  map[string]string // that it finds, by path
	Stdin  string
	Stdout string
}{
	{
		Name: "yq", Args: []string{"-p=json", "-o=yaml", ".a"},
		Stdin: `{"a": {"b": [1, "two"]}}`, Stdout: "b:\n  - 1\n  - two\n",
	},
	{
		Name: "jsonnet", Args: []string{"/tmp/main.jsonnet"},
		Files:  map[string]string{"tmp/main.jsonnet": "(import 'lib.libsonnet')(3)", "tmp/lib.libsonnet": "function(n) std.range(1, n)"},
		Stdout: "[\n   1,\n   2,\n   3\n]\n",
	},
	{
		Name: "esbuild", Args: []string{"--bundle", "--minify", "/tmp/main.ts"},
		Files:  map[string]string{"tmp/main.ts": "import {n} from './n'\nconsole.log(n as number)", "tmp/n.ts": "export const n: number = 6 * 7"},
		Stdout: "(()=>{console.log(42);})();\n",
	},
	{
		Name: "python", Args: []string{"/tmp/main.py"},
		Files: map[string]string{"tmp/main.py": `import json, os, sys, hashlib
print(json.dumps({"args": sys.argv, "here": sorted(os.listdir("/tmp")), "sum": hashlib.sha256(b"x").hexdigest()[:8], "in": sys.stdin.read()}))`},
		Stdin: "words", Stdout: `{"args": ["/tmp/main.py"], "here": ["main.py"], "sum": "2d711642", "in": "words"}` + "\n",
	},
	{
		Name: "sqlite", Args: []string{"/tmp/db", "create table t(a, b); insert into t values (1, 'one'), (2, 'two'); pragma integrity_check; select sum(a), group_concat(b) from t"},
		Stdout: "ok\n3|one,two\n",
	},
}
