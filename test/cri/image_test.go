package cri_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/shimwright/shimwright/internal/testkit"
)

const (
	busyboxImage = "localhost/shimwright/busybox:1"
	pauseImage   = "localhost/shimwright/pause:1"
)

// packed is the archive of the images, once a test has made it.
var packed struct {
	sync.Mutex
	images []byte
}

// images is an archive, as `docker save` makes it, of what the tests run.
func images(t *testing.T) []byte {
	t.Helper()
	packed.Lock()
	defer packed.Unlock()
	if packed.images == nil {
		packed.images = pack(t)
	}
	return packed.images
}

func pack(t *testing.T) []byte {
	t.Helper()
	pause := t.TempDir()
	binary, err := os.ReadFile(testkit.Build(t, "./test/cri/pause"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(pause, "pause"), binary, 0o755); err != nil {
		t.Fatal(err)
	}
	a := archive{t: t, files: make(map[string][]byte)}
	a.image(busyboxImage, testkit.Rootfs(t), map[string]any{"Env": []string{"PATH=/bin"}, "Cmd": []string{"sh"}})
	a.image(pauseImage, pause, map[string]any{"Entrypoint": []string{"/pause"}})
	manifest, err := json.Marshal(a.manifest)
	if err != nil {
		t.Fatal(err)
	}
	a.files["manifest.json"] = manifest

	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for name, content := range a.files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// An archive of images is being collected.
type archive struct {
	t        *testing.T
	files    map[string][]byte
	manifest []manifest
}

type manifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// image adds an image of one layer: what is in the directory root, all of it root's.
func (a *archive) image(name, root string, config map[string]any) {
	a.t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		var link string
		if e.Type() == fs.ModeSymlink {
			if link, err = os.Readlink(path); err != nil {
				return err
			}
		}
		h, err := tar.FileInfoHeader(info, link)
		if err != nil {
			return err
		}
		if h.Name, err = filepath.Rel(root, path); err != nil {
			return err
		}
		if err := w.WriteHeader(h); err != nil || !e.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		_, err = w.Write(content)
		return err
	})
	if err != nil {
		a.t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		a.t.Fatal(err)
	}
	digest := sha256.Sum256(layer.Bytes())
	layerName := fmt.Sprintf("%x.tar", digest)
	a.files[layerName] = layer.Bytes()

	text, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config":       config,
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", digest)}},
	})
	if err != nil {
		a.t.Fatal(err)
	}
	configName := fmt.Sprintf("%x.json", sha256.Sum256(text))
	a.files[configName] = text
	a.manifest = append(a.manifest, manifest{configName, []string{name}, []string{layerName}})
}
