package spec_test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/shimwright/shimwright/internal/testkit"
)

// A testCase is one container: what its spec says, and what has to come of it.
type testCase struct {
	name string

	// fields are those of the spec that the case exercises, by their names in config.json, as docs/SPEC.md has them.
	// A name stands for all below it. set has to set them.
	fields []string

	on      version     // of cgroups
	by      engines     // that run it
	only    func() bool // the machine has, or lacks, what it is about
	prepare func(*env)
	set     func(*env, *specs.Spec) // changes a plain spec; it does nothing else, and works without prepare
	options func(*runcoptions.Options)

	// What comes of it. If createFails and startFails are empty the container runs sh -c script, or what set says.
	script      string
	want        string                 // stdout and stderr, if check is nil
	match       string                 // a regular expression for it, instead of want
	status      int                    // of the end
	check       func(*env, *container) // called while the container runs, which goes on after script
	createFails string                 // a part of the error
	startFails  string
	class       func(error) bool // of the error, where it is the shim that finds it; nil: any
	after       func(*env)       // called when nothing is left of the container
	log         string           // what the shim has to have logged, a part of it
}

// version of cgroups that a case is for.
type version int

const (
	anywhere version = iota
	onV1
	onV2
)

func (v version) here() bool {
	return v == anywhere || (v == onV2) == unified()
}

// engines that a case is for.
type engines func(engine) bool

func inProcess(e engine) bool { return e.inProcess() }

// env is what a case runs in.
type env struct {
	*testing.T
	h   *host
	dir string // the case's own, for anybody to enter

	bundle string // what check found out for after
	ns     int    // the pid of a process in namespaces of its own, if unshared was called

	listened chan notified // what a seccomp listener was told, if answerMkdir was called
}

// path of a file of the case's.
func (e *env) path(name string) string { return filepath.Join(e.dir, name) }

// must fails the test if one of errs is an error.
func (e *env) must(errs ...error) {
	e.Helper()
	if err := errors.Join(errs...); err != nil {
		e.Fatal(err)
	}
}

// publicDir is a directory of the test's that anybody may enter.
func publicDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	public(t, dir)
	return dir
}

// public lets anybody enter dir and those above it.
func public(t *testing.T, dir string) {
	t.Helper()
	for ; strings.HasPrefix(dir, os.TempDir()+"/"); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// patience is how long another process's doing is waited for.
const patience = 10 * time.Second

// table is the cases of one subject.
type table struct {
	subject string
	cases   []testCase
}

// tables are all cases.
func tables() []table {
	return []table{
		{"process", processCases()},
		{"root", rootCases()},
		{"mounts", mountCases()},
		{"namespaces", namespaceCases()},
		{"devices", deviceCases()},
		{"resources", resourceCases()},
		{"seccomp", seccompCases()},
		{"hooks", hookCases()},
		{"kernel", kernelCases()},
		{"bad", badCases()},
	}
}

// here tells whether the case is for this engine, cgroup version and machine.
func (c *testCase) here(e engine) bool {
	return c.on.here() && (c.by == nil || c.by(e)) && (c.only == nil || c.only())
}

// run runs every case that is for the engine and the machine, each in a container of its own.
func (h *host) runTables() {
	for _, table := range tables() {
		h.t.Run(table.subject, func(t *testing.T) {
			for _, c := range table.cases {
				if c.here(h.engine) {
					t.Run(c.name, func(t *testing.T) { c.run(t, h) })
				}
			}
		})
	}
}

// spec is the case's, for a container that runs its script.
func (c *testCase) spec(e *env, base *specs.Spec) *specs.Spec {
	script := c.script
	if c.check != nil {
		script += "\nsleep 100000"
	}
	base.Process.Args = []string{"sh", "-c", script}
	if c.set != nil {
		c.set(e, base)
	}
	return base
}

func (c *testCase) run(t *testing.T, h *host) {
	e := &env{T: t, h: h, dir: publicDir(t)}
	if c.prepare != nil {
		c.prepare(e)
	}
	spec := c.spec(e, h.spec())
	io := testkit.FIFOs(t)
	mark := h.log.mark()
	ct, err := h.create(t, spec, io, c.options)
	c.failed(t, h.engine, "create", err, c.createFails)
	if ct != nil {
		c.live(e, ct, io)
	}
	if c.after != nil {
		c.after(e)
	}
	if c.log != "" {
		testkit.Await(t, patience, "the log says "+c.log, func() bool { return strings.Contains(h.log.since(mark), c.log) })
	}
	if t.Failed() {
		t.Log(h.log.since(mark))
	}
}

// live takes a created container through the rest of its life.
func (c *testCase) live(e *env, ct *container, io *testkit.Stdio) {
	defer ct.remove(e.T)
	err := ct.start(e.T, "")
	c.failed(e.T, e.h.engine, "start", err, c.startFails)
	switch {
	case err != nil:
	case c.check != nil:
		c.check(e, ct)
	default:
		c.ends(e.T, ct, io)
	}
}

// failed compares an error with the one that is wanted.
func (c *testCase) failed(t *testing.T, e engine, what string, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Fatalf("%s: %v", what, err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("%s: got %v, want %q", what, err, want)
	case err != nil && c.class != nil && e.inProcess() && !c.class(err):
		t.Errorf("%s: %v is of another class", what, err)
	}
}

// ends waits for the end and compares what the container said.
func (c *testCase) ends(t *testing.T, ct *container, io *testkit.Stdio) {
	t.Helper()
	status := ct.wait(t, "")
	out := io.Output()
	if !ct.spec.Process.Terminal {
		out += io.Errors()
	}
	if status != c.status {
		t.Errorf("exit status %d, want %d; output %q", status, c.status, out)
	}
	out = strings.ReplaceAll(out, "\r\n", "\n")
	if c.match != "" {
		if !regexp.MustCompile(c.match).MatchString(out) {
			t.Errorf("output %q does not match %q", out, c.match)
		}
	} else if strings.TrimSpace(out) != c.want {
		t.Errorf("output %q, want %q", out, c.want)
	}
}
