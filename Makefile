# `make demo` trains the digits CNN and brings the model home; `make test` runs every check. Both make their own environment in .venv
# and need nothing beforehand but git, make and Python 3.11 or later (another one than python3: make demo PYTHON=python3.12).

PYTHON ?= python3
VENV ?= .venv
# More for pip, such as a second constraints file or an index with CPU-only wheels: make venv PIP_ARGS="-c other.txt"
PIP_ARGS ?=
# Where `make demo` puts the model that it fetches.
DEMO ?= demo
# Processes that the tests are spread over.
JOBS ?= 2

# What the worker uses of the room `run`, beside two modules of `job`: with the worker, it has to work on Python 3.10, in images of the user's own.
WORKERS_RUN := arrivals cached checkpoints documents layout manifest python_path ranking record states

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv demo rehearsal image lock test lint types unit attack format benchmark clean

help:  ## show what there is
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r target text; do printf '%-16s %s\n' "$$target" "$$text"; done

venv: $(STAMP)  ## make the environment in .venv

$(STAMP): pyproject.toml constraints.txt
	@command -v "$(PYTHON)" >/dev/null || { echo "error: there is no '$(PYTHON)'; name a Python 3.11 or later: make $(or $(MAKECMDGOALS),venv) PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1); cloud-train needs Python 3.11 or later: make $(or $(MAKECMDGOALS),venv) PYTHON=/path/to/python3" >&2; exit 1; }
	"$(PYTHON)" -m venv "$(VENV)" || { echo "error: '$(PYTHON)' cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	"$(BIN)/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_ARGS) -e '.[all,dev]'
	@touch "$@"

demo: $(STAMP)  ## train jobs/digits-cnn.yaml to the end and fetch the model
	"$(BIN)/cloud-train" submit jobs/digits-cnn.yaml --follow
	@mkdir -p "$(DEMO)"
	cd "$(DEMO)" && "$(abspath $(BIN))/cloud-train" fetch-model

rehearsal: $(STAMP)  ## one run over three simulated clouds, interrupted twice, to the same bytes; needs Docker, `make image` and Azurite
	"$(BIN)/python" -m tests.clouds.rehearsal

image:  ## build the base image of cloud-train's own trainers with Docker: provider docker trains in it
	docker build -t "cloud-train-worker:$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' cloud_train/version.py)" .

lock:  ## write requirements.lock: the packages of the base image with their hashes, in the versions of constraints.txt; needs the package index
	"$(PYTHON)" -m venv build/lock
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check uv
	build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header -c constraints.txt -o requirements.lock requirements.in

test: lint types unit  ## run every check: style, types, import rules, tests

lint: $(STAMP)  ## style and import rules
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/lint-imports" --no-cache

types: $(STAMP)  ## mypy --strict over the package, its tests and its benchmarks; what goes into containers for Python 3.10 too
	"$(BIN)/mypy"
	"$(BIN)/mypy" --python-version 3.10 cloud_train/beneath.py cloud_train/errors.py cloud_train/job/secrecy.py cloud_train/job/shards.py cloud_train/retry.py cloud_train/worker cloud_train/storage $(patsubst %,cloud_train/run/%.py,$(WORKERS_RUN))

unit: $(STAMP)  ## the tests
	"$(BIN)/python" -m pytest -n $(JOBS) --dist worksteal -q

attack: $(STAMP)  ## the attacks alone, which are part of `make test`: hostile stores, repositories, registries and containers
	"$(BIN)/python" -m pytest -n $(JOBS) --dist worksteal -q tests/attack

format: $(STAMP)  ## put the code into the project's format
	"$(BIN)/ruff" check --fix .
	"$(BIN)/ruff" format .

benchmark: $(STAMP)  ## measure what docs/benchmarks.md reports, and print it
	"$(BIN)/python" -m benchmarks

clean:  ## remove the environment, the demo and every cache
	rm -rf "$(VENV)" "$(DEMO)" build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
