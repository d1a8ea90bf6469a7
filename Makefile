# Every target sets up what it needs in ./.venv, also in a fresh clone on a machine that has nothing but Python ≥ 3.10.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# The CPU build of PyTorch is 0.2 GB, the one PyPI offers for Linux several. Where pip does not find the CPU build by
# itself, name PyTorch's index of CPU builds (its site tells): make TORCH_INDEX=https://... demo
TORCH_INDEX ?=

# More threads than cores make small models slower; whoever has the cores may raise it.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM := false
export HF_HUB_OFFLINE := 1
export ANONYMIZED_TELEMETRY := False

.PHONY: help demo test check bench clean

help:
	@echo "make demo   replays the shipped call log and shows what JITR does (under 3 minutes)"
	@echo "make test   runs the tests (a few minutes)"
	@echo "make check  checks format, lint and types (under a minute)"
	@echo "make bench  measures the budgets for time, imports and memory (a few minutes)"
	@echo "make clean  removes the environment and what the tools left behind"
	@echo "Each sets up ./.venv first (once, a few minutes)."

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "JITR needs Python 3.10 or newer, $(PYTHON) is " + sys.version.split()[0] + ". Say which to use: make PYTHON=python3.12 ...")'
	@echo "Setting up ./.venv with JITR and all it needs (once, a few minutes) ..."
	@$(PYTHON) -m venv .venv
	@$(PIP) install -qq --no-deps $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt torch
	@$(PIP) install -qq -c constraints.txt -e '.[dev]'
	@touch $@

demo: .venv/ready
	@echo "Replaying the demo's call log, synthetic and offline (under 3 minutes) ..."
	@$(BIN)/jitr demo

test: .venv/ready
	@echo "Running the tests, offline (a few minutes) ..."
	@$(BIN)/python -m pytest

check: .venv/ready
	@echo "Checking format, lint and types (under a minute) ..."
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

bench: .venv/ready
	@echo "Measuring the budgets for time, imports and memory (a few minutes) ..."
	@missed=0; for script in "overhead.py --engine jitr" store.py inference.py; do \
	  echo; echo "benchmarks/$$script"; $(BIN)/python benchmarks/$$script || missed=1; \
	done; exit $$missed

clean:
	rm -rf .venv .mypy_cache .ruff_cache .hypothesis build dist
