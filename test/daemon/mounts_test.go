package daemon_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/shimwright/shimwright/internal/testkit"
)

const image = "docker.io/library/shimwright-test:latest"

// writeImage makes an archive of an image of one layer, as `docker save` does: the test's root file system, all of
// it root's.
func (d *daemon) writeImage() (path string) {
	d.t.Helper()
	dir := d.path("image")
	must := func(err error) {
		d.t.Helper()
		if err != nil {
			d.t.Fatal(err)
		}
	}
	pack := func(archive, from string) {
		d.t.Helper()
		out, err := exec.Command("tar", "--numeric-owner", "--owner", "0", "--group", "0", "-C", from, "-cf", archive, ".").CombinedOutput()
		if err != nil {
			d.t.Fatalf("tar: %v\n%s", err, out)
		}
	}
	must(os.Mkdir(dir, 0o700))
	pack(dir+"/layer.tar", d.rootfs)
	layer, err := os.ReadFile(dir + "/layer.tar")
	must(err)
	write := func(name string, v any) {
		d.t.Helper()
		text, err := json.Marshal(v)
		must(err)
		must(os.WriteFile(dir+"/"+name, text, 0o600))
	}
	write("config.json", map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Env": []string{"PATH=/bin"}, "Cmd": []string{"sh"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
	})
	write("manifest.json", []map[string]any{{"Config": "config.json", "RepoTags": []string{image}, "Layers": []string{"layer.tar"}}})
	pack(d.path("image.tar"), dir)
	return d.path("image.tar")
}

// reconfigure starts the daemon anew with the snapshotters on disks: erofs layers with a disk of their own for what is
// written, and whole images on disks.
func (d *daemon) reconfigure() {
	d.t.Helper()
	d.stop(syscall.SIGTERM)
	scratch := d.path("scratch")
	for _, args := range [][]string{{"truncate", "-s", "16M", scratch}, {"mkfs.ext4", "-q", scratch}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			d.t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	config, err := os.ReadFile(d.path("config.toml"))
	if err != nil {
		d.t.Fatal(err)
	}
	text := strings.NewReplacer(`, "io.containerd.snapshotter.v1.blockfile"`, "", `, "io.containerd.snapshotter.v1.erofs"`, "").Replace(string(config))
	text += fmt.Sprintf(`
[plugins."io.containerd.snapshotter.v1.erofs"]
  default_size = "16MiB"
[plugins."io.containerd.snapshotter.v1.blockfile"]
  scratch_file = %q
  fs_type = "ext4"
`, scratch)
	if err := os.WriteFile(d.path("config.toml"), []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
	if err := os.Chmod(d.dir, 0o711); err != nil { // users of a namespace pass through
		d.t.Fatal(err)
	}
	d.start()
}

// Containers run on what each snapshotter hands out, and leave no mount and no loop device: not when they are removed,
// and not when their shim is killed.
func TestSnapshotters(t *testing.T) {
	for _, tool := range []string{"mkfs.erofs", "mkfs.ext4", "tar"} {
		if _, err := exec.LookPath(tool); err != nil {
			testkit.Missing(t, "needs %s (make deps)", tool)
		}
	}
	d := newDaemonOf(t, releases[len(releases)-1], "info") // older ones have fewer
	d.reconfigure()
	archive := d.writeImage()
	mapped := []string{"--uidmap", "0:100000:65536", "--gidmap", "0:200000:65536", "--remap-labels"}
	for _, test := range []struct {
		name, snapshotter string
		options           []string
		want              string
	}{
		{"overlay", "overlayfs", nil, "overlay 0 0\n"},
		{"mapped-overlay", "overlayfs", mapped, "overlay 0 0\n"},
		{"erofs", "erofs", nil, "overlay 0 0\n"},
		{"blockfile", "blockfile", nil, "ext4 0 0\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			d.ok("images", "import", "--local", "--snapshotter", test.snapshotter, archive)
			create := func(id string, options []string, command ...string) []string {
				args := append([]string{"run", "--runtime", "io.containerd.runc.v2", "--snapshotter", test.snapshotter, "--fifo-dir", d.path("fifo")}, options...)
				return append(append(append(args, test.options...), image, id), command...)
			}
			r := d.run(create(test.name, []string{"--rm"}, "sh", "-c",
				`echo new > /new && while read d m t o; do [ $m = / ] && k=$t; done < /proc/mounts; echo $k $(stat -c '%u %g' /bin/busybox)`)...)
			if r.stdout != test.want || r.status != 0 {
				t.Errorf("it prints %q, want %q; status %d\n%s", r.stdout, test.want, r.status, r.stderr)
			}
			id := test.name + "-killed"
			d.ok(create(id, []string{"--detach", "--null-io"}, "sleep", "1000")...)
			signal(t, d.shimOf(id), syscall.SIGKILL)
			testkit.Await(t, patience, "removal of "+id, func() bool {
				d.run("task", "rm", "--force", id)
				return len(d.tasks()) == 0
			})
			d.ok("container", "rm", id)
		})
	}
	d.ok("images", "rm", "--sync", image)
}
