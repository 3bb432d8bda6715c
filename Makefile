# SPDX-License-Identifier: Apache-2.0
# Everything here sets up what it needs: Debian packages (packages.txt), the virtual environment .venv with what
# pyproject.toml names, and this package in it. `make help` lists the targets.

PYTHON ?= python3
TEST_JOBS ?= 2
ARGS ?=

# Where files stay in memory, so that the many that tests write and sync wait for no disk; empty where there is no room.
MEMORY := $(shell [ "$$(df --output=avail /dev/shm 2>/dev/null | tail -n 1)" -gt 6000000 ] 2>/dev/null && echo /dev/shm)

VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml meson.build meson.options $(shell find src man data dbus-interfaces systemd -type f \
  ! -path '*/__pycache__/*' ! -name '.*' 2>/dev/null)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-slow test-vm bench lint completions manual wheel clean setup packages python

help:  ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: setup  ## the main job with a small Debian image, from install to cleanup; leaves demo-output/
	@PYTHONPATH=tests $(BIN)/python demo/run.py $(ARGS)

test: setup  ## the tests (a few minutes); ARGS='-k etc' are pytest's
	PYTEST_DEBUG_TEMPROOT=$(MEMORY) $(BIN)/pytest -n $(TEST_JOBS) -m 'not slow' $(ARGS)

test-slow: setup  ## the tests that take long, such as one with a complete Debian system
	$(BIN)/pytest -n $(TEST_JOBS) --dist loadfile -m slow $(ARGS)

test-vm: setup  ## those of them that bring a kernel, in a virtual machine: fs-verity and FAT; systemd and our units
	$(BIN)/pytest -n $(TEST_JOBS) --dist loadfile -m slow tests/vm tests/systemd $(ARGS)

bench: setup  ## speed and memory against the bare pipeline; ARGS=--quick for a short run
	PYTHONPATH=tests $(BIN)/python -m benchmarks $(ARGS)

lint: setup  ## ruff, mypy --strict and the rules of the house
	$(BIN)/pytest -q tests/test_linters.py tests/test_house.py $(ARGS)

completions: setup  ## writes data/completions/ anew from the command line's parser
	@PYTHONPATH=src $(BIN)/python tools/completions.py

manual: setup  ## writes the reference of man/org.bootcd1.5 anew from dbus-interfaces/
	@PYTHONPATH=src $(BIN)/python tools/bus_manual.py

wheel: setup  ## a wheel in dist/
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .
	@ls -l dist

clean:  ## removes what was built, and the demo's output; keeps downloaded packages and .venv
	rm -rf build/cp* dist demo-output

# --- set-up -----------------------------------------------------------------------------------------------------------

# docker-registry is unpacked, not installed: the package would start a service that listens on all addresses.
setup: $(VENV)/.package
	@PYTHONPATH=tests $(BIN)/python -m kit.debian docker-registry || \
	  echo "==> Going on without docker-registry; tests that need it are skipped."

packages:
	@tools/debian-packages

python: | packages
	@command -v $(PYTHON) >/dev/null || { echo "'$(PYTHON)' is missing: apt-get install python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; '$(PYTHON)' is $$($(PYTHON) -V). Choose another: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' has no venv module: sudo apt-get install --yes python3-venv"; exit 1; }

# The checks run each time and are order-only, for an environment that is there is good enough.
$(VENV)/bin/python: | python
	@echo "==> Making $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)

$(VENV)/.requirements: $(VENV)/bin/python pyproject.toml tools/requirements.py
	@echo "==> Installing what pyproject.toml names into $(VENV)"
	@$(BIN)/python tools/requirements.py > $@.txt
	@$(BIN)/pip install -qq --disable-pip-version-check --requirement $@.txt
	@touch $@

$(VENV)/.package: $(VENV)/.requirements $(SOURCES)
	@echo "==> Building bootcd and installing it into $(VENV)"
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pip install --quiet --disable-pip-version-check --no-deps \
	  --no-build-isolation .
	@touch $@
