# SPDX-License-Identifier: Apache-2.0
#
# Everything a person or a CI runs. `make help` lists the targets.

SHELL := /bin/bash
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null)
LDFLAGS := $(if $(VERSION),-X main.version=$(VERSION))

.PHONY: help build run demo test test-vm sim fuzz lint generate bench clean torture

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/pidigree; needs only Go
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/pidigree ./cmd/agent

run: build ## run the agent in the foreground (ARGS="--log-level debug")
	bin/pidigree agent $(ARGS)

demo: ## show it on real containers: private engines, an agent, and questions; under two minutes
	scripts/demo.sh

test: ## install what the tests need and run all of them (STAGES=unit,race runs some)
	scripts/test.sh $(STAGES)

test-vm: ## tests on other kernels, in qemu (KERNELS="5.10 6.12/v1" RUN=TestX PKGS="pkg/kernel")
	RUN='$(RUN)' $(if $(PKGS),PKGS='$(PKGS)') scripts/vm.sh test $(KERNELS)

sim: ## simulate schedules of the correlator (SIM_TIME=60s, SIM_FROM=seed)
	SIM_TIME=$(SIM_TIME) SIM_FROM=$(SIM_FROM) scripts/sim.sh

fuzz: ## every fuzz target in turn (FUZZ_TIME=10m in all)
	FUZZ_TIME=$(FUZZ_TIME) scripts/fuzz.sh

torture: ## the long forms of the oracle, attacks, faults, simulator and fuzzing; hours (PARTS="oracle sim" TORTURE_SCALE=10)
	TORTURE_SCALE=$(TORTURE_SCALE) scripts/torture.sh $(PARTS)

lint: ## formatting, linters, generated files, go.mod
	scripts/packages.sh lint
	scripts/lint.sh

generate: ## BPF objects and protobuf code, from their sources
	scripts/packages.sh generate
	scripts/generate.sh

bench: ## measure, and write docs/benchmarks.md
	scripts/bench.sh

clean: ## remove what was built
	rm -rf bin
