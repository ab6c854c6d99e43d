package wasm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"github.com/shimwright/shimwright/internal/wasm/wasi"
)

// pageSize is WebAssembly's, in bytes.
const pageSize = 64 << 10

// maxPages is the most memory that a module can have: 4 GiB.
const maxPages = 1 << 16

// features beyond WebAssembly 2.0 that modules may use. Exception handling is left out: wazero 1.12 loses locals in try_table.
const features = api.CoreFeaturesV2 | experimental.CoreFeaturesExtendedConst | experimental.CoreFeaturesTailCall | experimental.CoreFeaturesThreads

// machine is wazero with what every module gets.
type machine struct {
	wazero.Runtime
	cache wazero.CompilationCache
}

// newMachine makes a machine whose modules can have pages of memory at most. Compiled code is looked for, and kept, in
// directory cache; empty: nowhere.
func newMachine(ctx context.Context, cache string, pages uint32) (*machine, error) {
	// Debug information makes loading six times slower.
	config := wazero.NewRuntimeConfigCompiler().WithCoreFeatures(features).WithDebugInfoEnabled(false).WithMemoryLimitPages(pages)
	m := new(machine)
	if cache != "" {
		var err error
		if m.cache, err = wazero.NewCompilationCacheWithDir(cache); err != nil {
			return nil, fmt.Errorf("open the cache of compiled modules: %w", err)
		}
		config = config.WithCompilationCache(m.cache)
	}
	m.Runtime = wazero.NewRuntimeWithConfig(ctx, config)
	if err := wasi.Instantiate(ctx, m.Runtime); err != nil {
		return nil, err
	}
	return m, nil
}

// load compiles a module, or finds it in the cache, and checks that it can be run from function on.
func (m *machine) load(ctx context.Context, module []byte, function string) (wazero.CompiledModule, error) {
	compiled, err := m.CompileModule(ctx, module)
	if err != nil {
		return nil, notCompiled(module, err)
	}
	if err := m.check(compiled, function); err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return compiled, nil
}

// check looks whether everything that the module wants is there, and the function that it is to begin with.
func (m *machine) check(compiled wazero.CompiledModule, function string) error {
	host := m.Module(wasi.Module).ExportedFunctionDefinitions()
	var missing []string
	for _, f := range compiled.ImportedFunctions() {
		module, name, _ := f.Import()
		if _, ok := host[name]; module != wasi.Module || !ok {
			missing = append(missing, module+"."+name)
		}
	}
	for _, mem := range compiled.ImportedMemories() {
		module, name, _ := mem.Import()
		missing = append(missing, module+"."+name+" (a memory)")
	}
	if len(missing) > 0 {
		const most = 5
		more := ""
		if len(missing) > most {
			more = fmt.Sprintf(" and %d more", len(missing)-most)
			missing = missing[:most]
		}
		return fmt.Errorf("it imports %s%s; what it can import are the functions of %s (WASI preview 1)",
			strings.Join(missing, ", "), more, wasi.Module)
	}
	exports := compiled.ExportedFunctions()
	f, ok := exports[function]
	if !ok {
		var names []string
		for name := range exports {
			names = append(names, name)
		}
		slices.Sort(names)
		if len(names) > 20 {
			names = append(names[:20], "…")
		}
		return fmt.Errorf("it exports no function %s to begin with; it exports: %s (say path#function for another one)", function, strings.Join(names, ", "))
	}
	results := f.ResultTypes()
	if len(f.ParamTypes()) > 0 || len(results) > 1 || len(results) == 1 && results[0] != api.ValueTypeI32 {
		return fmt.Errorf("function %s has parameters or a result that is no exit code (i32): it cannot be a program", function)
	}
	return nil
}

// errCompile: a module cannot be compiled, or, with a cache, what that holds of it cannot be read.
var errCompile = errors.New("it cannot be compiled")

func notCompiled(module []byte, err error) error {
	return fmt.Errorf("%w: %w%s: %w", errCompile, err, hint(module), errdefs.ErrInvalidArgument)
}

// hint adds to a compiler's complaint what the module may be.
func hint(module []byte) string {
	switch {
	case usesMemory64(module):
		return "; it has a 64-bit memory (memory64), which is not supported"
	case usesGC(module):
		return "; it uses garbage-collected types (GC), which are not supported"
	}
	return ""
}

// sections calls fn with the id and the content of each section of a module, as far as it can be read.
func sections(module []byte, fn func(id byte, content []byte)) {
	const header = 8
	rest := module[min(header, len(module)):]
	for len(rest) > 0 {
		id := rest[0]
		size, n := uleb(rest[1:])
		if n == 0 || uint64(len(rest)-1-n) < size {
			return
		}
		fn(id, rest[1+n:1+n+int(size)])
		rest = rest[1+n+int(size):]
	}
}

// uleb reads a LEB128 number of at most 32 bits; n is 0 if there is none.
func uleb(b []byte) (v uint64, n int) {
	for i := 0; i < len(b) && i < 5; i++ {
		v |= uint64(b[i]&0x7f) << (7 * i)
		if b[i] < 0x80 {
			return v, i + 1
		}
	}
	return 0, 0
}

// usesMemory64 tells whether the first memory that the module defines has 64-bit addresses.
func usesMemory64(module []byte) (yes bool) {
	sections(module, func(id byte, content []byte) {
		const memory, is64 = 5, 0x04
		if _, n := uleb(content); id == memory && n > 0 && len(content) > n {
			yes = yes || content[n]&is64 != 0
		}
	})
	return yes
}

// usesGC tells whether the first type that the module defines is no function's: a struct, an array, or a group of types.
func usesGC(module []byte) (yes bool) {
	sections(module, func(id byte, content []byte) {
		const types, function = 1, 0x60
		if _, n := uleb(content); id == types && n > 0 && len(content) > n {
			yes = yes || content[n] != function
		}
	})
	return yes
}

// Close frees the machine.
func (m *machine) Close(ctx context.Context) error {
	err := m.Runtime.Close(ctx)
	if m.cache != nil {
		err = errors.Join(err, m.cache.Close(ctx))
	}
	return err
}
