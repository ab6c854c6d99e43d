#!/usr/bin/env bash
# Checks what a machine can check: format, vet, go.mod, and the rules of .golangci.yml. With --fix it only formats.
set -euo pipefail
cd "$(dirname "$0")/.."
. hack/tools.sh

if [[ ${1:-} == --fix ]]; then
	exec "$golangci_lint" fmt ./...
fi
unformatted=$(gofmt -l .)
if [[ -n $unformatted ]]; then
	printf 'lint: not formatted:\n%s\n' "$unformatted" >&2
	exit 1
fi
go vet ./...
go vet -tags no_grpc,seccomp ./...
go vet -tags no_grpc,seccomp,otel ./shim
go mod tidy -diff
hack/protos.sh --check
"$golangci_lint" run ./...
