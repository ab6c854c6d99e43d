package daemon_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// A logging binary has all of the output of a container that ctr has run with it, and the container's name.
func TestRunWithLogger(t *testing.T) {
	d := newDaemon(t)
	logger := d.path("logger")
	script := `#!/bin/sh
[ "$1" = to ] || exit 1
echo "$CONTAINER_NAMESPACE/$CONTAINER_ID" >"$2.who"
cat <&3 5>&- >"$2.out" & cat <&4 5>&- >"$2.err" &
printf x >&5
exec 5>&-
wait
`
	if err := os.WriteFile(logger, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, scheme := range []string{"binary", "binary-v2"} {
		to := d.path(scheme)
		uri := fmt.Sprintf("%s://%s?to=%s", scheme, logger, to)
		got := d.run(d.rootfsRun([]string{"--rm", "--log-uri", uri}, scheme, "sh", "-c", "seq 3; echo err >&2; exit 5")...)
		if got.status != 5 || got.stdout != "" {
			t.Errorf("%s: got %+v, want status 5", scheme, got)
		}
		for name, want := range map[string]string{"who": d.ns + "/" + scheme + "\n", "out": "1\n2\n3\n", "err": "err\n"} {
			if text, err := os.ReadFile(to + "." + name); err != nil || string(text) != want {
				t.Errorf("%s of %s: %q, %v, want %q", name, scheme, text, err, want)
			}
		}
	}
	got := d.run(d.rootfsRun([]string{"--rm", "--log-uri", "binary://" + filepath.Dir(logger) + "/nosuch"}, "nosuch", "true")...)
	if got.status == 0 {
		t.Errorf("a container runs without its logger: %+v", got)
	}
}
