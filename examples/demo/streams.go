package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// streams are the client's ends of a process's stdio: FIFOs, as clients of containerd make them.
type streams struct {
	stdin, stdout, stderr string // paths
	in                    *os.File
	out                   chan result // two: of stdout, of stderr
}

type result struct {
	text string
	err  error
}

func newStreams(dir string) (*streams, error) {
	s := &streams{
		stdin:  filepath.Join(dir, "stdin"),
		stdout: filepath.Join(dir, "stdout"),
		stderr: filepath.Join(dir, "stderr"),
		out:    make(chan result, 2),
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	for _, path := range []string{s.stdin, s.stdout, s.stderr} {
		if err := unix.Mkfifo(path, 0o600); err != nil {
			return nil, fmt.Errorf("make %s: %w", path, err)
		}
	}
	// Opened for both directions a FIFO waits for no reader.
	in, err := os.OpenFile(s.stdin, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	s.in = in
	for _, path := range []string{s.stdout, s.stderr} {
		go func() { // ends when the last writer has gone, and with the program if none has come
			var r result
			f, err := os.Open(path)
			if err == nil {
				defer f.Close()
				var text []byte
				text, err = io.ReadAll(f)
				r.text = string(text)
			}
			r.err = err
			s.out <- r
		}()
	}
	return s, nil
}

func (s *streams) say(line string) error {
	_, err := fmt.Fprintln(s.in, line)
	return err
}

// output is everything on stdout and stderr, once both have ended.
func (s *streams) output(ctx context.Context) (string, error) {
	var all strings.Builder
	for range 2 {
		select {
		case r := <-s.out:
			if r.err != nil {
				return "", fmt.Errorf("read the output: %w", r.err)
			}
			all.WriteString(r.text)
		case <-ctx.Done():
			return "", fmt.Errorf("wait for the end of the output: %w", ctx.Err())
		}
	}
	return all.String(), nil
}

func (s *streams) close() { s.in.Close() }
