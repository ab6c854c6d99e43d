// Package testkit holds what the project's tests share: root file systems, specs, FIFOs, built
// binaries, and a check that a test left nothing behind on the machine.
//
// Tests that need root, a tool or a kernel feature say so through [RequireRoot] or [Missing] and are
// skipped elsewhere; with SHIMWRIGHT_REQUIRE_ALL=1 in the environment they fail instead, so that a
// machine that is meant to run everything cannot pass by skipping.
package testkit

import (
	"os"
	"testing"
	"time"
)

// RequireAll tells whether a test must fail where it would otherwise be skipped.
func RequireAll() bool { return os.Getenv("SHIMWRIGHT_REQUIRE_ALL") == "1" }

// Missing ends the test because the machine lacks something: a skip, or a failure if [RequireAll].
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if RequireAll() {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// Await polls until ok answers true and fails the test if that takes longer than within.
// It is for what cannot be waited for: another process's doing.
func Await(t testing.TB, within time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain: %s", within, what)
		}
	}
}
