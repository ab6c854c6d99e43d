package rootfs

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
)

// An idmap shows the owners in a file system as others: uidmap=CONTAINER:HOST:SIZE[,…] and gidmap likewise.
type idmap struct{ uids, gids string }

func (ids *idmap) check() error {
	if ids.uids == "" || ids.gids == "" {
		return invalid("uidmap and gidmap go together")
	}
	for list := range strings.SplitSeq(ids.uids+","+ids.gids, ",") {
		fields := strings.Split(list, ":")
		for _, f := range fields {
			if _, err := strconv.ParseUint(f, 10, 32); err != nil {
				fields = nil
				break
			}
		}
		if len(fields) != 3 || fields[2] == "0" {
			return invalid("id mapping %q is not CONTAINER:HOST:SIZE", list)
		}
	}
	return nil
}

// mount mounts m at at with the mapping. An overlay cannot be mapped; its lower layers are, in scratch. The upper one
// holds what the container writes, with the host's ids.
func (ids *idmap) mount(m *mount.Mount, at, scratch string) error {
	userns, err := mount.GetUsernsFD(ids.uids, ids.gids)
	if err != nil {
		return fmt.Errorf("make a user namespace for the id mapping: %w", err)
	}
	defer userns.Close()
	if m.Type == "overlay" {
		if err := mapLayers(m, scratch, int(userns.Fd())); err != nil {
			return err
		}
		return mountAt(m, at)
	}
	if err := mountAt(m, at); err != nil {
		return err
	}
	// Not left to core/mount, which does not map what is bound read-only.
	if err := mount.IDMapMount(at, at, int(userns.Fd())); err != nil {
		return fmt.Errorf("map ids: %w", err)
	}
	return nil
}

// mapLayers puts mapped copies of an overlay's lower layers in its options.
func mapLayers(m *mount.Mount, scratch string, userns int) error {
	if err := os.Mkdir(scratch, 0o700); err != nil {
		return err
	}
	found := false
	for i, o := range m.Options {
		lowerdir, ok := strings.CutPrefix(o, "lowerdir=")
		if !ok {
			continue
		}
		found = true
		mapped := layers(lowerdir)
		for k, layer := range mapped {
			if layer == "" { // the second of two colons: what follows has only data
				continue
			}
			at := filepath.Join(scratch, strconv.Itoa(k))
			if err := os.Mkdir(at, 0o700); err != nil {
				return err
			}
			if err := mount.IDMapMountWithAttrs(layer, at, userns, unix.MOUNT_ATTR_RDONLY, 0); err != nil {
				return fmt.Errorf("map ids of layer %s: %w", layer, err)
			}
			mapped[k] = at
		}
		m.Options[i] = "lowerdir=" + strings.Join(mapped, ":")
	}
	if !found {
		return invalid("an overlay without lowerdir has nothing to map")
	}
	return nil
}
