package cgroup

import (
	"os"
	"path/filepath"
	"testing"
)

// What a kill leaves behind when the group that it was counted in is gone.
func TestOOMOfAGroupThatIsGone(t *testing.T) {
	const before, after = "oom_kill 5\n", "oom_kill 6\n"
	for name, test := range map[string]struct {
		group   string // its name
		parent  string // what is counted above in the end
		sibling string // and beside
		shot    bool
		stays   bool
		wantOOM bool
	}{
		"killed":                  {group: "a.scope", parent: after, sibling: "oom_kill 2\n", shot: true, wantOOM: true},
		"killed by somebody else": {group: "a.scope", parent: after, sibling: "oom_kill 2\n"},
		"a sibling's":             {group: "a.scope", parent: after, sibling: "oom_kill 3\n", shot: true},
		"none":                    {group: "a.scope", parent: before, sibling: "oom_kill 2\n", shot: true},
		"still there":             {group: "a.scope", parent: after, sibling: "oom_kill 2\n", shot: true, stays: true},
		"not systemd's":           {group: "a", parent: after, sibling: "oom_kill 2\n", shot: true},
	} {
		root := files(t, map[string]string{
			"memory.events":               before,
			"b.scope/memory.events":       "oom_kill 2\n",
			test.group + "/memory.events": "oom_kill 0\n",
		})
		own := filepath.Join(root, test.group)
		w := Group{"": own}.OOMs()
		write := func(path, text string) {
			if err := os.WriteFile(filepath.Join(root, path), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write("memory.events", test.parent)
		write("b.scope/memory.events", test.sibling)
		if !test.stays {
			if err := os.RemoveAll(own); err != nil {
				t.Fatal(err)
			}
		}
		for i, want := range []bool{test.wantOOM, false} {
			if got := w.Exited(test.shot); got != want {
				t.Errorf("%s: exit %d: OOM %t, want %t", name, i, got, want)
			}
		}
	}
}
