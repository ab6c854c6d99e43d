package spec_test

import "testing"

func TestLibcontainer(t *testing.T) { runAll(t, engine{name: "libcontainer"}) }

func TestRunc(t *testing.T) { runAll(t, engine{name: "runc", binary: lookPath(t, "runc")}) }

func runAll(t *testing.T, e engine) {
	h := newHost(t, e)
	h.runTables()
	t.Run("poststop after a killed shim", func(t *testing.T) { poststopAfterKilledShim(t, h) })
}
