// Package spec runs containers with every field of the runtime spec that Linux has, through the built shim, once for
// each engine. docs/SPEC.md, which its tests hold to the truth, says which fields are covered by what.
package spec
