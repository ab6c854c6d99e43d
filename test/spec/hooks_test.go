package spec_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/shimwright/shimwright/internal/testkit"
)

// The kinds of hooks, in the order in which they run.
var kinds = []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}

// list is where the spec keeps the hooks of a kind.
func list(h *specs.Hooks, kind string) *[]specs.Hook {
	switch kind {
	case "prestart":
		return &h.Prestart //nolint:staticcheck // deprecated, and in use
	case "createRuntime":
		return &h.CreateRuntime
	case "createContainer":
		return &h.CreateContainer
	case "startContainer":
		return &h.StartContainer
	case "poststart":
		return &h.Poststart
	default:
		return &h.Poststop
	}
}

// addHook adds a hook that runs a script, with $LOG for a file of the case's.
func addHook(e *env, s *specs.Spec, kind, script string) *specs.Hook {
	if s.Hooks == nil {
		s.Hooks = new(specs.Hooks)
	}
	shell, log := "/bin/busybox", "/log/log"
	if kind != "startContainer" {
		shell, _ = exec.LookPath("busybox")
		log = e.path("log")
	} else if !slices.ContainsFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == "/log" }) {
		s.Mounts = append(s.Mounts, mount("/log", "bind", e.dir, "bind"))
	}
	hooks := list(s.Hooks, kind)
	*hooks = append(*hooks, specs.Hook{Path: shell, Args: []string{"sh", "-c", script}, Env: []string{"PATH=/bin:/usr/bin", "LOG=" + log}})
	return &(*hooks)[len(*hooks)-1]
}

// note is a hook's script that writes down the hook's name, where it is and what it was told.
func note(name string) string {
	return fmt.Sprintf(`echo "%s $(pwd) $(cat)" >> $LOG`, name)
}

// noted is one line of note.
type noted struct {
	Name, Cwd string
	State     specs.State
}

func (e *env) noted() (lines []noted) {
	e.Helper()
	data, err := os.ReadFile(e.path("log"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	e.must(err)
	for line := range strings.Lines(string(data)) {
		fields := strings.SplitN(line, " ", 3)
		if len(fields) != 3 {
			e.Fatalf("a hook wrote %q", line)
		}
		n := noted{Name: fields[0], Cwd: fields[1]}
		e.must(json.Unmarshal([]byte(fields[2]), &n.State))
		lines = append(lines, n)
	}
	return lines
}

// ran compares the names of the hooks that ran.
func (e *env) ran(want ...string) {
	e.Helper()
	var got []string
	for _, n := range e.noted() {
		got = append(got, n.Name)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		e.Errorf("hooks: %s", diff)
	}
}

// hookFields are the fields of all hooks but their timeouts.
func hookFields() (fields []string) {
	for _, kind := range kinds {
		for _, field := range []string{"path", "args", "env"} {
			fields = append(fields, "hooks."+kind+"[]."+field)
		}
	}
	return fields
}

// failing is a case whose hook of a kind fails, with what is wanted of the operation that it fails.
func failing(kind string, c testCase) testCase {
	c.name = kind + " fails"
	c.set = func(e *env, s *specs.Spec) {
		addHook(e, s, kind, note(kind)+"; echo bad luck >&2; exit 3")
		addHook(e, s, kind, note("after"))
		addHook(e, s, "poststop", note("poststop"))
	}
	c.after = func(e *env) { e.ran(kind, "poststop") }
	return c
}

// slow is a case whose hook of a kind takes longer than it may.
func slow(kind string, c testCase) testCase {
	c.name = kind + " takes too long"
	c.fields = []string{"hooks." + kind + "[].timeout"}
	c.set = func(e *env, s *specs.Spec) {
		addHook(e, s, kind, "exec sleep 100").Timeout = new(1)
	}
	return c
}

func hookCases() []testCase {
	return []testCase{
		{
			name:   "all, each in its turn",
			fields: hookFields(),
			set: func(e *env, s *specs.Spec) {
				for _, kind := range slices.Backward(kinds) {
					addHook(e, s, kind, note(kind))
					addHook(e, s, kind, note(kind+"-2"))
				}
				s.Mounts = append(s.Mounts, mount("/log", "bind", e.dir, "bind"))
				s.Annotations["org.example.key"] = "value"
				s.Process.Args = []string{"sh", "-c", `echo "process $(pwd) {}" >> /log/log; sleep 100000`}
				if e.h.engine.inProcess() { // runc runs it in create, before the process
					addHook(e, s, "poststart", `until grep -q ^process $LOG; do sleep 0.01; done`)
				}
			},
			check: func(e *env, c *container) {
				testkit.Await(e.T, patience, "the process runs", func() bool {
					log, _ := os.ReadFile(e.path("log"))
					return strings.Contains(string(log), "\nprocess ")
				})
				e.hooksOf(c)
			},
			after: func(e *env) {
				order := kinds
				if !e.h.engine.inProcess() {
					order = []string{"prestart", "createRuntime", "createContainer", "poststart", "startContainer", "poststop"}
				}
				want := []string{}
				for _, kind := range order {
					want = append(want, kind, kind+"-2")
				}
				var got []string
				for _, n := range e.noted() {
					if n.Name != "process" { // its place is seen to by the last poststart hook
						got = append(got, n.Name)
					}
				}
				if diff := cmp.Diff(want, got); diff != "" {
					e.Errorf("hooks: %s", diff)
				}
				lines := e.noted()
				last := lines[len(lines)-1]
				if last.State.Status != specs.StateStopped || last.State.Pid != 0 {
					e.Errorf("poststop was told %+v", last)
				}
			},
		},
		{
			name: "where they run", by: inProcess,
			set: func(e *env, s *specs.Spec) {
				for _, kind := range kinds {
					addHook(e, s, kind, note(kind))
				}
			},
			check: func(e *env, c *container) { e.bundle = c.Bundle() },
			after: func(e *env) {
				for _, n := range e.noted() {
					want := e.bundle
					if n.Name == "startContainer" || n.Name == "createContainer" {
						want = n.Cwd // the spec does not say
					}
					if n.Cwd != want || n.State.Bundle != e.bundle {
						e.Errorf("%s ran in %s and was told %s, the bundle is %s", n.Name, n.Cwd, n.State.Bundle, e.bundle)
					}
				}
			},
		},
		{
			name: "namespaces of the runtime and of the container",
			set: func(e *env, s *specs.Spec) {
				s.Hostname = "inside"
				for _, kind := range kinds {
					addHook(e, s, kind, `echo "`+kind+` $(readlink /proc/self/ns/net) {}" >> $LOG`)
				}
			},
			check: func(e *env, c *container) {
				own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", c.pid))
				e.must(err)
				e.bundle = own
			},
			after: func(e *env) {
				for _, n := range e.noted() {
					inside := n.Name == "createContainer" || n.Name == "startContainer"
					if (n.Cwd == e.bundle) != inside {
						e.Errorf("%s ran in %s, the container's is %s", n.Name, n.Cwd, e.bundle)
					}
				}
			},
		},
		failing("prestart", testCase{createFails: "prestart"}),
		failing("createRuntime", testCase{createFails: "bad luck"}),
		failing("createContainer", testCase{createFails: "bad luck"}),
		failing("startContainer", testCase{startFails: "startContainer", by: inProcess}),
		failing("poststart", testCase{startFails: "bad luck", by: inProcess}),
		{
			name: "poststop fails, and the others run all the same", by: inProcess,
			set: func(e *env, s *specs.Spec) {
				addHook(e, s, "poststop", note("first")+"; echo bad luck >&2; exit 3")
				addHook(e, s, "poststop", note("second"))
			},
			check: func(*env, *container) {},
			after: func(e *env) { e.ran("first", "second") },
			log:   "bad luck",
		},
		slow("prestart", testCase{createFails: "hook ran past specified timeout"}),
		slow("createRuntime", testCase{createFails: "hook ran past specified timeout"}),
		slow("createContainer", testCase{createFails: "hook ran past specified timeout"}),
		slow("startContainer", testCase{startFails: "startContainer", by: inProcess}),
		slow("poststart", testCase{startFails: "hook ran past specified timeout", by: inProcess}),
		slow("poststop", testCase{check: func(*env, *container) {}, log: "poststop", by: inProcess}),
		{
			name: "a hook that is missing",
			set: func(e *env, s *specs.Spec) {
				s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: e.path("missing")}}}
			},
			createFails: "missing",
		},
		{
			name: "without an environment of its own startContainer has the container's",
			set: func(e *env, s *specs.Spec) {
				s.Process.Env = append(s.Process.Env, "LOG=/log/log", "GREETING=hello")
				addHook(e, s, "startContainer", `echo "$GREETING / {}" >> $LOG`).Env = nil
			},
			script: "true",
			after:  func(e *env) { e.ran("hello") }, by: inProcess,
		},
	}
}

// hooksOf looks at what the hooks of a running container were told.
func (e *env) hooksOf(c *container) {
	e.Helper()
	status := map[string][]specs.ContainerState{
		"prestart": {specs.StateCreating}, "createRuntime": {specs.StateCreating}, "createContainer": {specs.StateCreating},
		"startContainer": {specs.StateCreated}, "poststart": {specs.StateRunning},
	}
	if !c.h.engine.inProcess() { // which say what they think right
		status["createContainer"] = append(status["createContainer"], specs.StateCreated)
		status["poststart"] = append(status["poststart"], specs.StateCreated)
	}
	for _, n := range e.noted() {
		kind := strings.TrimSuffix(n.Name, "-2")
		if kind == "process" {
			continue
		}
		s := n.State
		inside := kind == "createContainer" || kind == "startContainer"
		if s.ID != c.ID() || s.Bundle != c.Bundle() || s.Version == "" || s.Annotations["org.example.key"] != "value" ||
			!slices.Contains(status[kind], s.Status) || s.Pid != c.pid && !inside {
			e.Errorf("%s was told %+v; the pid is %d", n.Name, s, c.pid)
		}
	}
}

// A container whose shim was killed has its poststop hooks run by delete.
func poststopAfterKilledShim(t *testing.T, h *host) {
	testkit.RequireRoot(t)
	e := &env{T: t, h: h, dir: publicDir(t)}
	spec := h.spec("sleep", "100000")
	delete(spec.Annotations, "io.containerd.runc.v2.group") // a shim of its own
	addHook(e, spec, "poststop", note("poststop"))
	c := h.run(t, spec, nil, nil)
	bundle := c.Bundle()
	e.must(syscall.Kill(c.PID(), syscall.SIGKILL))
	<-c.Done()
	if _, err := h.Delete(t.Context(), c.Shim); err != nil {
		t.Error(err)
	}
	h.gone(t, c.ID(), spec)
	lines := e.noted()
	if len(lines) != 1 || lines[0].State.Status != specs.StateStopped || lines[0].State.ID != c.ID() ||
		lines[0].Cwd != bundle || lines[0].State.Bundle != bundle {
		t.Errorf("hooks: %+v, the bundle is %s", lines, filepath.Clean(bundle))
	}
}
