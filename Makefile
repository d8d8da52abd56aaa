# One command a chore. Every target installs what it needs into .venv.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PROTO_VENV := .venv-protos

# Passed to `docker build` or `podman build`: build arguments, networks, mounts.
IMAGE ?= poolservice
IMAGE_BUILD_FLAGS ?=
# Whichever engine answers; a docker command without its daemon does not count.
ENGINE = $(shell for engine in docker podman; do $$engine info >/dev/null 2>&1 && echo $$engine && break; done)

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16
.PHONY: help

.PHONY: check-python
check-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "poolservice needs Python 3.11 or newer, and '$(PYTHON)' is not one: install it or name another, as in: make PYTHON=python3.12 $(firstword $(MAKECMDGOALS))" >&2; \
	  exit 1; }

$(VENV)/installed: pyproject.toml constraints.txt | check-python
	@echo "installing into $(VENV): minutes the first time, nothing after that"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade --constraint constraints.txt torch
	$(BIN)/pip install --quiet --upgrade --constraint constraints.txt --editable '.[server,figure,parquet,dev]'
	@touch $@

# The stubs come from a grpcio-tools old enough that they run on every protobuf >= 5.29 and grpcio >= 1.71; it
# needs an older protobuf than the tests run on, so it lives in an environment of its own.
$(PROTO_VENV)/installed: Makefile | check-python
	$(PYTHON) -m venv $(PROTO_VENV)
	$(PROTO_VENV)/bin/pip install --quiet grpcio-tools==1.71.2 mypy-protobuf==3.6.0 googleapis-common-protos==1.70.0
	@touch $@

demo: $(VENV)/installed ## start a server, pool a photograph through it, hold the answers against torch, draw them
	$(BIN)/python client/demo.py
.PHONY: demo

test: $(VENV)/installed ## run the tests
	$(BIN)/pytest
.PHONY: test

lint: $(VENV)/installed protos ## formatting, linters, types, contracts between the rooms, the proto's style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint $(PROTO_VENV)/pool.binpb --config protos/buf.yaml --path poolservice/v1
.PHONY: lint

protos: $(PROTO_VENV)/installed ## regenerate the stubs from protos/poolservice/v1/pool.proto
	PATH="$(PROTO_VENV)/bin:$$PATH" $(PROTO_VENV)/bin/python -m grpc_tools.protoc \
	  --proto_path=protos --proto_path="$$($(PROTO_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
	  --python_out=protos --grpc_python_out=protos --mypy_out=quiet:protos --mypy_grpc_out=quiet:protos \
	  --include_imports --include_source_info --descriptor_set_out=$(PROTO_VENV)/pool.binpb poolservice/v1/pool.proto
.PHONY: protos

bench: $(VENV)/installed ## measure calls a second beside an echo and a plain server; flags: make bench FLAGS='--quick'
	$(BIN)/python tests/bench/calls.py $(FLAGS)
	$(BIN)/python tests/bench/coalesce.py --job J4c --job J3 --job 'JPEG 64x48' $(filter --quick,$(FLAGS))
.PHONY: bench

bench-breakdown: $(VENV)/installed ## measure the steps of one call
	$(BIN)/python tests/bench/breakdown.py $(FLAGS)
.PHONY: bench-breakdown

bench-coalesce: $(VENV)/installed ## measure small calls that travel together, by size, against the same calls alone
	$(BIN)/python tests/bench/coalesce.py $(FLAGS)
.PHONY: bench-coalesce

bench-map: $(VENV)/installed ## measure client.map against a loop of pool() and against parallel calls tuned by hand
	$(BIN)/python tests/bench/map.py $(FLAGS)
.PHONY: bench-map

bench-workers: $(VENV)/installed ## measure two workers against one
	$(BIN)/python tests/bench/workers.py $(FLAGS)
.PHONY: bench-workers

bench-client-workers: $(VENV)/installed ## measure what one client gets out of two workers
	$(BIN)/python tests/bench/client_workers.py $(FLAGS)
.PHONY: bench-client-workers

bench-overload: $(VENV)/installed ## offer a server three times what it can carry
	$(BIN)/python tests/bench/overload.py $(FLAGS)
.PHONY: bench-overload

bench-kernels: $(VENV)/installed ## measure each operator and type against torch.nn.functional
	$(BIN)/python tests/bench/kernels.py $(FLAGS)
.PHONY: bench-kernels

bench-gpu: $(VENV)/installed ## measure a GPU, on a machine that has one
	$(BIN)/python tests/bench/gpu.py $(FLAGS)
.PHONY: bench-gpu

serve: $(VENV)/installed ## run the server on this machine; more flags: make serve FLAGS='--device cpu'
	exec $(BIN)/poolservice-server $(FLAGS)
.PHONY: serve

# The oldest supported grpcio, with the protobuf that it needs. The folder comes before the environment's own packages.
OLDEST_GRPCIO := $(VENV)/oldest-grpcio
$(OLDEST_GRPCIO)/installed: Makefile $(VENV)/installed
	rm -rf $(OLDEST_GRPCIO)
	$(BIN)/pip install --quiet --constraint constraints.txt --target $(OLDEST_GRPCIO) \
	  grpcio==1.71.2 grpcio-health-checking==1.71.2 grpcio-reflection==1.71.2 googleapis-common-protos
	@touch $@

test-oldest-grpcio: $(OLDEST_GRPCIO)/installed ## run the tests that depend on grpcio with its oldest supported release
	PYTHONPATH=$(abspath $(OLDEST_GRPCIO)) $(BIN)/pytest tests/server \
	  $(foreach name,container node_client settings testing,--ignore tests/server/test_$(name).py) \
	  $(foreach name,streams security errors,tests/client/test_client_$(name).py)
.PHONY: test-oldest-grpcio

dist: $(VENV)/installed ## build the wheel and the sdist into dist/
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
.PHONY: dist

engine:
	@[[ -n "$(ENGINE)" ]] || { echo "this needs a container engine: neither docker nor podman answers 'info' here" >&2; exit 1; }
.PHONY: engine

image: engine ## build the server's container image with docker or podman; flags: IMAGE_BUILD_FLAGS=...
	$(ENGINE) build $(IMAGE_BUILD_FLAGS) --file server/Dockerfile --tag $(IMAGE) .
.PHONY: image

image-test: $(VENV)/installed image ## build the image, bring it up with compose, call it, stop it
	[[ $(ENGINE) != podman ]] || $(BIN)/pip install --quiet podman-compose
	PATH="$(abspath $(BIN)):$$PATH" POOLSERVICE_TEST_ENGINE=$(ENGINE) POOLSERVICE_IMAGE=$(IMAGE) $(BIN)/pytest tests/server/test_container.py
.PHONY: image-test

clean: ## remove everything that the targets made: environments, caches, builds
	rm -rf $(VENV) $(PROTO_VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage tests/node/node_modules
	find protos client server tests -name __pycache__ -type d -prune -exec rm -rf {} +
.PHONY: clean
