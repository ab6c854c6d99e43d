package daemon_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/shimwright/shimwright/internal/testkit"
)

// needCriu ends a test that needs criu where there is none.
func needCriu(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("criu"); err != nil {
		testkit.Missing(t, "needs criu (hack/deps.sh test): %v", err)
	}
	t.Cleanup(func() { os.Remove("/run/criu.kdat.tmp") }) // left by criu where /run is no tmpfs
}

// A container is written to an image of containerd's, and another one goes on from there, with a new root file system.
func TestCheckpointAndRestore(t *testing.T) {
	needCriu(t)
	d := newDaemon(t)
	before := fifos()
	t.Cleanup(func() { // ctr restore leaves them to whoever deletes the task
		for dir := range fifos() {
			if !before[dir] {
				os.RemoveAll(dir)
			}
		}
	})
	w := d.watch()
	d.importImage("example.com/busybox:1")
	d.ok("run", "--detach", "--runtime", "io.containerd.runc.v2", "--log-uri", "file://"+d.path("out"), "example.com/busybox:1", "c",
		"sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; echo $i >/dev/shm/n; sleep 0.05; done")
	count := func(id string) int {
		got := d.exec(id, "count", "cat", "/dev/shm/n")
		n, _ := strconv.Atoi(strings.TrimSpace(got.stdout)) // 0: between truncation and writing
		return n
	}
	testkit.Await(t, patience, "it counts", func() bool { return count("c") > 5 })
	d.ok("container", "checkpoint", "--image", "--task", "c", "example.com/checkpoint:1")
	at := count("c")
	testkit.Await(t, patience, "it goes on", func() bool { return count("c") > at })
	image := d.path("image")
	d.ok("task", "checkpoint", "--exit", "--image-path", image, "--work-path", d.path("work"), "c")
	d.awaitStatus("c", "STOPPED")
	if status := d.remove("c"); status != 137 {
		t.Errorf("the checkpointed task ends with %d, want 137", status)
	}
	for _, file := range []string{filepath.Join(image, "inventory.img"), filepath.Join(d.path("work"), "dump.log")} {
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		}
	}

	d.ok("container", "restore", "--live", "r", "example.com/checkpoint:1")
	if restored := d.tasks()["r"]; restored.status != "RUNNING" || restored.pid == 0 {
		t.Errorf("ctr task ls: %+v", restored)
	}
	n := 0
	testkit.Await(t, patience, "the restored one counts", func() bool { n = count("r"); return n > 0 })
	if n <= 5 {
		t.Errorf("it begins anew: %d", n)
	}
	testkit.Await(t, patience, "the restored one goes on", func() bool { return count("r") > n })
	d.kill("r", "SIGKILL")
	d.awaitStatus("r", "STOPPED")
	d.remove("r")
	w.await("c", "delete(137)")
	events := slices.DeleteFunc(w.of("c"), func(e string) bool { return strings.HasPrefix(e, "count ") })
	want := []string{"create", "start", "paused", "checkpointed", "resumed", "paused", "checkpointed", "exit(137)", "delete(137)"}
	if !slices.Equal(events, want) {
		t.Errorf("events %s, want %s", strings.Join(events, ", "), strings.Join(want, ", "))
	}
}

// fifos are the directories in which ctr makes FIFOs if nobody names another place.
func fifos() map[string]bool {
	dirs := make(map[string]bool)
	entries, err := os.ReadDir("/run/containerd/fifo")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		panic(err)
	}
	for _, e := range entries {
		dirs[filepath.Join("/run/containerd/fifo", e.Name())] = true
	}
	return dirs
}

// importImage gives the daemon an image of one layer, the test's root file system.
func (d *daemon) importImage(name string) {
	d.t.Helper()
	layer, err := exec.Command("tar", "-C", d.rootfs, "-c", ".").Output()
	if err != nil {
		d.t.Fatal(err)
	}
	var all bytes.Buffer
	w := tar.NewWriter(&all)
	add := func(name string, data []byte) {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
			d.t.Fatal(err)
		}
		w.Write(data)
	}
	type object = map[string]any
	blob := func(mediaType string, data []byte) object {
		digest := fmt.Sprintf("%x", sha256.Sum256(data))
		add("blobs/sha256/"+digest, data)
		return object{"mediaType": mediaType, "digest": "sha256:" + digest, "size": len(data)}
	}
	encode := func(o object) []byte {
		data, err := json.Marshal(o)
		if err != nil {
			d.t.Fatal(err)
		}
		return data
	}
	const oci = "application/vnd.oci.image."
	top := blob(oci+"layer.v1.tar", layer)
	config := blob(oci+"config.v1+json", encode(object{
		"architecture": runtime.GOARCH, "os": "linux", "config": object{"Env": []string{"PATH=/bin"}},
		"rootfs": object{"type": "layers", "diff_ids": []any{top["digest"]}},
	}))
	manifest := blob(oci+"manifest.v1+json", encode(object{
		"schemaVersion": 2, "mediaType": oci + "manifest.v1+json", "config": config, "layers": []object{top},
	}))
	manifest["annotations"] = object{"io.containerd.image.name": name}
	add("oci-layout", encode(object{"imageLayoutVersion": "1.0.0"}))
	add("index.json", encode(object{"schemaVersion": 2, "manifests": []object{manifest}}))
	if err := w.Close(); err != nil {
		d.t.Fatal(err)
	}
	file := d.path("image.tar")
	if err := os.WriteFile(file, all.Bytes(), 0o600); err != nil {
		d.t.Fatal(err)
	}
	d.ok("images", "import", file)
}
