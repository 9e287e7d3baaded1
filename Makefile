# Everything a person types. Each target installs what it needs and prints
# progress; what is built is kept in a cache outside the clone.

SHELL := /bin/bash
GO_BIN := $(shell scripts/go)
export PATH := $(GO_BIN):$(PATH)
export CGO_ENABLED = 0
export GOFLAGS = -trimpath -buildvcs=false

PROTO := api/agent/v1
BUILD := go build -ldflags='-s -w'

.DEFAULT_GOAL := help
.PHONY: help build guest engine engine-stop demo kvm kvm-stop test-kvm test soak bench bench-kvm lint generate install clean FORCE

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

build: ## build the programs into out/bin
	@mkdir -p out/bin
	$(BUILD) -o out/bin/ ./cmd/...

guest: build ## build the guest's kernel and image into out/guest
	rootfs/build out/bin/nanoclaw-agent out/guest

engine: guest ## start the embedded Docker Engine; prints its DOCKER_HOST
	@test/engine/up

engine-stop: ## stop the embedded Docker Engine
	@test/engine/down

demo: guest ## run containers in micro-VMs, one of them stopped by a rule
	@test/engine/up
	@test/demo

kvm: guest ## start a machine with a real KVM, by emulation
	@test/kvm/up

kvm-stop: ## stop that machine
	@test/kvm/down

test-kvm: guest ## run the end-to-end tests in it, with QEMU and with CLOUD_HYPERVISOR=…
	@test/kvm/test

test: guest ## run all tests; ends in "N passed, N failed, N skipped"
	@test/run

soak: guest ## 1,000 containers made and removed, 200 kills of their parts; SOAK holds flags, such as SOAK='-for 1h -resume'
	@test/engine/up >&2
	go run ./test/soak $(SOAK)

bench: ## measure what a container costs, beside runc; BENCH holds flags, such as BENCH='-n 9 -format markdown'
	@$(MAKE) --no-print-directory guest >&2
	@test/bench/run $(BENCH)

bench-kvm: ## the same in the machine with a KVM, for QEMU and for CLOUD_HYPERVISOR=… side by side
	@$(MAKE) --no-print-directory guest >&2
	@test/kvm/bench $(BENCH)

lint: ## gofmt, go vet, golangci-lint and stale generated code
	@test/lint

generate: ## generate the protocols' code anew
	@scripts/need clang:clang llvm-strip:llvm /usr/include/bpf/bpf_helpers.h:libbpf-dev /usr/include/linux/bpf.h:linux-libc-dev \
		protoc:protobuf-compiler /usr/include/google/protobuf/timestamp.proto:libprotobuf-dev
	mkdir -p out/tools
	go build -o out/tools/ google.golang.org/protobuf/cmd/protoc-gen-go github.com/containerd/ttrpc/cmd/protoc-gen-go-ttrpc
	PATH="$$PWD/out/tools:$$PATH" protoc -I $(PROTO) -I /usr/include \
		--go_out=$(PROTO) --go_opt=paths=source_relative \
		--go-ttrpc_out=$(PROTO) --go-ttrpc_opt=paths=source_relative agent.proto
	go generate ./hypervisor/cloudhypervisor ./guestagent/execgate

install: guest ## put the parts on this host and register the runtime with its Docker
	scripts/install

clean: ## remove what was built in this clone (not the cache)
	rm -rf out
