package checkpoint_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/shimwright/shimwright/internal/checkpoint"
	"github.com/shimwright/shimwright/internal/options"
	"github.com/shimwright/shimwright/task"
)

func pack(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestPathsAreTheRequestsThenTheOptionsThenTheRuntimes(t *testing.T) {
	for _, test := range []struct {
		path, image, work, runtimeImage, runtimeWork string
		wantImage, wantWork                          string
	}{
		{path: "/r", image: "/o", runtimeImage: "/c", wantImage: "/r"},
		{image: "/o/", runtimeImage: "/c", wantImage: "/o"},
		{runtimeImage: "/c", wantImage: "/c"},
		{path: "/r", work: "/w", runtimeWork: "/c", wantImage: "/r", wantWork: "/w"},
		{path: "/r", runtimeWork: "/c", wantImage: "/r", wantWork: "/c"},
	} {
		r := &task.CheckpointRequest{Path: test.path, Options: pack(t, &runcoptions.CheckpointOptions{ImagePath: test.image, WorkPath: test.work})}
		o, err := checkpoint.Decode(r, &options.Options{CriuImagePath: test.runtimeImage, CriuWorkPath: test.runtimeWork})
		if err != nil || o.ImagePath != test.wantImage || o.WorkPath != test.wantWork {
			t.Errorf("%+v: %v, %v", test, o, err)
		}
	}
}

func TestOptionsReachTheEngine(t *testing.T) {
	want := &runcoptions.CheckpointOptions{
		Exit: true, OpenTcp: true, ExternalUnixSockets: true, Terminal: true, FileLocks: true,
		EmptyNamespaces: []string{"network"}, CgroupsMode: "full", ImagePath: "/i", WorkPath: "/w",
	}
	got, err := checkpoint.Decode(&task.CheckpointRequest{Options: pack(t, want)}, new(options.Options))
	if err != nil || !proto.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for _, none := range []*anypb.Any{nil, {}} {
		if o, err := checkpoint.Decode(&task.CheckpointRequest{Path: "/i", Options: none}, new(options.Options)); err != nil || o.Exit {
			t.Errorf("no options: %v, %v", o, err)
		}
	}
}

func TestWhatCannotBeDoneIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		path    string
		options *anypb.Any
		want    error
	}{
		"no path":         {"", nil, errdefs.ErrInvalidArgument},
		"relative path":   {"image", nil, errdefs.ErrInvalidArgument},
		"relative work":   {"/i", pack(t, &runcoptions.CheckpointOptions{WorkPath: "w"}), errdefs.ErrInvalidArgument},
		"other options":   {"/i", pack(t, &runcoptions.Options{}), errdefs.ErrInvalidArgument},
		"torn options":    {"/i", &anypb.Any{TypeUrl: "containerd.runc.v1.CheckpointOptions", Value: []byte{0xff}}, errdefs.ErrInvalidArgument},
		"cgroups mode":    {"/i", pack(t, &runcoptions.CheckpointOptions{CgroupsMode: "hard"}), errdefs.ErrInvalidArgument},
		"empty namespace": {"/i", pack(t, &runcoptions.CheckpointOptions{EmptyNamespaces: []string{"pid"}}), errdefs.ErrInvalidArgument},
		"absolute parent": {"/i", pack(t, &runcoptions.CheckpointOptions{ParentPath: "/p"}), errdefs.ErrInvalidArgument},
		"missing parent":  {"/nosuch/i", pack(t, &runcoptions.CheckpointOptions{ParentPath: "../p"}), errdefs.ErrNotFound},
		"parent a file":   {filepath.Join(filepath.Dir(file), "i"), pack(t, &runcoptions.CheckpointOptions{ParentPath: "../file"}), errdefs.ErrInvalidArgument},
	} {
		_, err := checkpoint.Decode(&task.CheckpointRequest{Path: test.path, Options: test.options}, new(options.Options))
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// image makes what looks like a whole image.
func image(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"inventory.img", checkpoint.DescriptorsFile} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestImageMustBeWhole(t *testing.T) {
	whole, torn := image(t), image(t)
	if err := os.Remove(filepath.Join(torn, "inventory.img")); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		dir  string
		want error
	}{
		{whole, nil},
		{torn, errdefs.ErrInvalidArgument},
		{"relative", errdefs.ErrInvalidArgument},
		{filepath.Join(whole, "inventory.img"), errdefs.ErrInvalidArgument},
		{filepath.Join(whole, "nosuch"), errdefs.ErrNotFound},
	} {
		if err := checkpoint.Image(test.dir, ""); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.dir, err, test.want)
		}
	}
}

func TestImageIsLinkedWithItsParent(t *testing.T) {
	child, parent, other := image(t), image(t), image(t)
	for range 2 { // the second time the link is there
		if err := checkpoint.Image(child, parent); err != nil {
			t.Fatal(err)
		}
	}
	if link, err := os.Readlink(filepath.Join(child, "parent")); err != nil || link != parent {
		t.Errorf("%q, %v", link, err)
	}
	if err := checkpoint.Image(child, other); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("another parent: %v", err)
	}
	if err := os.RemoveAll(parent); err != nil {
		t.Fatal(err)
	}
	if err := checkpoint.Image(child, other); err != nil {
		t.Errorf("the parent has moved: %v", err)
	}
	if err := checkpoint.Image(child, parent); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("no parent: %v", err)
	}
}

func TestCriuIsLookedAtFirst(t *testing.T) {
	for name, test := range map[string]struct{ program, says string }{
		"missing": {"", "install criu"},
		"too old": {"echo Version: 3.13.2", "3.13"},
		"older":   {"echo Version: 2.6", "install criu"},
		"other":   {"echo hello", "hello"},
		"failing": {"exit 1", "exit status 1"},
		"new":     {"echo Version: 4.2.1; echo GitID: v4.2.1", ""},
		"enough":  {"echo Version: 3.14", ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if test.program != "" {
				if err := os.WriteFile(filepath.Join(dir, "criu"), []byte("#!/bin/sh\n"+test.program+"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("PATH", dir)
			_, err := checkpoint.Ready(t.Context())
			if test.says == "" {
				if err != nil {
					t.Error(err)
				}
			} else if !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v, want %q", err, test.says)
			}
		})
	}
}

func TestErrorQuotesTheLogAndNamesTheOption(t *testing.T) {
	log := filepath.Join(t.TempDir(), "dump.log")
	text := `(00.000001) Version: 4.2
(00.059001) Error (criu/sk-inet.c:123): inet: Connected TCP socket, consider using --tcp-established option.
(00.059002) Unlock network
(00.059003) Error (criu/cr-dump.c:2128): Dumping FAILED.
`
	if err := os.WriteFile(log, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	err := checkpoint.Explain(syscall.EIO, log)
	for _, want := range []string{log, "Connected TCP socket", "Dumping FAILED", "open_tcp"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
	if !errors.Is(err, syscall.EIO) || strings.Contains(err.Error(), "Unlock") {
		t.Error(err)
	}
	if err := checkpoint.Explain(syscall.EIO, log+".nosuch"); !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "criu check") {
		t.Error(err)
	}
}

func TestStreamsAreFoundAndHandedOn(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "stdout")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sleep := exec.Command("sleep", "1000")
	sleep.Stdout = f
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		sleep.Process.Kill()
		sleep.Wait()
	}()
	pids := []int{sleep.Process.Pid, 1 << 30}
	if _, err := checkpoint.FindStreams(pids, []string{"/dev/null", "/other", "/other"}); !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), fifo) {
		t.Errorf("a stream that is not the task's: %v", err)
	}
	streams, err := checkpoint.FindStreams(pids, []string{"/dev/null", fifo, fifo})
	if err != nil || len(streams) != 1 {
		t.Fatal(streams, err)
	}
	dir := t.TempDir()
	if err := streams.Save(dir); err != nil {
		t.Fatal(err)
	}
	streams, err = checkpoint.LoadStreams(dir)
	if err != nil || len(streams) == 0 {
		t.Fatal(streams, err)
	}
	base := filepath.Join(dir, "base")
	if err := os.WriteFile(base, []byte("tcp-close"), 0o600); err != nil {
		t.Fatal(err)
	}
	dump, restore := string(streams.DumpConfig(base, checkpoint.Criu{})), string(streams.RestoreConfig(base))
	for _, config := range []string{dump, restore} {
		if !strings.HasPrefix(config, "tcp-close\n") {
			t.Errorf("the base is missing: %q", config)
		}
	}
	if !strings.Contains(dump, "external file[") || !strings.Contains(restore, "inherit-fd fd[1]:ile[") {
		t.Errorf("%q %q", dump, restore)
	}
	if none, err := checkpoint.LoadStreams(t.TempDir()); err != nil || len(none) != 0 {
		t.Errorf("an image of another shim: %v, %v", none, err)
	}
}
