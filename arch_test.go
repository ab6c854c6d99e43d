package shimwright_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/shimwright/shimwright/"

// A layer says what its packages may import of the project, test files apart. The first that fits a package
// counts; a path that ends in /... stands for itself and all below it.
type layer struct {
	packages string
	imports  []string
}

var layers = []layer{
	{"task", nil},

	{"internal/bootstrap", nil},
	{"internal/bundle", []string{"task"}},
	{"internal/socket", nil},
	{"internal/daemon", nil},
	{"internal/reap", nil},
	{"internal/publish", nil},
	{"internal/stdio", []string{"task", "internal/reap"}},
	{"internal/rootfs", []string{"internal/bundle"}},
	{"internal/supervise", []string{"task", "internal/bundle", "internal/reap", "internal/rootfs", "internal/stdio"}},
	{"internal/server", []string{"task", "internal/bundle", "internal/stdio", "internal/supervise"}},

	{"internal/cgroup", []string{"task"}},
	{"internal/tomlpb", nil},
	{"internal/options", []string{"internal/bundle", "internal/tomlpb"}},
	{"internal/checkpoint", []string{"task", "internal/options"}},
	{"internal/engine", []string{"task", "internal/bundle", "internal/cgroup", "internal/reap"}},
	{"internal/oci", []string{"task", "internal/bundle", "internal/cgroup", "internal/checkpoint", "internal/engine", "internal/options", "internal/reap"}},
	{"internal/container/...", []string{"task", "internal/bundle", "internal/cgroup", "internal/checkpoint", "internal/engine", "internal/options", "internal/reap", "internal/container/..."}},

	{"internal/wasm/...", []string{"internal/wasm/..."}},

	{"shim", []string{
		"task", "internal/bootstrap", "internal/bundle", "internal/socket", "internal/daemon",
		"internal/publish", "internal/reap", "internal/rootfs", "internal/stdio", "internal/server", "internal/supervise",
	}},
	{"manager", []string{"task", "internal/bootstrap", "internal/bundle", "internal/rootfs", "internal/socket", "internal/daemon"}},

	{"cmd/...", []string{"task", "shim", "manager", "protos/...", "internal/options", "internal/wasm", "internal/container/...", "internal/oci", "internal/engine", "internal/cgroup"}},
	{"examples/...", []string{"task", "shim", "manager", "protos/..."}},
	{"protos/...", nil},
	{"internal/testkit/...", nil},
	{"internal/enginetest", []string{"task", "internal/bundle", "internal/reap", "internal/testkit"}},
	{"test/...", nil},
}

// onlyIn names the packages that may import a module of others.
var onlyIn = map[string]string{
	"github.com/opencontainers/runc": "internal/container/...",
	"github.com/containerd/go-runc":  "internal/oci",
	"github.com/pelletier/go-toml":   "internal/tomlpb",
	"github.com/tetratelabs/wazero":  "internal/wasm/...",
}

func fits(pattern, pkg string) bool {
	if dir, ok := strings.CutSuffix(pattern, "/..."); ok {
		return pkg == dir || strings.HasPrefix(pkg, dir+"/")
	}
	return pkg == pattern
}

// Packages import what their layer says and nothing else.
func TestImports(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-buildvcs=false", "-tags", "no_grpc,seccomp", "-json=ImportPath,Imports", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	packages := 0
	for list := json.NewDecoder(strings.NewReader(string(out))); ; packages++ {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := list.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(p.ImportPath, module)
		if name+"/" == module {
			continue // only this test
		}
		i := slices.IndexFunc(layers, func(l layer) bool { return fits(l.packages, name) })
		if i < 0 {
			t.Errorf("%s is in no layer", name)
			continue
		}
		for _, path := range p.Imports {
			if ours, ok := strings.CutPrefix(path, module); ok {
				if !slices.ContainsFunc(layers[i].imports, func(pattern string) bool { return fits(pattern, ours) }) {
					t.Errorf("%s imports %s", name, ours)
				}
				continue
			}
			for others, where := range onlyIn {
				if strings.HasPrefix(path+"/", others+"/") && !fits(where, name) {
					t.Errorf("%s imports %s, which only %s may", name, path, where)
				}
			}
		}
	}
	if packages < 10 {
		t.Errorf("go list lists %d packages", packages)
	}
}
