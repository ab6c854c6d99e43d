package wasm

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
)

// kind is what a program's file begins with.
type kind int

const (
	kindUnknown   kind = iota
	kindModule         // a WebAssembly core module, version 1
	kindComponent      // a WebAssembly component (WASI 0.2 and later)
	kindVersion        // WebAssembly of another version
	kindNative         // ELF, or a script with #!
	kindText           // WebAssembly's text form
)

// sniff reads the first bytes of a program. Short files are kindUnknown.
func sniff(r io.ReaderAt) (kind, error) {
	head := make([]byte, 8)
	n, err := r.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return kindUnknown, err
	}
	head = head[:n]
	switch {
	case bytes.HasPrefix(head, []byte("\x7fELF")), bytes.HasPrefix(head, []byte("#!")):
		return kindNative, nil
	case bytes.Equal(head, []byte("\x00asm\x01\x00\x00\x00")):
		return kindModule, nil
	case bytes.Equal(head, []byte("\x00asm\x0d\x00\x01\x00")):
		return kindComponent, nil
	case bytes.HasPrefix(head, []byte("\x00asm")):
		return kindVersion, nil
	case bytes.HasPrefix(head, []byte("(module")), bytes.HasPrefix(head, []byte("(compone")):
		return kindText, nil
	}
	return kindUnknown, nil
}

// refuse says why a program of this kind cannot be run as a module; nil: it is one.
func (k kind) refuse(path string) error {
	const supported = "this shim runs WebAssembly core modules (version 1) for WASI preview 1"
	var is string
	switch k {
	case kindModule:
		return nil
	case kindComponent:
		is = "a WebAssembly component (WASI 0.2 or later); build it for wasm32-wasip1"
	case kindVersion:
		is = "WebAssembly of another version, or truncated"
	case kindText:
		is = "WebAssembly text; translate it with wat2wasm"
	case kindNative:
		is = "a native program"
	default:
		is = "neither WebAssembly nor a native program"
	}
	return fmt.Errorf("%s is %s: %s: %w", path, is, supported, errdefs.ErrInvalidArgument)
}
