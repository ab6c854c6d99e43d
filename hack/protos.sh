#!/usr/bin/env bash
# hack/protos.sh [--check]: generates the Go code of protos/; with --check it tells whether what is there is up to date.
set -euo pipefail
cd "$(dirname "$0")/.."
. hack/tools.sh

out=.
if [[ ${1:-} == --check ]]; then
	out=$(mktemp -d)
	trap 'rm -rf "$out"' EXIT
fi
find protos -name '*.proto' -print0 |
	xargs -0 protoc --plugin="$protoc_gen_go" --go_out="$out" --go_opt=paths=source_relative -I .
[[ $out == . ]] || diff -r --exclude='*.proto' -I '^// 	protoc ' protos "$out/protos"
