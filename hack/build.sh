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
mkdir -p bin
mod=$(mktemp bin/build.XXXXXX.mod)
trap 'rm -f "$mod" "${mod%mod}sum"' EXIT
cp go.mod "$mod"
cp go.sum "${mod%mod}sum"

# thin MODULE FILES SED-OPTION…: the build takes a copy of the module in which sed has changed the files.
thin() {
	local module=$1 from copy new files
	read -ra files <<<"$2"
	shift 2
	go mod download "$module"
	from=$(go list -m -f '{{.Dir}}' "$module")
	copy=bin/thin/${from##*/}-$(cksum <<<"$*" | cut -d' ' -f1)
	if [[ ! -d $copy ]]; then
		mkdir -p bin/thin
		new=$(mktemp -d bin/thin/new.XXXXXX)
		tar -C "$from" -c --mode=u+w --exclude='*_test.go' --exclude=testdata --exclude=tests . | tar -x -C "$new"
		(cd "$new" && sed -i "$@" "${files[@]}")
		gofmt -w "$new" # whoever formats the project finds it in order
		mv -T "$new" "$copy" 2>/dev/null || rm -rf "$new" # another build was faster
	fi
	echo "replace $module => ./$copy" >>"$mod"
}
# libcontainer shows what it says to criu, at debug level, by calling methods whose names it puts together. Having seen that,
# the linker keeps every method of every type: 1.5 MB. Showing criu's answers keeps what prints and parses all of its
# messages: another 0.1 MB.
thin github.com/opencontainers/runc libcontainer/criu_linux.go \
	-e '/^\tif logrus.GetLevel() >= logrus.DebugLevel &&$/,/^\t}$/d' -e '/^\t"reflect"$/d' \
	-e '/Debugf("Feature check says: /d' -e 's/resp\.String()/resp.GetType()/'
# ebpf, for device rules on cgroup v2, reads the kernel's version from an ELF note in memory, and asks uname if that says 0.
thin github.com/cilium/ebpf internal/linux/vdso.go \
	-e '/^package /!d' -e 's/$/\n\nfunc vdsoVersion() (uint32, error) { return 0, nil }/'
# go-digest translates five regular expressions, 0.3 ms at each start of the shim, which uses none; they are 0.1 MB.
thin github.com/opencontainers/go-digest 'algorithm.go digest.go' \
	-e 's/map\[Algorithm\]\*regexp\.Regexp{/map[Algorithm]string{/' -e 's/: regexp\.MustCompile(\(`.*`\)),$/: \1,/' \
	-e 's/r\.MatchString(\(.*\))/regexp.MustCompile(r).MatchString(\1)/' \
	-e 's/^var \(DigestRegexp[A-Za-z]*\) = \(.*\)$/func \1() *regexp.Regexp { return \2 }/' \
	-e 's/\(DigestRegexp[A-Za-z]*\)\.\(String\|MatchString\)/\1().\2/'
# The C code is small, runs once, and nobody unwinds its stack.
CGO_ENABLED=1 CGO_CFLAGS="-Os -fno-asynchronous-unwind-tables" go build -modfile="$mod" -o "$dir/" -trimpath -buildvcs=false -tags "no_grpc seccomp netgo osusergo ${TAGS:-}" "${inline[@]}" \
	-ldflags "-s -w -linkmode external -funcalign=1 -extldflags '-static -Wl,--gc-sections,-z,noseparate-code' \
		-X $shim.version=$version -X $shim.revision=$revision" \
	"$@"

[[ -z ${TAGS:-} ]] || exit 0
size=$(stat -c %s "$dir/containerd-shim-runc-v2" 2>/dev/null) || exit 0
if ((size > limit)); then
	echo "build: containerd-shim-runc-v2 has $size bytes, more than $limit" >&2
	exit 1
fi
