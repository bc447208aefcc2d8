# make demo    the main job, shown on this machine alone: no internet, GPU or Docker
# make test    everything that CI checks: lint, types, layers, all tests
# make bench   the figures of docs/benchmarks.md (takes a while; needs about 20 GB of memory-backed space)
# make install, make uninstall: syncd as a systemd service, or no more; PREFIX, DESTDIR and PYTHON are heeded
#
# The first three set up what they need: a virtual environment in .venv and, where it runs as root on Debian, Debian's packages.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# xdist's workers: one more than there are cores, since booted machines, containers and servers are mostly waited for.
WORKERS ?= $(shell expr $$(nproc) + 1)

.DEFAULT_GOAL := help
.PHONY: help setup system demo test lint format bench install uninstall clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

setup: system $(VENV)/.installed

# Programs that tests and demo run for real. Missing ones fail the tests in CI and are skipped, loudly, elsewhere.
system:
	@.ci/system-packages docker-registry strace e2fsprogs btrfs-progs mount systemd systemd-container debootstrap python3-venv prometheus
	@# Another Docker than Debian's would be taken away for it.
	@command -v dockerd >/dev/null || .ci/system-packages docker.io

$(VENV)/.installed: pyproject.toml
	@.ci/system-packages python3-venv
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable . --group test --group lint
	@touch $@

demo: $(VENV)/.installed
	@$(BIN)/python -m demo.demo

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: setup lint
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.installed
	@.ci/system-packages docker-registry aria2 curl nginx-light
	$(BIN)/python -m benchmarks.run

# What systemd/install does, with these variables.
install uninstall:
	@PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" PYTHON="$(PYTHON)" systemd/install $@

clean:
	rm -rf $(VENV) .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
