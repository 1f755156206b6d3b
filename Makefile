# Everything works from a bare clone: the first target that needs it makes $(VENV) and installs requirements.txt.
#   make train ARGS="checkpoint=interval trainer.max_epochs=3"
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
NAME ?=

BIN := $(abspath $(VENV))/bin
INSTALLED := $(VENV)/.installed
# The library. A project that installs it from a package index has no such folder.
ENGINE := $(wildcard engine)
# Packages of the site and of some checks. They are not needed to train, so another stamp stands for them.
KIT := $(VENV)/.kit
# The tests write thousands of small files and sync each one: in memory, where there is room, they take half the time.
MEMORY := $(shell test "$$(df -k --output=avail /dev/shm 2>/dev/null | tail -n 1)" -gt 4000000 2>/dev/null && echo /dev/shm)
# One torch thread per test process: two processes that use all cores are slower than two that use one core each.
# Compiled modules are kept, whatever the shell says: the tests start hundreds of interpreters.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= PYTEST_DEBUG_TEMPROOT=$(MEMORY) $(BIN)/python -m pytest --dist worksteal

# Run the tests of the project, then those of the library, also after a failure. pytest exits with 5 if it finds no test:
# accepted for a project that has none yet, and if ARGS selects tests of the other folder only.
# $(1): options of pytest
define run_tests
status=0; \
for folder in . $(ENGINE); do \
    test -d $$folder/tests || continue; \
    echo "== $$folder/tests"; \
    (cd $$folder && $(PYTEST) $(1) $(ARGS)); code=$$?; \
    test $$code -eq 0 || test $$code$$folder = 5. $(if $(ARGS),|| test $$code -eq 5) || status=1; \
done; \
exit $$status
endef

# NO_MKDOCS_2_WARNING: no advertisement of a successor. Not with --quiet: --strict counts only warnings that are shown.
define build_docs
cd engine && NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict -f website/mkdocs.yml
endef

# Check the site if its packages are installed, or required as in .ci/run.
define check_docs
if test -f engine/website/mkdocs.yml; then \
    if $(BIN)/python -c 'import mkdocs, material, mkdocstrings_handlers.python' 2>/dev/null; then \
        $(build_docs); \
    else \
        echo "The documentation site is not checked: its packages are not installed. make docs installs them."; \
        test "$$CAIRN_CHECK_KIT" != required; \
    fi; \
fi
endef

.DEFAULT_GOAL := help
.PHONY: help install train test test-all bench check docs format schema lock rename clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

install: $(INSTALLED) ## make .venv and install requirements.txt into it; other targets do it when needed

# Depends on the files that it installs from, so that it runs once, and again only after one of them has changed.
# PIP_REQUIRE_VIRTUALENV: pip refuses to install outside of the environment.
$(INSTALLED): requirements.txt constraints.txt pyproject.toml $(wildcard engine/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is required: make PYTHON=python3.12 ...")'
	test -f $(VENV)/pyvenv.cfg || $(PYTHON) -m venv $(VENV)
	PIP_REQUIRE_VIRTUALENV=1 $(BIN)/python -m pip install --disable-pip-version-check --quiet -r requirements.txt
	@touch $@

train: $(INSTALLED) ## train; ARGS="..." are Hydra overrides
	$(BIN)/python train.py $(ARGS)

test: $(INSTALLED) ## run the tests of the project and the fast tests of the library; ARGS="-k loader" selects some
	@$(call run_tests,-n 2 -m "not slow")

# One process more: slow tests wait for SLURM, for time limits, for the ends of processes.
test-all: $(INSTALLED) ## run all tests, including kill -9, SLURM, W&B and notebooks
	@$(call run_tests,-n 3)

bench: $(INSTALLED) ## measure what a save costs; ARGS="--quick", "--help", ...
	cd engine && $(BIN)/python -m benchmarks $(ARGS)

check: $(INSTALLED) ## check style, formatting, types, that the schemas are up to date, and the documentation site
	$(BIN)/ruff check . $(ENGINE)
	$(BIN)/ruff format --check . $(ENGINE)
	$(BIN)/mypy
	$(if $(ENGINE),cd engine && $(BIN)/mypy)
	$(BIN)/python train.py --schema --check
	@$(check_docs)

$(KIT): $(INSTALLED) $(wildcard engine/website/requirements.txt)
	PIP_REQUIRE_VIRTUALENV=1 $(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps \
	    -r engine/website/requirements.txt
	@touch $@

docs: $(if $(ENGINE),$(KIT)) ## build the documentation site: engine/build/site/index.html
	$(if $(ENGINE),$(build_docs),@echo "This project has no folder engine/: the documentation is in the library's repository.")

format: $(INSTALLED) ## sort imports, apply safe fixes, format
	$(BIN)/ruff check --fix-only --quiet . $(ENGINE)
	$(BIN)/ruff format . $(ENGINE)

schema: $(INSTALLED) ## renew .schema/, by which editors complete and check the files in configs/
	$(BIN)/python train.py --schema

# Without $(INSTALLED): after an edit of requirements.txt, the old lock may contradict it.
lock: ## renew constraints.txt: the newest versions that requirements.txt allows
	test -f $(VENV)/pyvenv.cfg || $(PYTHON) -m venv $(VENV)
	$(BIN)/python scripts/lock.py

rename: $(INSTALLED) ## give the package your name: NAME=my_project (FORCE=1: despite uncommitted changes)
	@test -n "$(NAME)" || { echo "make rename needs a name: make rename NAME=my_project" >&2; exit 2; }
	$(BIN)/python scripts/rename.py $(NAME) $(if $(FORCE),--force)
	@$(MAKE) --no-print-directory format

clean: ## remove caches and build leftovers; keeps logs/, data/ and .venv
	for folder in . $(ENGINE); do (cd $$folder && \
	    rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist src/*.egg-info); done
	find $(wildcard src tests scripts) $(ENGINE) -name __pycache__ -type d -prune -exec rm -rf {} +
