#!/usr/bin/env bash
# hack/test.sh [go test's flags and packages]: runs the tests with the race detector and ends with a summary line.
# What each test did is left in bin/test.json.
set -euo pipefail
cd "$(dirname "$0")/.."
. hack/tools.sh
mkdir -p bin

# One package after the other: tests look at the whole machine for what they left behind.
# With -buildvcs=false the build does not depend on who owns the checkout.
export SHIMWRIGHT_TOOLS=$tools PATH=$criu_dir:$PATH:$peer_dir
exec "$gotestsum" --format "${SHIMWRIGHT_TEST_FORMAT:-pkgname}" \
	--format-hide-empty-pkg --jsonfile bin/test.json -- \
	-race -count=1 -buildvcs=false -tags no_grpc,seccomp -p 1 -timeout 20m "$@"
