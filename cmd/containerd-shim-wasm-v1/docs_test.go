package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/shimwright/shimwright/internal/testkit"
	wasmv1 "github.com/shimwright/shimwright/protos/wasm/v1"
)

// docs/WASM.md has every option and every annotation, and no other.
func TestDocumented(t *testing.T) {
	root, err := testkit.Root()
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(root, "docs/WASM.md"))
	if err != nil {
		t.Fatal(err)
	}
	section := func(name string) string {
		m := regexp.MustCompile(`(?s)\n## ` + name + `\n(.*?)\n## `).FindSubmatch(page)
		if m == nil {
			t.Fatalf("no section %s", name)
		}
		return string(m[1])
	}
	rows := func(text string) (all []string) {
		for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(text, -1) {
			all = append(all, m[1])
		}
		slices.Sort(all)
		return all
	}
	var options []string
	fields := (&wasmv1.Options{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		options = append(options, string(fields.Get(i).Name()))
	}
	slices.Sort(options)
	if got := rows(section("Options")); !slices.Equal(got, options) {
		t.Errorf("documented options %q, there are %q", got, options)
	}
	annotations := []string{annotationListen, annotationPreopens, "module.wasm.image/variant", "run.oci.handler"}
	if got := rows(section("Annotations")); !slices.Equal(got, annotations) {
		t.Errorf("documented annotations %q, there are %q", got, annotations)
	}
}
