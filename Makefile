# make demo    the main job, shown on this machine alone: no internet, GPU or Docker
# make test    everything that CI checks: lint, types, layers, all tests
# make bench   the figures of docs/benchmarks.md (takes a while; needs about 20 GB of memory-backed space)
# make docs    the pages of docs/ that are made of the code: settings, metrics, errors
# make image   the container image syncd:VERSION, by docker build
# make lock    requirements*.lock anew: the versions and hashes that the image is made of
# make dist    sdist and wheel, in dist/
# make test-lowest   unit, API and pull tests with the oldest dependencies that pyproject.toml allows
# make audit   the dependencies, against the lists of known vulnerabilities (needs the internet)
# make install, make uninstall: syncd as a systemd service, or no more; PREFIX, DESTDIR, PYTHON and WHEEL are heeded
#
# The first three set up what they need: a virtual environment in .venv and, where it runs as root on Debian, Debian's packages.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BUILD ?= $(BIN)/python -m build
# xdist's workers: three more than there are cores, since booted machines, containers and servers are mostly waited for.
WORKERS ?= $(shell expr $$(nproc) + 3)

.DEFAULT_GOAL := help
.PHONY: help setup system demo test lint format bench docs image lock dist test-lowest audit install uninstall clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

setup: system $(VENV)/.installed

# Programs that tests and demo run for real. Missing ones fail the tests in CI and are skipped, loudly, elsewhere.
system:
	@.ci/system-packages docker-registry strace skopeo umoci e2fsprogs btrfs-progs mount systemd systemd-container debootstrap python3-venv prometheus \
	    zsh fish mandoc groff-base man-db
	@# Another Docker than Debian's would be taken away for it.
	@command -v dockerd >/dev/null || .ci/system-packages docker.io
	@command -v docker-compose >/dev/null || .ci/system-packages docker-compose

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

# The hundreds of Pythons that the tests start keep what they have compiled, whatever the caller prefers for his own.
test test-lowest: export PYTHONDONTWRITEBYTECODE :=
test: setup lint
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.installed
	@.ci/system-packages docker-registry aria2 curl nginx-light
	$(BIN)/python -m benchmarks.run

docs: $(VENV)/.installed
	$(BIN)/python -m docs.reference

# BUILD_ARGS: more for docker build, as --secret id=pip,src=FILE (docs/image.md).
image:
	@version=$$(sed -n 's/^__version__ = "\(.*\)"$$/\1/p' syncd/__init__.py); \
	DOCKER_BUILDKIT=1 docker build --tag "syncd:$$version" --tag syncd:latest \
	    --build-arg "VERSION=$$version" --build-arg "REVISION=$$(git rev-parse HEAD)" \
	    --build-arg "CREATED=$$(date --utc +%Y-%m-%dT%H:%M:%SZ)" $(BUILD_ARGS) .

# With the oldest Python that syncd runs on: what a newer one needs is a part of that.
lock:
	$(PYTHON) -m venv --clear $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet --upgrade "pip>=25.1" "pip-tools>=7.5"
	@for lock in "pyproject.toml requirements" "requirements-image.in requirements-image"; do set -- $$lock; \
	    CUSTOM_COMPILE_COMMAND="make lock" $(VENV)-lock/bin/pip-compile --quiet --upgrade --generate-hashes --strip-extras \
	        --allow-unsafe --no-emit-options --output-file "$$2.lock" "$$1" || exit; done
	rm -rf $(VENV)-lock

# From the last commit's time on, the same files make the same archives, byte for byte.
dist: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 1577836800)
dist: $(if $(filter $(BIN)/%,$(BUILD)),$(VENV)/.installed)
	rm -rf dist
	$(BUILD) --outdir dist .

# The oldest versions of the dependencies that pyproject.toml allows.
# Not the fuzzing of the API: what does that needs newer ones.
test-lowest: system
	$(PYTHON) -m venv --clear $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(VENV)-lowest/bin/python tests/packaging/lowest.py pyproject.toml > $(VENV)-lowest/constraints.txt
	$(VENV)-lowest/bin/python -m pip install --quiet --constraint $(VENV)-lowest/constraints.txt --editable . --group test-basic
	$(VENV)-lowest/bin/python -m pytest -n $(WORKERS) --ignore tests/api/test_openapi.py tests/unit tests/api tests/pull $(ARGS)

# Known vulnerabilities of what the image is made of. It asks a service in the internet, so no test depends on it.
# --strict: what that service does not know is no pass. ARGS="-s osv" asks another one.
audit:
	$(PYTHON) -m venv --clear $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet "pip-audit>=2.9"
	$(VENV)-audit/bin/pip-audit --strict --disable-pip --require-hashes --requirement requirements.lock --requirement requirements-image.lock $(ARGS)
	rm -rf $(VENV)-audit

# What systemd/install does, with these variables.
install uninstall:
	@PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" PYTHON="$(PYTHON)" WHEEL="$(WHEEL)" systemd/install $@

clean:
	rm -rf $(VENV) $(VENV)-* .demo dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
