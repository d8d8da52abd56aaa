# One command a chore. Every target installs what it needs.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PROTO_VENV := .venv-protos

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16
.PHONY: help

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade --constraint constraints.txt torch
	$(BIN)/pip install --quiet --upgrade --constraint constraints.txt --editable '.[server,figure,dev]'
	@touch $@

# The stubs come from a grpcio-tools old enough that they run on every protobuf >= 5.29 and grpcio >= 1.71; it
# needs an older protobuf than the tests run on, so it lives in an environment of its own.
$(PROTO_VENV)/installed: Makefile
	$(PYTHON) -m venv $(PROTO_VENV)
	$(PROTO_VENV)/bin/pip install --quiet grpcio-tools==1.71.2 mypy-protobuf==3.6.0 googleapis-common-protos==1.70.0
	@touch $@

protos: $(PROTO_VENV)/installed ## regenerate the stubs from protos/poolservice/v1/pool.proto
	PATH="$(PROTO_VENV)/bin:$$PATH" $(PROTO_VENV)/bin/python -m grpc_tools.protoc \
	  --proto_path=protos --proto_path="$$($(PROTO_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
	  --python_out=protos --grpc_python_out=protos --mypy_out=quiet:protos --mypy_grpc_out=quiet:protos \
	  --include_imports --include_source_info --descriptor_set_out=$(PROTO_VENV)/pool.binpb poolservice/v1/pool.proto
.PHONY: protos

lint: $(VENV)/installed protos ## formatting, linters, types, contracts between the rooms, the proto's style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint $(PROTO_VENV)/pool.binpb --config protos/buf.yaml --path poolservice/v1
.PHONY: lint

test: $(VENV)/installed ## run the tests
	$(BIN)/pytest
.PHONY: test
