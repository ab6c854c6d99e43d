#!/usr/bin/env bash
# hack/fuzz.sh [TIME]: fuzzes each fuzz test of the project for a while (10s).
set -euo pipefail
cd "$(dirname "$0")/.."

go list -f '{{.Dir}}' ./... | while read -r dir; do
	{ grep -hoP '^func \KFuzz\w+' "$dir"/*_test.go 2>/dev/null || true; } | while read -r name; do
		echo "fuzz: $name in ${dir#"$PWD"/}"
		go test -run '^$' -fuzz "^$name\$" -fuzztime "${1:-10s}" "$dir" </dev/null
	done
done
