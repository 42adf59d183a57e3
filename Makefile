# vllama: `make run` and `make test` are all a newcomer needs.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

include engine/versions.env

VENV := $(CURDIR)/.venv
STATE := $(CURDIR)/.state
SOURCES := $(shell find src -type f) Cargo.toml Cargo.lock
SAY := @printf '→ %s\n'

.PHONY: help
help: ## this list
	@printf 'vllama: make targets\n'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

.PHONY: run
run: engine build model ## set everything up and serve the default model on 127.0.0.1:11434
	@exec dist/vllama serve $(SERVE) $(DEFAULT_MODEL)

# What run and the real-engine tests give to vllama: all that it writes stays in this folder.
SERVE = --engine $(VENV)/bin/vllm --state-dir $(STATE) --run-dir $${VLLAMA_RUN:-/tmp/vllama-run-$$(id -u)}

.PHONY: engine
engine: ## install the pinned engine into .venv
	@engine/setup $(VENV)

.PHONY: build
build: dist/vllama dist/vllama-gpu ## leave dist/vllama (static) and dist/vllama-gpu

# One build of the dependencies serves both: only the last step of vllama is linked statically.
dist/vllama: $(SOURCES)
	$(SAY) 'building vllama (the first time takes a few minutes)'
	@mkdir -p dist
	@cargo rustc --release --locked $(CARGO_QUIET) --bin vllama -- -C target-feature=+crt-static
	@install -m 755 target/release/vllama $@
	@touch $@

dist/vllama-gpu: $(SOURCES)
	@mkdir -p dist
	@cargo rustc --release --locked $(CARGO_QUIET) --bin vllama-gpu
	@install -m 755 target/release/vllama-gpu $@
	@touch $@

.PHONY: image
image: ## build the image NAME for TARGET (cuda or cpu), with MODEL in it where one is named
	@$(DOCKER) build --file Containerfile --shm-size 1g --target $(TARGET) --tag $(NAME) $(IMAGE_ARGUMENTS:%=--build-arg %) $(IMAGE_OPTIONS) .

# MODEL is a name to pull, or a file or directory in models/ that gets MODEL_NAME. IMAGE_OPTIONS are more of docker's own:
# `--build-arg DEBIAN_IMAGE=…` takes a base from a mirror. The vllama that pulls wants the shared memory of one that serves.
TARGET ?= cuda
NAME ?= vllama:$(TARGET)
MODEL ?=
MODEL_NAME ?=
IMAGE_OPTIONS ?=
DOCKER ?= docker
in_manifest = $(shell sed -n 's/^$(1) = "\(.*\)"/\1/p' Cargo.toml)
IMAGE_ARGUMENTS = ENGINE_VERSION=$(ENGINE_VERSION) GGUF_VERSION=$(GGUF_VERSION) RUST_VERSION=$(call in_manifest,rust-version) \
	VERSION=$(call in_manifest,version) REVISION=$(shell git rev-parse HEAD 2>/dev/null) MODEL=$(MODEL) MODEL_NAME=$(MODEL_NAME)

.PHONY: model
model: engine build ## install the default model and the embedding model
	@dist/vllama import --if-missing --parameter $(DEFAULT_MODEL_PARAMETERS) --engine $(VENV)/bin/vllm --state-dir $(STATE) $(VENV)/share/vllama/$(DEFAULT_MODEL_FILE) $(DEFAULT_MODEL)
	@dist/vllama import --if-missing --state-dir $(STATE) $(VENV)/share/vllama/$(EMBEDDING_MODEL_DIRECTORY) $(EMBEDDING_MODEL)

.PHONY: test
test: ## set everything up and run all tests
	@tests/run

.PHONY: test-fast
test-fast: ## everything but the real engine
	@tests/run fast

.PHONY: test-container
test-container: build ## images, Compose and Caddy, with the real engine
	@tests/container/run

.PHONY: fuzz
fuzz: ## look for inputs that break what reads them: FUZZ_SECONDS for each target
	@fuzz/run $(FUZZ_SECONDS)

# For each of the sixteen or so targets.
FUZZ_SECONDS ?= 120

.PHONY: chaos
chaos: ## everything goes wrong two thousand times while requests run
	@VLLAMA_CHAOS_ROUNDS=$${VLLAMA_CHAOS_ROUNDS:-2000} VLLAMA_CHAOS_LANES=$${VLLAMA_CHAOS_LANES:-4} cargo test --locked --test chaos -- rounds

.PHONY: chaos-real
chaos-real: engine ## the same with the real engine, twenty-five times
	@VLLAMA_TEST_VENV=$(VENV) VLLAMA_CHAOS_REAL_ROUNDS=$${VLLAMA_CHAOS_REAL_ROUNDS:-25} cargo test --locked --test chaos -- real

.PHONY: soak
soak: ## ten minutes of requests while things go wrong; what vllama holds must not grow
	@VLLAMA_SOAK_SECONDS=$${VLLAMA_SOAK_SECONDS:-600} cargo test --locked --test chaos -- soak

.PHONY: boards
boards: engine ## write Grafana's boards (grafana/boards) from grafana/generate
	@tests/monitoring/setup $(VENV) target/monitoring
	@target/monitoring/bin/python grafana/generate

.PHONY: bench
bench: build ## the gateway's cost beside the direct line to the engine
	@cargo bench --locked --bench chunk
	@cargo bench --locked --bench gateway

.PHONY: start-times
start-times: ## how long the image NAME takes to be ready, beside vLLM alone in it
	@python3 tests/container/starts.py $(NAME) '$(IMAGE_OPTIONS)'

.PHONY: lint
lint: ## formatting and lints
	@cargo fmt --check
	@cargo clippy --all-targets --locked -- -D warnings

.PHONY: clean
clean: ## remove what was built; keeps .venv and installed models
	@rm -rf target dist tests/clients/node_modules
