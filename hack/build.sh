#!/usr/bin/env bash
# hack/build.sh [DIR PACKAGE…]: builds programs as they are released, static and stripped, into DIR: without
# arguments all of them into bin/. TAGS are further build tags, such as otel.
set -euo pipefail
cd "$(dirname "$0")/.."

limit=10000000 # bytes that containerd-shim-runc-v2 may have: it is started three times in a container's life

# Outside a git checkout both are unknown.
version=$(git describe --tags --always --dirty 2>/dev/null) || version=unknown
revision=$(git rev-parse HEAD 2>/dev/null) || revision=unknown
shim=github.com/shimwright/shimwright/shim

(($#)) || set -- bin ./cmd/... ./examples/demo
dir=$1
shift
mkdir -p "$dir"
# Inlining only in the Go runtime and what is close to it, and functions packed closer, make the shim 8 % smaller.
inline=(-gcflags all=-l)
for packages in runtime internal/runtime/... internal/... sync/...; do
	inline+=(-gcflags "$packages=")
done
# libcontainer shows criu's options, at debug level, by calling methods whose names it puts together. Having seen that, the
# linker keeps every method of every type: 1.5 MB. The build takes a copy that reads the fields instead.
go mod download github.com/opencontainers/runc
runc=$(go list -m -f '{{.Dir}}@{{.Version}}' github.com/opencontainers/runc)
copy=bin/runc@${runc##*@}
if [[ ! -d $copy ]]; then
	mkdir -p bin
	new=$(mktemp -d bin/new.XXXXXX)
	(cd "${runc%@*}" && tar -c --mode=u+w --exclude='*_test.go' go.mod internal libcontainer types) | tar -x -C "$new"
	sed -i 's/val\.MethodByName("Get" + name)\.Call(\[\]reflect\.Value{})/[]any{reflect.Indirect(v.Field(i))}/' "$new/libcontainer/criu_linux.go"
	mv -T "$new" "$copy" 2>/dev/null || rm -rf "$new" # another build was faster
fi
mod=$(mktemp bin/build.XXXXXX.mod)
trap 'rm -f "$mod" "${mod%mod}sum"' EXIT
{ cat go.mod; echo "replace github.com/opencontainers/runc => ./$copy"; } >"$mod"
cp go.sum "${mod%mod}sum"
CGO_ENABLED=1 go build -modfile="$mod" -o "$dir/" -trimpath -buildvcs=false -tags "no_grpc seccomp netgo osusergo ${TAGS:-}" "${inline[@]}" \
	-ldflags "-s -w -linkmode external -funcalign=8 -extldflags '-static -Wl,--gc-sections,-z,noseparate-code' \
		-X $shim.version=$version -X $shim.revision=$revision" \
	"$@"

[[ -z ${TAGS:-} ]] || exit 0
size=$(stat -c %s "$dir/containerd-shim-runc-v2" 2>/dev/null) || exit 0
if ((size > limit)); then
	echo "build: containerd-shim-runc-v2 has $size bytes, more than $limit" >&2
	exit 1
fi
