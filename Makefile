# `make demo` trains the digits CNN and fetches the model; `make check` runs the quick checks and `make test` all of them.
# Each creates the environment it needs in .venv. Requirements: git, make and Python 3.11 or later (to choose one: make demo PYTHON=python3.12).

PYTHON ?= python3
VENV ?= .venv
# Extra arguments for pip, such as an index with CPU-only wheels of torch or a second constraints file: make venv PIP_ARGS="-c other.txt"
PIP_ARGS ?=
# The folder that `make demo` fetches the model into.
DEMO ?= demo
# The number of processes that run the tests: more than two processors, because some tests wait for containers and for other processes.
JOBS ?= 3

# The modules of `run` that the worker uses. Like the worker and two modules of `job`, they must work on Python 3.10, in users' own images.
WORKERS_RUN := cached checkpoints code_identity documents fencing layout manifest metrics platform_rules ranking record repository shard_exchange starting_point states streams succession thinning turns
IN_CONTAINERS := cloud_train/beneath.py cloud_train/environment.py cloud_train/errors.py cloud_train/exit_status.py cloud_train/locks.py cloud_train/private.py cloud_train/spec/paths.py cloud_train/spec/secret_names.py cloud_train/data/json_stream.py cloud_train/data/downloads.py cloud_train/data/shards.py cloud_train/retry.py cloud_train/worker cloud_train/storage $(patsubst %,cloud_train/run/%.py,$(WORKERS_RUN))

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_STAMP := $(VENV)/.demo

pip = "$(BIN)/python" -m pip --disable-pip-version-check
define require_python
	command -v "$(PYTHON)" >/dev/null || { echo "error: '$(PYTHON)' not found; name a Python 3.11 or later: make $(or $(MAKECMDGOALS),venv) PYTHON=/path/to/python3" >&2; exit 1; }; \
	"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1); cloud-train needs Python 3.11 or later: make $(or $(MAKECMDGOALS),venv) PYTHON=/path/to/python3" >&2; exit 1; }
endef
create_venv = "$(PYTHON)" -m venv "$(VENV)" || { echo "error: '$(PYTHON)' cannot create a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }

compile = build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header -c constraints.txt

# The environment is installed without compiled code, which the first import of each module writes. Where a caller's variable forbids that,
# every process of the tests would compile everything again: torch takes three times as long.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv demo rehearsal image lock check test lint types unit quick attack chaos protocol judge cloud-check docs format benchmark clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r target text; do printf '%-18s %s\n' "$$target" "$$text"; done

venv: $(STAMP)  ## create the developers' environment in .venv, from requirements-dev.lock

# Hashes hold every package. Builds of torch for other indexes have other hashes than the lock: with PIP_ARGS, that wheel is downloaded first, and
# tools/own_wheels.py pins the lock to it and drops what only the CUDA build needs. pip accepts no hashes for an editable install: hence the last step.
$(STAMP): pyproject.toml requirements-dev.lock tools/own_wheels.py
	@$(require_python)
	$(create_venv)
	@rm -rf "$(VENV)/wheels" && mkdir "$(VENV)/wheels"
	$(if $(strip $(PIP_ARGS)),$(pip) download --quiet --no-deps -d "$(VENV)/wheels" -c constraints.txt $(PIP_ARGS) torch)
	"$(BIN)/python" tools/own_wheels.py requirements-dev.lock "$(VENV)/wheels" > "$(VENV)/requirements.txt"
	$(pip) install --quiet --no-compile --require-hashes --find-links "$(VENV)/wheels" -r "$(VENV)/requirements.txt"
	$(pip) install --quiet --no-deps --no-build-isolation -e .
	@rm -rf "$(VENV)/wheels" && touch "$@"

# The demo reads the table of digits that scikit-learn ships and uses nothing else of it, so scikit-learn's own dependencies are left out.
$(DEMO_STAMP): pyproject.toml constraints.txt
	@$(require_python)
	$(create_venv)
	@echo "Installing into $(VENV) what the demo needs: cloud-train, torch, numpy, safetensors, tensorboardX and scikit-learn's digits."
	$(pip) install --quiet --no-compile -c constraints.txt $(PIP_ARGS) -e . numpy safetensors tensorboardX torch
	$(pip) install --quiet --no-compile --no-deps -c constraints.txt $(PIP_ARGS) scikit-learn
	@touch "$@"

demo: $(firstword $(wildcard $(STAMP)) $(DEMO_STAMP))  ## train jobs/digits-cnn.yaml and fetch the model; installs only what that needs
	"$(BIN)/cloud-train" submit jobs/digits-cnn.yaml --follow
	@mkdir -p "$(DEMO)"
	cd "$(DEMO)" && "$(abspath $(BIN))/cloud-train" fetch-model

rehearsal: $(STAMP)  ## move one run across three simulated clouds, interrupted twice, to the same bytes; needs Docker, `make image` and Azurite
	"$(BIN)/python" -m tests.clouds.rehearsal

image:  ## build the base image of the built-in trainers with Docker, for the provider docker
	docker build -t "cloud-train-worker:$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' cloud_train/version.py)" .

lock:  ## update requirements.lock (the base image) and requirements-dev.lock (developers and CI) from constraints.txt; needs the package index
	"$(PYTHON)" -m venv build/lock
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(compile) -o requirements.lock requirements.in
	$(compile) --extra all --extra dev --extra docs -o requirements-dev.lock pyproject.toml

check: lint types quick  ## the quick checks: style, types and the tests without Docker, servers and long trainings; three minutes on two cores

test: lint types docs unit  ## every check: style, types, import rules, documentation, all tests

lint: $(STAMP)  ## style and import rules
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/lint-imports" --no-cache

# mypy uses one processor, and what it remembers of one version of Python does not serve the other: the two run side by side.
types: $(STAMP)  ## mypy --strict over package, tests and benchmarks; for Python 3.10 too over what runs in containers
	@"$(BIN)/mypy" & everything=$$!; \
	"$(BIN)/mypy" --python-version 3.10 $(IN_CONTAINERS) & containers=$$!; \
	wait $$everything; first=$$?; wait $$containers && exit $$first

unit: $(STAMP)  ## all tests
	"$(BIN)/python" -m pytest -n $(JOBS) --dist worksteal -q

quick: $(STAMP)  ## the tests of `make check` alone
	"$(BIN)/python" -m pytest -n $(JOBS) --dist worksteal -q -m "not docker and not cloud and not slow"

attack: $(STAMP)  ## the attacks alone, which `make test` includes: hostile stores, repositories, registries and containers
	"$(BIN)/python" -m pytest -n $(JOBS) --dist worksteal -q tests/attack

chaos: $(STAMP)  ## play what SEED draws, and the COUNT - 1 seeds after it: two machines share a run while parts fail (CHAOS=--more: in all stores and containers)
	"$(BIN)/python" -m tests.chaos "$(or $(SEED),1)" "$(or $(COUNT),10)" $(CHAOS)

protocol: $(STAMP)  ## explore more orders of events of the protocol that keeps two attempts from writing at once; an hour
	CLOUD_TRAIN_PROTOCOL_DEPTH=2 CLOUD_TRAIN_PROTOCOL_SAMPLES=20000 "$(BIN)/python" -m pytest -n $(JOBS) -q -s tests/protocol

# AWS's SDK has dependencies that contradict ours, so it has an environment of its own.
build/judge/.installed:
	@$(require_python)
	"$(PYTHON)" -m venv build/judge
	build/judge/bin/python -m pip install --quiet --disable-pip-version-check 'sagemaker>=2.257,<3'
	@touch "$@"

judge: $(STAMP) build/judge/.installed  ## let the local mode of AWS's own SDK run a job's request; needs Docker and docker-compose
	CLOUD_TRAIN_JUDGE="$(CURDIR)/build/judge/bin/python" "$(BIN)/python" -m pytest -q -rs tests/judge

cloud-check: $(STAMP)  ## small checks on a real account, after a question about their price: make cloud-check CONFIG=aws [ARGS=--list]
	"$(BIN)/python" -m tools.cloud_check "$(CONFIG)" $(ARGS)

docs: $(STAMP)  ## build the documentation site into build/docs; warnings are errors
	"$(BIN)/python" -m sphinx --fail-on-warning --keep-going --quiet --fresh-env -b html docs build/docs

format: $(STAMP)  ## reformat the code
	"$(BIN)/ruff" check --fix .
	"$(BIN)/ruff" format .

benchmark: $(STAMP)  ## measure what docs/benchmarks.md reports
	"$(BIN)/python" -m benchmarks

clean:  ## remove the environment, the demo and all caches
	rm -rf "$(VENV)" "$(DEMO)" build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
