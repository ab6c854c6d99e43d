package cgroup

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReverting(t *testing.T) {
	for name, test := range map[string]struct {
		now, was string
		want     []string
	}{
		"value":             {"5\n", "max\n", []string{"max"}},
		"two values":        {"5 10\n", "max 100000\n", []string{"max 100000"}},
		"nothing":           {"0-1\n", "\n", []string{"\n"}},
		"rate":              {"8:0 5\n", "8:0 7\n", []string{"8:0 7"}},
		"rate of another":   {"8:0 5\n8:16 9\n", "8:0 7\n", []string{"8:16 0", "8:0 7"}},
		"no rates":          {"8:0 5\n", "", []string{"8:0 0"}},
		"rates of v2":       {"8:0 rbps=5 wbps=max\n", "", []string{"8:0 rbps=max wbps=max"}},
		"weights of v2":     {"default 7\n8:0 5\n", "default 100\n", []string{"8:0 0", "default 100"}},
		"rdma":              {"mlx4_0 hca_handle=2 hca_object=max\n", "\n", []string{"mlx4_0 hca_handle=max hca_object=max"}},
		"two devices again": {"8:0 5\n", "8:0 5\n8:16 6\n", []string{"8:0 5", "8:16 6"}},
	} {
		if diff := cmp.Diff(test.want, reverting(test.now, test.was)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
