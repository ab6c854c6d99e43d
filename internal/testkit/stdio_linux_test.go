package testkit

import (
	"bufio"
	"os"
	"os/exec"
	"testing"
)

func TestFIFOsReadUntilTheLastWriter(t *testing.T) {
	NoLeaks(t)
	s := FIFOs(t)
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "(echo later; echo oops >&2) & echo first; wait; read line; echo $line")
	var err error
	if cmd.Stdin, err = os.Open(s.Stdin); err != nil {
		t.Fatal(err)
	}
	stdout, err := os.OpenFile(s.Stdout, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := os.OpenFile(s.Stderr, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if _, err := s.In.WriteString("said\n"); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	for _, f := range []*os.File{cmd.Stdin.(*os.File), stdout, stderr} {
		f.Close()
	}
	if got := s.Output(); got != "first\nlater\nsaid\n" && got != "later\nfirst\nsaid\n" {
		t.Errorf("stdout is %q", got)
	}
	if got, want := s.Errors(), "oops\n"; got != want {
		t.Errorf("stderr is %q, want %q", got, want)
	}
}

// FIFOs that nobody opens cost no goroutine.
func TestFIFOsUnused(t *testing.T) {
	NoLeaks(t)
	FIFOs(t)
}

func TestRootfsRuns(t *testing.T) {
	RequireRoot(t)
	NoLeaks(t)
	cmd := exec.CommandContext(t.Context(), "chroot", Rootfs(t), "/bin/sh", "-c", "cat /etc/passwd; exit 7")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	if want := "root:x:0:0:root:/root:/bin/sh\n"; line != want {
		t.Errorf("first line of /etc/passwd is %q, want %q", line, want)
	}
	if cmd.Wait(); cmd.ProcessState.ExitCode() != 7 {
		t.Errorf("ended with %v, want 7", cmd.ProcessState)
	}
}
