package container

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/runc/libcontainer/capabilities"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/seccomp"
	"github.com/opencontainers/runc/libcontainer/specconv"
	runcfeatures "github.com/opencontainers/runc/types/features"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/shimwright/shimwright/internal/engine"
	"github.com/shimwright/shimwright/internal/options"
)

// Info describes the runtime with the features of the OCI runtime spec; the version is for the shim to say.
// ErrInvalidArgument: opts cannot be used.
func (e *Engine) Info(_ context.Context, opts *anypb.Any) (*types.RuntimeInfo, error) {
	o, err := options.Decode(opts)
	if err != nil {
		return nil, err
	}
	if err := own(o); err != nil {
		return nil, err
	}
	data, err := json.Marshal(ociFeatures())
	if err != nil {
		return nil, fmt.Errorf("features: %w", err)
	}
	return &types.RuntimeInfo{
		Name:     engine.Name,
		Options:  opts,
		Features: &anypb.Any{TypeUrl: engine.FeaturesURL, Value: data},
	}, nil
}

// ociFeatures are what `runc features` shows for the libcontainer that is linked in.
func ociFeatures() *features.Features {
	yes := new(true)
	f := &features.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: specs.Version,
		Hooks:         configs.KnownHookNames(),
		MountOptions:  specconv.KnownMountOptions(),
		Linux: &features.Linux{
			Namespaces:      specconv.KnownNamespaces(),
			Capabilities:    capabilities.KnownCapabilities(),
			Cgroup:          &features.Cgroup{V1: yes, V2: yes, Systemd: yes, SystemdUser: yes, Rdma: yes},
			Apparmor:        &features.Apparmor{Enabled: yes},
			Selinux:         &features.Selinux{Enabled: yes},
			IntelRdt:        &features.IntelRdt{Enabled: yes, Schemata: yes, Monitoring: yes},
			MemoryPolicy:    &features.MemoryPolicy{Modes: specconv.KnownMemoryPolicyModes(), Flags: specconv.KnownMemoryPolicyFlags()},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: yes}},
			NetDevices:      &features.NetDevices{Enabled: yes},
		},
		Annotations:                        map[string]string{runcfeatures.AnnotationRuncCheckpointEnabled: "true"},
		PotentiallyUnsafeConfigAnnotations: []string{"bundle", "org.systemd.property.", "org.criu.config"},
	}
	if v := libcontainerVersion(); v != "" {
		f.Annotations[runcfeatures.AnnotationRuncVersion] = v
	}
	if seccomp.Enabled {
		f.Linux.Seccomp = &features.Seccomp{
			Enabled:        yes,
			Actions:        seccomp.KnownActions(),
			Operators:      seccomp.KnownOperators(),
			Archs:          seccomp.KnownArchs(),
			KnownFlags:     seccomp.KnownFlags(),
			SupportedFlags: seccomp.SupportedFlags(),
		}
		major, minor, patch := seccomp.Version()
		f.Annotations[runcfeatures.AnnotationLibseccompVersion] = fmt.Sprintf("%d.%d.%d", major, minor, patch)
	}
	return f
}

// libcontainerVersion is the version of runc that libcontainer is part of; empty if it is not known.
func libcontainerVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == "github.com/opencontainers/runc" {
				return strings.TrimPrefix(m.Version, "v")
			}
		}
	}
	return ""
}
