package wasm_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/shimwright/shimwright/internal/testkit"
)

// Programs that others wrote, in Go and C, run as they do elsewhere.
func TestPrograms(t *testing.T) {
	for _, p := range testkit.WasmPrograms {
		t.Run(p.Name, func(t *testing.T) {
			h := newHost(t, testkit.WasmProgram(t, p.Name))
			for name, text := range p.Files {
				if err := os.WriteFile(filepath.Join(h.rootfs, name), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			io := testkit.FIFOs(t)
			c, err := h.create(t.Context(), "c1", h.spec(p.Args...), io)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.In.WriteString(p.Stdin); err != nil {
				t.Fatal(err)
			}
			c.start()
			c.closeStdin(io)
			c.wait("", 0)
			if out, errs := io.Output(), io.Errors(); out != p.Stdout || errs != "" {
				t.Errorf("says %q, %q, want %q", out, errs, p.Stdout)
			}
			c.delete(0)
		})
	}
}
