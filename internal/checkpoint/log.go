package checkpoint

import (
	"bufio"
	"fmt"
	"os"
	"strings"
)

// The names of criu's logs in its work directory, and what they are kept as in a bundle if the work directory is not.
const (
	DumpLog        = "dump.log"
	KeptDumpLog    = "criu-dump.log"
	RestoreLog     = "restore.log"
	KeptRestoreLog = "criu-restore.log"
)

// advice names the options that criu's messages mean, whose names for them are its own.
var advice = []struct{ criu, ours string }{
	{"--tcp-established", "the checkpoint option open_tcp allows it"},
	{"--ext-unix-sk", "the checkpoint option external_unix_sockets allows it"},
	{"--file-locks", "the checkpoint option file_locks allows it"},
	{"--shell-job", "the checkpoint option terminal allows it"},
}

// quoted is how many of a log's errors are quoted, the last ones: before them criu tells of what it can do without.
const quoted = 4

// Explain adds to err, of a criu that failed, where its log is and what that says.
func Explain(err error, log string) error {
	f, oerr := os.Open(log)
	if oerr != nil {
		return fmt.Errorf("%w: `criu check` tells whether criu works with this kernel", err)
	}
	defer f.Close()
	var lines, hints []string
	for s := bufio.NewScanner(f); s.Scan(); {
		line := s.Text()
		if strings.Contains(line, "Error (") {
			lines = append(lines, line)
		}
		for _, a := range advice {
			if strings.Contains(line, a.criu) && len(hints) == 0 {
				hints = append(hints, "; "+a.ours)
			}
		}
	}
	if len(lines) == 0 {
		lines = []string{"no error; `criu check` tells whether criu works with this kernel"}
	}
	lines = lines[max(0, len(lines)-quoted):]
	return fmt.Errorf("%w: %s: %s%s", err, log, strings.Join(lines, " / "), strings.Join(hints, ""))
}
