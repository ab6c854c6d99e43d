package bundle

import (
	"encoding/json"
	"errors"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// ReadSpec reads config.json; nil if it is missing or holds nothing, as it does for some sandboxes.
// ErrInvalidArgument: it is torn.
func ReadSpec(dir string) (*specs.Spec, error) {
	data, err := readFile(dir, ConfigFile)
	if errors.Is(err, errdefs.ErrNotFound) || err == nil && len(data) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var spec *specs.Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		return nil, torn(ConfigFile, err)
	}
	return spec, nil
}

// Group is the pod that the bundle's container belongs to, by the annotations of config.json: all containers of one
// group share a shim. Empty: none, or config.json is missing or torn. Nothing but the annotations is decoded.
func Group(dir string) string {
	data, err := readFile(dir, ConfigFile)
	if err != nil {
		return ""
	}
	var config struct {
		Annotations map[string]string `json:"annotations"`
	}
	if json.Unmarshal(data, &config) != nil {
		return ""
	}
	for _, key := range [...]string{"io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"} {
		if group := config.Annotations[key]; group != "" {
			return group
		}
	}
	return ""
}
