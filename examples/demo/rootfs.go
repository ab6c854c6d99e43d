package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// program is what the container runs: it looks around, waits for a line on stdin and ends with 7.
const program = `#!/bin/sh
echo "host   $(hostname)"
echo "kernel $(uname -sr)"
echo "user   $(id)"
ps
read line
echo "stdin  $line"
exit 7
`

// makeRootfs makes a root file system of busybox and program in dir and tells how many commands busybox has.
func makeRootfs(ctx context.Context, dir, busybox string) (applets int, err error) {
	for _, name := range []string{"bin", "dev", "etc", "proc", "root", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return 0, err
		}
	}
	binary, err := os.ReadFile(busybox)
	if err != nil {
		return 0, err
	}
	for name, data := range map[string][]byte{
		"bin/busybox": binary,
		"bin/demo":    []byte(program),
		"etc/passwd":  []byte("root:x:0:0:root:/root:/bin/sh\n"),
		"etc/group":   []byte("root:x:0:\n"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o755); err != nil {
			return 0, err
		}
	}
	list, err := exec.CommandContext(ctx, busybox, "--list").Output()
	if err != nil {
		return 0, err
	}
	for name := range bytes.FieldsSeq(list) {
		if string(name) == "busybox" {
			continue
		}
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", string(name))); err != nil {
			return 0, err
		}
		applets++
	}
	return applets, nil
}

// spec is a container that runs program in namespaces of its own, in the bundle's rootfs.
func spec(id string) *specs.Spec {
	return &specs.Spec{
		Version:  specs.Version,
		Hostname: "shimwright",
		Root:     &specs.Root{Path: "rootfs"},
		Process:  process("/bin/demo"),
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=64k"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=1777"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/" + id,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.MountNamespace},
				{Type: specs.NetworkNamespace},
			},
			Resources:     &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}},
			MaskedPaths:   []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}

func process(args ...string) *specs.Process {
	caps := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_SETGID", "CAP_SETUID"}
	return &specs.Process{
		Args:            args,
		Cwd:             "/",
		Env:             []string{"PATH=/bin"},
		NoNewPrivileges: true,
		Capabilities:    &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
	}
}
