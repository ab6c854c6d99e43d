package spec_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/shimwright/shimwright/internal/testkit"
)

var update = flag.Bool("update", false, "write the tables of docs/SPEC.md anew; reasons that are missing have to be added by hand")

// document is where operators read what is covered.
const document = "docs/SPEC.md"

// walk calls visit with the name of every field of t that Linux has and that holds a value, as config.json names it: an
// array's fields behind "[]", a map's behind "{}".
func walk(t reflect.Type, name string, visit func(name string)) {
	switch t.Kind() {
	case reflect.Pointer:
		walk(t.Elem(), name, visit)
	case reflect.Slice, reflect.Map:
		if t.Elem().Kind() != reflect.Struct {
			visit(name)
			return
		}
		brackets := map[reflect.Kind]string{reflect.Slice: "[]", reflect.Map: "{}"}
		walk(t.Elem(), name+brackets[t.Kind()], visit)
	case reflect.Struct:
		for f := range fields(t) {
			walk(f.Type, nameOf(name, f), visit)
		}
	default:
		visit(name)
	}
}

// fields of a struct that Linux has.
func fields(t reflect.Type) func(func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			f := t.Field(i)
			platform := f.Tag.Get("platform")
			if platform != "" && !slices.Contains(strings.Split(platform, ","), "linux") {
				continue
			}
			if !yield(f) {
				return
			}
		}
	}
}

// nameOf is the name of a field of what is called name.
func nameOf(name string, f reflect.StructField) string {
	key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	switch {
	case key == "": // embedded, and so are its fields
		return name
	case name == "":
		return key
	}
	return name + "." + key
}

// set calls visit with the name of every field that has a value in v.
func set(v reflect.Value, name string, visit func(name string)) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return
		}
		if v.Elem().Kind() != reflect.Struct { // a pointer is there to tell nothing from zero
			visit(name)
			return
		}
		set(v.Elem(), name, visit)
	case reflect.Slice:
		if v.Type().Elem().Kind() != reflect.Struct {
			if v.Len() > 0 {
				visit(name)
			}
			return
		}
		for i := range v.Len() {
			set(v.Index(i), name+"[]", visit)
		}
	case reflect.Map:
		if v.Type().Elem().Kind() != reflect.Struct {
			if v.Len() > 0 {
				visit(name)
			}
			return
		}
		for _, key := range v.MapKeys() {
			set(v.MapIndex(key), name+"{}", visit)
		}
	case reflect.Struct:
		for f := range fields(v.Type()) {
			field := v.FieldByIndex(f.Index)
			if strings.Contains(name, "[]") && !strings.Contains(f.Tag.Get("json"), ",omitempty") && number(field) {
				visit(nameOf(name, f)) // 0 is a number too, and is said
				continue
			}
			set(field, nameOf(name, f), visit)
		}
	default:
		if !v.IsZero() {
			visit(name)
		}
	}
}

func number(v reflect.Value) bool { return v.CanInt() || v.CanUint() }

// all are the fields of a spec on Linux.
func all() (names []string) {
	walk(reflect.TypeFor[specs.Spec](), "", func(name string) { names = append(names, name) })
	return names
}

// covers tells whether a claim is about a field: it is its name or that of something around it.
func covers(claim, field string) bool {
	rest, ok := strings.CutPrefix(field, claim)
	return ok && (rest == "" || strings.ContainsAny(rest[:1], ".[{"))
}

// claims are, for each field, the tests that exercise it; refused is whether all of them see it refused.
type claims struct {
	tests   []string
	refused bool
}

// claimed collects what the cases say they exercise, and fails the test if it is not so.
func claimed(t *testing.T) map[string]claims {
	t.Helper()
	names := all()
	found := make(map[string]claims)
	for _, table := range tables() {
		for _, c := range table.cases {
			spec := c.spec(&env{T: t, h: &host{rootfs: "/rootfs"}, dir: "/dir", ns: 1}, plain())
			has := make(map[string]bool)
			set(reflect.ValueOf(spec), "", func(name string) { has[name] = true })
			for _, claim := range c.fields {
				hits := 0
				for _, name := range names {
					if !covers(claim, name) {
						continue
					}
					hits++
					if !has[name] {
						t.Errorf("%s/%s claims %s and does not set %s", table.subject, c.name, claim, name)
					}
					f, there := found[name]
					f.refused = (f.refused || !there) && (c.createFails != "" || c.startFails != "")
					f.tests = append(f.tests, table.subject+"/"+c.name)
					found[name] = f
				}
				if hits == 0 {
					t.Errorf("%s/%s claims %s, which the spec does not have", table.subject, c.name, claim)
				}
			}
		}
	}
	return found
}

// plain is the spec that cases change, without a machine.
func plain() *specs.Spec {
	s := testkit.Spec("/rootfs", "true")
	s.Annotations = make(map[string]string)
	return s
}

// reasons are the lines of the document's last table: fields that no test exercises, and why.
func reasons(text string) map[string]string {
	found := make(map[string]string)
	_, table, _ := strings.Cut(text, notTested)
	for line := range strings.Lines(table) {
		if cells := strings.Split(line, "|"); len(cells) == 4 && strings.HasPrefix(cells[1], " `") {
			found[strings.Trim(cells[1], " `")] = strings.TrimSpace(cells[2])
		}
	}
	return found
}

const (
	tested    = "## Tested\n"
	notTested = "## Not tested\n"
)

// TestEveryFieldIsTestedOrExplained holds docs/SPEC.md to the tests and to the types of the runtime spec.
func TestEveryFieldIsTestedOrExplained(t *testing.T) {
	if os.Getenv("SHIMWRIGHT_TEST_BIN") != "" {
		return // the sources are elsewhere, where this is run too
	}
	root, err := testkit.Root()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, document)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found, why := claimed(t), reasons(string(data))
	for _, name := range slices.Sorted(maps.Keys(why)) {
		if _, ok := found[name]; ok {
			t.Errorf("%s gives a reason why %s is not tested, but it is", document, name)
		}
		if !slices.Contains(all(), name) {
			t.Errorf("%s gives a reason for %s, which the spec does not have", document, name)
		}
	}
	head, _, _ := strings.Cut(string(data), tested)
	want := head + markdown(found, why)
	for _, name := range all() {
		if _, ok := found[name]; !ok && why[name] == "" {
			t.Errorf("%s is neither tested nor explained in %s", name, document)
		}
	}
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if string(data) != want {
		t.Errorf("%s is not what the tests say: go test ./test/spec -run %s -update", document, t.Name())
	}
}

// markdown are the document's tables.
func markdown(found map[string]claims, why map[string]string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n| field | by |\n| --- | --- |\n", tested)
	for _, name := range all() {
		f, ok := found[name]
		if !ok {
			continue
		}
		note := ""
		if f.refused {
			note = " (that it is refused with a clear error)"
		}
		slices.Sort(f.tests)
		fmt.Fprintf(&b, "| `%s` | %s%s |\n", name, strings.Join(slices.Compact(f.tests), "; "), note)
	}
	fmt.Fprintf(&b, "\n%s\n| field | because |\n| --- | --- |\n", notTested)
	for _, name := range all() {
		if _, ok := found[name]; !ok {
			fmt.Fprintf(&b, "| `%s` | %s |\n", name, why[name])
		}
	}
	return b.String()
}
