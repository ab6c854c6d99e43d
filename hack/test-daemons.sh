#!/usr/bin/env bash
# Runs the tests with a real containerd under each release that hack/tools.sh names. The short form, TestSmoke, starts each of
# them as well and is a part of hack/test.sh ./test/daemon.
set -euo pipefail
cd "$(dirname "$0")/.."
. hack/tools.sh

hack/test.sh ./test/daemon
for version in $older_containerd_versions; do
	echo "containerd $version"
	SHIMWRIGHT_TEST_CONTAINERD=$version hack/test.sh -skip '^TestSmoke$' ./test/daemon
done
