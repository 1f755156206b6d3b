# Everything works from a bare clone: the first target that needs it makes $(VENV) and installs requirements.txt once.
#   make train ARGS="checkpoint=interval trainer.max_epochs=3"
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
NAME ?=

BIN := $(abspath $(VENV))/bin
INSTALLED := $(VENV)/.installed
# One torch thread per test process: two processes with all cores each are slower than two with one.
# Thousands of small files with an fsync each: in memory, where there is room, the tests take half the time.
MEMORY := $(shell test "$$(df -k --output=avail /dev/shm 2>/dev/null | tail -n 1)" -gt 4000000 2>/dev/null && echo /dev/shm)
PYTEST := OMP_NUM_THREADS=1 PYTEST_DEBUG_TEMPROOT=$(MEMORY) $(BIN)/python -m pytest -n 2 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help install train test test-all bench check format rename clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

install: $(INSTALLED) ## make .venv and install requirements.txt into it (the other targets do it when needed)

# Depends on its inputs, so that it happens once, and again only when one of them changes. Only ever into the environment.
$(INSTALLED): requirements.txt pyproject.toml engine/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	test -f $(VENV)/pyvenv.cfg || $(PYTHON) -m venv $(VENV)
	PIP_REQUIRE_VIRTUALENV=1 $(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements.txt
	@touch $@

train: $(INSTALLED) ## train; ARGS="..." are Hydra overrides
	$(BIN)/python train.py $(ARGS)

test: $(INSTALLED) ## run the tests that take no kills and no cluster; ARGS="..." go to pytest
	cd engine && $(PYTEST) -m "not slow" $(ARGS)

test-all: $(INSTALLED) ## run all tests: kills, SLURM, W&B, notebooks
	cd engine && $(PYTEST) $(ARGS)

bench: $(INSTALLED) ## measure what a save costs; ARGS="--quick", "--help", ...
	cd engine && $(BIN)/python -m benchmarks $(ARGS)

check: $(INSTALLED) ## lint, formatting, types
	$(BIN)/ruff check . engine
	$(BIN)/ruff format --check . engine
	$(BIN)/mypy
	cd engine && $(BIN)/mypy

format: $(INSTALLED) ## sort imports, apply the safe fixes, format
	$(BIN)/ruff check --fix-only --quiet . engine
	$(BIN)/ruff format . engine

rename: $(INSTALLED) ## give the package your name: NAME=my_project (FORCE=1: although there are uncommitted changes)
	@test -n "$(NAME)" || { echo "make rename needs NAME=my_project" >&2; exit 2; }
	$(BIN)/python scripts/rename.py $(NAME) $(if $(FORCE),--force)
	@$(MAKE) --no-print-directory format

clean: ## remove caches and build leftovers; keeps logs/, data/ and .venv
	rm -rf {.,engine}/.{pytest_cache,ruff_cache,mypy_cache,hypothesis} {.,engine}/{build,dist} {.,engine}/src/*.egg-info
	find src tests scripts engine -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
