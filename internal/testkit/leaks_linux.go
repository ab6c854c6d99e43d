package testkit

import (
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// NoLeaks looks at the machine now and again when the test and its later clean-ups are done, and fails
// the test if something is left that was not there: a process (zombies too), a mount, a loop device, a
// cgroup directory, a shim's socket, a runtime's state directory, or in the test's own process a file
// descriptor or a goroutine of the project. What is on its way out has 10 s to go.
//
// Call it before anything is made, after [RequireRoot] if the test needs that. The test cannot be
// parallel: it would see what others make.
func NoLeaks(t testing.TB) {
	t.Helper()
	noLeaks(t, patience)
}

func noLeaks(t testing.TB, settle time.Duration) {
	t.Helper()
	takeTurn(t)
	// Every process that inherits the variable is the test's, whoever its parent is by then. Setenv
	// also refuses parallel tests.
	token := rand.Text()
	t.Setenv(tokenName, token)
	scan := func() state { return look(tokenName + "=" + token) }
	before := scan()
	t.Cleanup(func() {
		t.Helper()
		left := scan().minus(before)
		for deadline := time.Now().Add(settle); len(left) > 0 && time.Now().Before(deadline); {
			time.Sleep(10 * time.Millisecond)
			left = scan().minus(before)
		}
		if len(left) > 0 {
			t.Errorf("left behind:\n\t%s", strings.Join(left, "\n\t"))
		}
	})
}

const tokenName = "SHIMWRIGHT_TEST_TOKEN"

// A state is what could be left behind: by identity, how many there are and what to call them.
type state map[string]thing

type thing struct {
	count int
	name  string
}

// add counts one more of the thing with that identity.
func (s state) add(id, format string, args ...any) {
	s[id] = thing{s[id].count + 1, fmt.Sprintf(format, args...)}
}

// minus names, in order, what s has more of than before.
func (s state) minus(before state) []string {
	var names []string
	for _, id := range slices.Sorted(maps.Keys(s)) {
		for range s[id].count - before[id].count {
			names = append(names, s[id].name)
		}
	}
	return names
}

// look takes stock. Processes that inherited the variable token count as the test's.
func look(token string) state {
	s := make(state)
	addProcesses(s, token)
	addMounts(s)
	addLoops(s)
	addSockets(s)
	addStateDirs(s)
	addDescriptors(s)
	addGoroutines(s)
	return s
}
