package oci_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"

	"github.com/shimwright/shimwright/internal/bundle"
	"github.com/shimwright/shimwright/internal/enginetest"
	"github.com/shimwright/shimwright/internal/testkit"
	"github.com/shimwright/shimwright/task"
)

func TestDeleteAfterTheShim(t *testing.T) {
	h := enginetest.NewHost(t, runc(t))
	for name, test := range map[string]struct {
		ended, paused, noConfig, tornState, noBinary bool
		unknown                                      bool // how the task ended cannot be known
	}{
		"running":      {},
		"paused":       {paused: true},
		"ended":        {ended: true, unknown: true},
		"no config":    {noConfig: true},
		"torn state":   {tornState: true},
		"no binary":    {noBinary: true},
		"nothing else": {noConfig: true, tornState: true, noBinary: true},
	} {
		for _, own := range []bool{true, false} { // pid namespaces
			t.Run(name, func(t *testing.T) {
				h := h.With(t)
				r, _ := h.Request("c", testkit.Spec(h.Rootfs, "sh", "-c", "sleep 1000 & wait"))
				if !own {
					r.Spec.Linux.Namespaces = h.HostPID().Linux.Namespaces
				}
				binary := filepath.Join(t.TempDir(), "wrapper")
				if err := os.WriteFile(binary, []byte("#!/bin/sh\nexec runc \"$@\"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
				r.Options = h.Options(&runcoptions.Options{BinaryName: binary})
				c := h.Must(r)
				if err := c.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
				enginetest.Await(t, c, 2)
				if err := bundle.WritePID(r.Bundle, c.PID()); err != nil {
					t.Fatal(err)
				}
				if test.ended {
					if err := c.Kill(t.Context(), syscall.SIGKILL, true); err != nil {
						t.Fatal(err)
					}
					enginetest.ExitsWith(t, c, 137)
				}
				if test.paused {
					if err := c.(task.Pauser).Pause(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				if test.noConfig {
					if err := os.Remove(filepath.Join(r.Bundle, bundle.ConfigFile)); err != nil {
						t.Fatal(err)
					}
				}
				if test.tornState {
					if err := os.WriteFile(filepath.Join(h.State("c"), "state.json"), []byte(`{"id":`), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				if test.noBinary {
					if err := os.Remove(binary); err != nil {
						t.Fatal(err)
					}
				}
				e, err := h.After().Delete(t.Context(), "c", r.Bundle)
				if err != nil {
					t.Fatal(err)
				}
				if e.At.IsZero() != test.unknown || !test.unknown && e.Status != 137 {
					t.Errorf("exit %+v", e)
				}
				h.NothingLeft(r)
				if !test.ended {
					enginetest.ExitsWith(t, c, 137)
				}
				if e, err := h.After().Delete(t.Context(), "c", r.Bundle); err != nil || !e.At.IsZero() {
					t.Errorf("second delete: %+v, %v", e, err)
				}
			})
		}
	}
}

func TestBinariesThatCannotBeUsed(t *testing.T) {
	h := enginetest.NewHost(t, runc(t))
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"no-such-runtime": "install it",
		"./runc":          "absolute path",
		"/no/such":        "no such file",
		"/dev":            "is a directory",
		plain:             "permission denied",
	} {
		r, _ := h.Request("c", testkit.Spec(h.Rootfs, "true"))
		r.Options = h.Options(&runcoptions.Options{BinaryName: name})
		if _, err := h.Make(t.Context(), r); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v does not say %q", name, err, text)
		}
		if _, err := h.Info(t.Context(), r.Options); !errdefs.IsInvalidArgument(err) {
			t.Errorf("info of %s: %v", name, err)
		}
		h.NothingLeft(r)
	}
}

// The features are the binary's own. One that has none to tell is described without.
func TestInfo(t *testing.T) {
	h := enginetest.NewHost(t, runc(t))
	info, err := h.Info(t.Context(), h.Options(new(runcoptions.Options)))
	if err != nil {
		t.Fatal(err)
	}
	if s := string(info.GetFeatures().GetValue()); info.Name != "io.containerd.runc.v2" || !strings.Contains(s, `"org.opencontainers.runc.version":"1.5.2"`) {
		t.Errorf("info %v", info)
	}
	info, err = h.Info(t.Context(), h.Options(&runcoptions.Options{BinaryName: "/bin/false"}))
	if err != nil || info.Features != nil {
		t.Errorf("features of false: %v, %v", info, err)
	}
}

// A create that is killed at any moment leaves nothing: no state, no cgroup, no process.
func TestKillOfACreateThatHangs(t *testing.T) {
	for name, script := range map[string]string{
		"before": `case "$*" in *" create "*) touch MARK; sleep 1000 & sleep 1000;; esac`,
		"after":  `case "$*" in *" create "*) runc "$@"; touch MARK; sleep 1000;; esac`,
	} {
		t.Run(name, func(t *testing.T) {
			mark := filepath.Join(t.TempDir(), "mark")
			h := enginetest.NewHost(t, wrapped(t, strings.ReplaceAll(script, "MARK", mark)))
			r, _ := h.Request("c", testkit.Spec(h.Rootfs, "true"))
			h.KilledCreate(r, mark)
		})
	}
}
