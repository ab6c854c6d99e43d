package container

import (
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// unmet names the fields of s that say something and that nobody will do: libcontainer passes over them in silence.
func unmet(s *specs.Spec) (fields []string) {
	add := func(said bool, field string) {
		if said {
			fields = append(fields, field)
		}
	}
	user := false
	for _, n := range s.Linux.Namespaces {
		user = user || n.Type == specs.UserNamespace
	}
	add(!user && len(s.Linux.UIDMappings) > 0, "linux.uidMappings")
	add(!user && len(s.Linux.GIDMappings) > 0, "linux.gidMappings")
	r := s.Linux.Resources
	if r == nil || !cgroups.IsCgroup2UnifiedMode() {
		return fields
	}
	if m := r.Memory; m != nil {
		add(m.Swappiness != nil, "linux.resources.memory.swappiness")
		add(m.DisableOOMKiller != nil && *m.DisableOOMKiller, "linux.resources.memory.disableOOMKiller")
	}
	if c := r.CPU; c != nil {
		add(c.RealtimeRuntime != nil && *c.RealtimeRuntime != 0, "linux.resources.cpu.realtimeRuntime")
		add(c.RealtimePeriod != nil && *c.RealtimePeriod != 0, "linux.resources.cpu.realtimePeriod")
	}
	if b := r.BlockIO; b != nil {
		add(b.LeafWeight != nil, "linux.resources.blockIO.leafWeight")
	}
	if n := r.Network; n != nil {
		add(n.ClassID != nil, "linux.resources.network.classID")
		add(len(n.Priorities) > 0, "linux.resources.network.priorities")
	}
	return fields
}
