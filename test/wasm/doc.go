// Package wasm tests containerd-shim-wasm-v1 as a whole: modules in containers, through the manager.
package wasm
