# Everything that is done to this project. `make help` lists it; the scripts in hack/ do it.

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1 \2/p' $(MAKEFILE_LIST) | \
		while read -r target what; do printf '  %-12s %s\n' "$$target" "$$what"; done

.PHONY: deps
deps: ## install what building and testing need, where it is missing (Debian, Ubuntu)
	@hack/deps.sh build test lint

.PHONY: build
build: ## build the binaries into bin/: static, stripped
	@hack/deps.sh build
	@hack/build.sh

.PHONY: demo
demo: build ## run a real container and a WebAssembly module, without any daemon (root)
	@bin/demo -shim bin/containerd-shim-runc-v2 -wasm-shim bin/containerd-shim-wasm-v1

.PHONY: test
test: ## run all tests: unit, root and real daemon (root)
	@hack/deps.sh test
	@hack/test.sh ./...

.PHONY: test-unit
test-unit: ## run the tests that need neither root nor a daemon
	@hack/deps.sh test
	@SHIMWRIGHT_SKIP_ROOT=1 hack/test.sh ./...

.PHONY: test-root
test-root: ## run the tests of all packages but those with a real daemon (root)
	@hack/deps.sh test
	@hack/test.sh $$(go list ./... | grep -v -e /test/daemon -e /test/cri)

.PHONY: test-daemon
test-daemon: ## run the tests with a real containerd (root)
	@hack/deps.sh test
	@hack/test.sh ./test/daemon

.PHONY: test-cri
test-cri: ## run the tests with containerd's CRI plugin: pods, as a kubelet has them (root)
	@hack/deps.sh test
	@hack/test.sh ./test/cri/...

.PHONY: test-daemons
test-daemons: ## run the tests with every containerd in use, 1.6 to 2.4 (root)
	@hack/deps.sh test
	@hack/test-daemons.sh

.PHONY: test-v2
test-v2: ## run the root tests of the shim and its engine on cgroup v2, in user-mode Linux (root)
	@hack/deps.sh test
	@hack/test.sh ./test/cgroup2

.PHONY: fuzz
fuzz: ## fuzz every parser for 10 s each
	@hack/deps.sh build
	@hack/fuzz.sh 10s

.PHONY: lint
lint: ## check format, vet, go.mod and the linter's rules
	@hack/deps.sh lint
	@hack/lint.sh

.PHONY: fmt
fmt: ## format the sources as lint wants them
	@hack/deps.sh lint
	@hack/lint.sh --fix

.PHONY: clean
clean: ## remove what was built; the tools stay in the cache
	rm -rf bin
