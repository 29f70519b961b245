# Identiface. `make` alone lists what there is.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The environment is rebuilt when, and only when, what it is made from changes.
KEY := $(shell cat pyproject.toml constraints/cpu.txt | sha256sum | cut -c1-16)
READY := $(VENV)/.ready-$(KEY)

.DEFAULT_GOAL := help
CROPS ?= crops
PACK ?= crops.npz

.PHONY: help setup demo serve test check proto bench pack-crops clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 16

setup: $(READY) ## Make .venv and install Identiface with all that its tests and demo need (about two minutes)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .

$(READY):
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "Identiface needs Python 3.11 to 3.13: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints/cpu.txt --upgrade 'setuptools>=77'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -c constraints/cpu.txt -e '.[dev,demo,onnx,ray,train]'
	@rm -f $(VENV)/.ready-* && touch $@

demo: setup ## See it work: a real server, real faces among 100,000, found and not found
	$(BIN)/python -m benchmarks.demo

serve: setup ## Serve ./data on 127.0.0.1:7300
	$(BIN)/identiface serve --data data

test: setup ## Run all tests: behaviour, lint, types, import contracts, protos
	$(BIN)/python -m pytest $(ARGS)

check: setup ## Only lint, format, types, import contracts, protos: the quick part of the tests
	$(BIN)/python -m pytest -m house $(ARGS)

proto: setup ## Generate engine/pb from protos/
	$(BIN)/buf format -w protos
	$(BIN)/python protos/generate.py

bench: setup ## Measure search, serving, growth and restart, and write dated reports (some minutes)
	$(BIN)/python -m benchmarks.index --kept-only --rounds 10
	$(BIN)/python -m benchmarks.serve
	$(BIN)/python -m benchmarks.serve --enroll
	$(BIN)/python -m benchmarks.growth
	$(BIN)/python -m benchmarks.restart
	$(BIN)/python -m benchmarks.bulk --size 200000

pack-crops: setup ## Pack the aligned faces in CROPS (a folder of `train run --crops`) into PACK (.npz), for `train run --data PACK` on another machine
	$(BIN)/python -m engine.trainer.pack --crops $(CROPS) --to $(PACK)

clean: ## Remove what was built here, not data
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .demo
