# Every task of the project. `make help` lists them; nothing here needs more than make, bash and a Python 3.10 to 3.13.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV ?= .venv
# What `make run` listens on; every other option comes from the environment or luigi.cfg.
ADDRESS ?= 127.0.0.1
PORT ?= 8082
# More arguments for pytest: make test-fast PYTEST_ARGS="-k journal -x".
PYTEST_ARGS ?=
# What `make bench` measures: SUITE=quick|full, ONLY=part of a scenario's name, REPEATS and SEED; RESUME=1 goes on where a run was
# interrupted.
SUITE ?= full
ONLY ?=
REPEATS ?=
RESUME ?=
SEED ?=
# How many calls `make differential` and `make fuzz` make; without SEED they draw one and print it.
CALLS ?= 20000
# How many seeds `make simulate` plays; without SEED it draws the first and prints it.
SEEDS ?= 200
# How many minutes `make chaos` lets faults happen (5 unless told), or `make fuzz` goes on instead of counting calls.
MINUTES ?=
# Where the report of `make chaos` goes.
REPORT ?= out/chaos
# What builds the image, and the image's name. IMAGE_ARGS adds to it: IMAGE_ARGS="--build-arg PYTHON_IMAGE=...".
ENGINE ?= docker
IMAGE ?= luigi-spanner:$(VERSION)
IMAGE_ARGS ?=
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' scheduler/luigi_spanner/_version.py)

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST := $(BIN)/python -m pytest $(PYTEST_ARGS)

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(STAMP)  ## Create .venv with this package and all that its tests need

$(STAMP): setup.py setup.cfg pyproject.toml tests/constraints.txt .ci/venv
	@.ci/venv $(VENV) $(PYTHON)
	@touch $@

run: venv  ## Serve on 127.0.0.1:8082 with a SQLite store, the visualiser included
	@exec $(BIN)/luigi-spanner serve --address $(ADDRESS) --port $(PORT)

test: lint types pytest  ## Lint, types and every test; what CI runs

pytest: venv  ## Every test, upstream's own suite and the end-to-end runs included
	$(PYTEST)

test-fast: venv  ## The tests that need neither an emulator nor much time
	$(PYTEST) -m "not slow and not emulator"

conformance: venv  ## Luigi's own test suite, run on our scheduler and server
	$(PYTEST) tests/conformance

endtoend: venv  ## Unmodified workers, real processes, kill -9
	$(PYTEST) tests/endtoend

differential: venv  ## Random calls on stock Luigi and on ours, compared: CALLS=1000000 SEED=...
	$(BIN)/python tests/differential/campaign.py --calls $(CALLS) $(if $(SEED),--seed $(SEED))

simulate: venv  ## Replicas under faults, on a virtual clock: SEEDS=10000 SEED=first
	$(BIN)/python tests/simulation/simulate.py --seeds $(SEEDS) $(if $(SEED),--seed $(SEED))

chaos: venv  ## Replicas, a balancer and workers as processes, under faults: MINUTES=20 SEED=... REPORT=...
	@.ci/tools haproxy faketime
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/requirements.txt
	$(BIN)/python tests/chaos/chaosrun.py --minutes $(or $(MINUTES),5) --report $(REPORT) $(if $(SEED),--seed $(SEED))

fuzz: venv  ## Requests of every kind at a real daemon: CALLS=100000 or MINUTES=30, SEED=...
	$(BIN)/python tests/fuzz/fuzz.py $(if $(MINUTES),--minutes $(MINUTES),--calls $(CALLS)) $(if $(SEED),--seed $(SEED))

lint: venv  ## Check style and layout
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: venv  ## Put imports and layout in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: venv  ## Check types, strictly
	$(BIN)/mypy

matrix:  ## Types and every test on each Python 3.10 to 3.13 found here
	@set -e; for python in $$(.ci/pythons); do \
		version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
		echo "== Python $$version"; \
		$(MAKE) --no-print-directory types pytest PYTHON="$$python" VENV=".venvs/$$version"; \
	done

lock:  ## Resolve tests/constraints.txt anew, on Python 3.10 to 3.13
	@pythons=$$(.ci/pythons) && $${pythons##*[[:space:]]} .ci/lock $$pythons

bench: venv  ## Stock luigid and ours side by side; SUITE=quick|full ONLY= REPEATS= SEED= RESUME=1
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement benchmarks/requirements.txt
	$(BIN)/python -m benchmarks --suite $(SUITE) $(if $(ONLY),--only "$(ONLY)") $(if $(REPEATS),--repeats $(REPEATS)) $(if $(SEED),--seed $(SEED)) $(if $(RESUME),--resume)

dashboard: venv  ## Write examples/monitoring/dashboard.json from dashboard.py (Python 3.11 or newer)
	$(BIN)/python examples/monitoring/dashboard.py > examples/monitoring/dashboard.json

chart: venv  ## The Helm chart and the image: lint, objects, schemas, and what the chart runs
	@.ci/tools helm crds prometheus
	CI=true $(PYTEST) tests/chart tests/image

chart-docs: venv  ## Write what values.yaml says into the chart's schema and README, and copy alerts and dashboard
	cp examples/monitoring/alerts.yaml examples/monitoring/dashboard.json helm/luigi-spanner/files/
	$(BIN)/python helm/describe.py

dist: venv  ## Build the wheel and the source archive into dist/
	$(BIN)/python -m pip install --quiet "build>=1.2,<2"
	rm -rf build dist
	$(BIN)/python -m build --outdir dist .

image:  ## Build the container image: ENGINE=docker|podman IMAGE=name:tag IMAGE_ARGS=
	$(ENGINE) build --tag $(IMAGE) --build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD) \
		--build-arg CREATED=$$(date -u +%Y-%m-%dT%H:%M:%SZ) $(IMAGE_ARGS) .

clean:  ## Remove everything that these tasks made
	rm -rf $(VENV) .venvs .tools build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis scheduler/*.egg-info
	find scheduler migrations tests examples -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help venv run test pytest test-fast conformance endtoend differential simulate chaos fuzz lint format types matrix lock bench dashboard chart chart-docs dist image clean
