# `make` lists the targets. Everything is installed into .venv, nothing outside this folder, except
# by `make device`, whose compiler and emulator are packages of the system.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# pip draws progress bars and asks questions only where somebody watches.
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install $(if $(CI),--quiet --no-input --progress-bar off)

.DEFAULT_GOAL := help
.PHONY: help setup quickstart paper reference-check test lint slow bench bench-check bench-baseline bench-peers device clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "  PYTHON=... chooses the interpreter of a new .venv (default: python3; 3.11 or newer)."

setup: $(INSTALLED) ## Create .venv with the tested versions; done by itself where needed

quickstart: setup ## Train a small grid (CartPole; none, qat8, qat4, ptq8) and show its table
	$(BIN)/python -m qbench experiment=quickstart
	@echo 'Next: $(BIN)/python -m qbench -m env=cartpole,lunarlander quant=none,qat8'

paper: setup ## The seed paper's experiment (40 minutes on two cores) and its page
	$(BIN)/python -m qbench experiment=paper
	GLIBC_TUNABLES=glibc.malloc.hugetlb=0 $(BIN)/python -m qbench experiment=paper_memory
	$(BIN)/python -m qbench.report multirun/paper multirun/paper_memory $(wildcard multirun/paper_pixels) --paper

reference-check: setup ## Train one published cell again (minutes) and compare it with its interval
	rm -rf multirun/reference_check
	$(BIN)/python -m qbench experiment=paper env=cartpole quant=none sweep=reference_check
	$(BIN)/python -m qbench.report multirun/reference_check --against multirun/reference/paper

test: setup lint ## Lint, then run every test that is not slow
	$(BIN)/python -m pytest

lint: setup ## ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

slow: setup ## Tests that take minutes: learning, wheels
	$(BIN)/python -m pytest -m slow

BENCH_JSON ?= .benchmarks/bench.json

bench: setup ## Time the hot paths into BENCH_JSON (.benchmarks/bench.json), print their ratios
	@mkdir -p $(dir $(BENCH_JSON))
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 GLIBC_TUNABLES=glibc.malloc.hugetlb=1 \
	  $(BIN)/python -m pytest -o addopts="--import-mode=importlib --strict-markers" tests/bench --benchmark-only \
	  --benchmark-json=$(BENCH_JSON)
	$(BIN)/python -m tests.bench.ratios $(BENCH_JSON)

bench-check: setup ## Compare the speed of the hot paths with tests/bench/baseline.json
	$(BIN)/python -m tests.bench.gate

bench-baseline: setup ## Renew the entry of this processor in tests/bench/baseline.json
	$(BIN)/python -m tests.bench.gate --write

bench-peers: setup ## Measure speed against Stable-Baselines3 (installs it into .venv)
	@$(BIN)/python -c 'import stable_baselines3' 2>/dev/null \
	  || { echo "Installing stable-baselines3, the peer, into $(VENV)"; $(PIP) -c constraints.txt -e '.[bench]'; }
	$(BIN)/python -m tests.bench.peers

DEVICE_PACKAGES := gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm
SUDO := $(if $(filter-out 0,$(shell id -u)),sudo)

device: setup ## Run the C policy on an emulated Cortex-M4 (installs Debian packages)
	@command -v arm-none-eabi-gcc >/dev/null && command -v qemu-system-arm >/dev/null \
	  && test -n "$$(find /usr/lib /usr/local -path '*arm-none-eabi*' -name nano.specs -print -quit 2>/dev/null)" \
	  || { $(SUDO) apt-get update && $(SUDO) apt-get install -y --no-install-recommends $(DEVICE_PACKAGES); }
	$(BIN)/python -m pytest -m "slow or not slow" tests/deploy/test_device.py

clean: ## Remove .venv, caches and builds; results in multirun/ stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .benchmarks .hypothesis
	find conf qbench tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The version is read from qbench/__init__.py. torch comes first and by its exact pin: a range may
# bring another build, with several GB of GPU libraries.
$(INSTALLED): pyproject.toml constraints.txt qbench/__init__.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "qbench needs Python 3.11 or newer, and $(PYTHON) is not: try 'make setup PYTHON=python3.12'." >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	$(PIP) -c constraints.txt -e '.[atari,deploy,dev,minatar,mujoco,report]'
	@touch $@
