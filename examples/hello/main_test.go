package main_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/shimwright/shimwright/internal/testkit"
	"github.com/shimwright/shimwright/manager"
)

// A third party's shim, built as they would build it and called by a name that the manager has to resolve.
func TestHello(t *testing.T) {
	testkit.NoLeaks(t)
	if source, err := os.ReadFile("main.go"); err != nil || bytes.Count(source, []byte("\n")) > 40 {
		t.Errorf("main.go has %d lines, %v; a shim takes 40 at most", bytes.Count(source, []byte("\n")), err)
	}
	dir, err := os.MkdirTemp("", "hello")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	build := exec.Command("go", "build", "-tags", "no_grpc", "-o", filepath.Join(dir, "bin", "containerd-shim-hello-v1"), ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Setenv("PATH", filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))

	m, err := manager.New(manager.Config{State: dir + "/state", Root: dir + "/root", SocketDir: dir + "/s"})
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan []string)
	go func() { // ends with the manager
		var topics []string
		for e := range m.Events() {
			topics = append(topics, e.Topic)
			if exit, ok := e.Message.(*events.TaskExit); ok && exit.ExitStatus != 0 {
				t.Errorf("exit: %v", exit)
			}
		}
		told <- topics
	}()
	s, err := m.Start(t.Context(), manager.StartRequest{ID: "world", Namespace: "test", Runtime: "io.example.hello.v1"})
	if err != nil {
		t.Fatal(err)
	}
	out := testkit.FIFOs(t)
	if _, err := s.Task().Create(t.Context(), &taskapi.CreateTaskRequest{ID: "world", Bundle: s.Bundle(), Stdout: out.Stdout}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Task().Start(t.Context(), &taskapi.StartRequest{ID: "world"}); err != nil {
		t.Fatal(err)
	}
	if w, err := s.Task().Wait(t.Context(), &taskapi.WaitRequest{ID: "world"}); err != nil || w.ExitStatus != 0 {
		t.Errorf("wait: %v, %v", w, err)
	}
	if got := out.Output(); got != "hello from world\n" {
		t.Errorf("output %q", got)
	}
	if _, err := m.Delete(t.Context(), s); err != nil {
		t.Error(err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if got, want := <-told, []string{"/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"}; !slices.Equal(got, want) {
		t.Errorf("events %v", got)
	}
}
