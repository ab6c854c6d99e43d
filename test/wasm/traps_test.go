package wasm_test

import (
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/shimwright/shimwright/internal/testkit"
)

// What a C program does wrong ends it as an abort does elsewhere, and its stderr says why. Its exit codes are all there.
func TestTraps(t *testing.T) {
	h := newHost(t, testkit.WasmC(t, "testdata/wasm/trap.c"))
	for how, want := range map[string]struct {
		status uint32
		stderr string
	}{
		"unreachable":     {134, "unreachable"},
		"divide":          {134, "divide by zero"},
		"stack":           {134, "out of bounds"}, // its stack is in its memory
		"bounds":          {134, "out of bounds"},
		"abort":           {134, "unreachable"},
		"exit 0x12345678": {0x12345678, ""},
	} {
		t.Run(how, func(t *testing.T) {
			io := testkit.FIFOs(t)
			c := h.run("c1", h.spec(strings.Fields(how)...), io)
			c.wait("", want.status)
			if out, errs := io.Output(), io.Errors(); out != "ready\n" || !strings.Contains(errs, want.stderr) || (errs == "") != (want.stderr == "") {
				t.Errorf("stdout %q, stderr %q", out, errs)
			}
			c.delete(int(want.status))
		})
	}
}

// A guest that takes all that it can get is refused in time, in a small container too.
func TestHog(t *testing.T) {
	h := newHost(t, testkit.WasmC(t, "testdata/wasm/trap.c"))
	io := testkit.FIFOs(t)
	spec := h.spec("hog")
	limit := int64(48 << 20)
	spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit, Swap: &limit}
	c := h.run("c1", spec, io)
	c.wait("", 0)
	if out, errs := io.Output(), io.Errors(); !strings.Contains(out, "MiB, then refused") || errs != "" {
		t.Errorf("stdout %q, stderr %q", out, errs)
	} else {
		t.Log(out)
	}
	c.delete(0)
}
