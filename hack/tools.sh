# The pinned tools, apart from go.mod's runtime dependencies, and where they are kept. Sourced by the other scripts.
containerd_version=2.4.2
older_containerd_versions='1.6.20 1.7.24 2.1.9' # Debian 12's, 13's and 14's; test/daemon/release_test.go has the same list
runc_version=1.5.2
cni_version=1.9.1
golangci_version=2.15.0
gotestsum_version=1.13.0
protobuf_version=1.36.12 # as in go.mod
criu_suite=forky # of Debian: the first one whose criu works on kernels of 2025 and later; crun is from there too

tools=${SHIMWRIGHT_TOOLS:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/shimwright/tools}
containerd_dir=$tools/containerd-$containerd_version # has containerd and ctr
peer_dir=$tools/peer-$containerd_version-$runc_version # has containerd's own shim and its runc
cni_dir=$tools/cni-$cni_version # has the plugins that give pods a network
golangci_lint=$tools/golangci-lint-$golangci_version/golangci-lint
protoc_gen_go=$tools/protoc-gen-go-$protobuf_version/protoc-gen-go
gotestsum=$tools/gotestsum-$gotestsum_version/gotestsum
criu_dir=$tools/criu-$criu_suite # has criu and the libraries that it was built with
wasm_dir=$tools/wasm-1 # has programs as WebAssembly modules; another number for other versions: internal/testkit has it too
wasm_go_programs='github.com/mikefarah/yq/v4@v4.54.1 github.com/google/go-jsonnet/cmd/jsonnet@v0.22.0 github.com/evanw/esbuild/cmd/esbuild@v0.28.2'
wasm_python_version=3.12.0
wasm_sqlite_version=1.14.32 # of go-sqlite3
crun_dir=$tools/crun-$criu_suite # has crun and the libraries that it was built with, below root
