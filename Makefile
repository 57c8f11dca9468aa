PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# The versions for every install and build; `make LOCK=/dev/null test` uses the newest ones instead.
# As variables, because pip 25.3 and later has a separate one for builds.
LOCK ?= requirements.lock
export PIP_CONSTRAINT := $(LOCK)
export PIP_BUILD_CONSTRAINT := $(LOCK)

# A broker of the npm registry, for `make brokers`.
AEDES := build/aedes/node_modules/aedes/package.json

.PHONY: help install demo test lint lock train faults brokers fuzz cluster bench profile bench-train clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | column -t -s "$$(printf '\t')"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The demo needs no TensorFlow; every other target installs everything.
$(VENV)/.demo: pyproject.toml $(LOCK) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

$(VENV)/.all: pyproject.toml $(LOCK) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@ $(VENV)/.demo

install: $(VENV)/.all ## Install everything into .venv

demo: $(VENV)/.demo ## Run the demo: simulated patients, alarms raised and cleared; Ctrl-C stops it
	$(BIN)/ecg-monitor demo

# By file, so that what the tests of one share is made once.
test: install ## Run the tests; ECG_DATA names the folder of the data sets
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: install ## Check style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# One file for all supported versions of Python; lines for some of them are marked.
lock: | $(BIN)/python ## Update the lock file to the newest versions that pyproject.toml allows
	PIP_CONSTRAINT= $(BIN)/python -m pip install --quiet --upgrade uv
	echo 'hatchling>=1.27' | $(BIN)/uv pip compile --quiet --upgrade --universal \
	  --python-version 3.11 --all-extras --no-annotate --custom-compile-command 'make lock' \
	  --output-file requirements.lock pyproject.toml -

train: install ## Train everything and write a report: out/report.html
	$(BIN)/ecg-train all

faults: install ## Inject faults under load and print what happened to the beats
	$(BIN)/python -m tests.harness.faults

$(AEDES):
	mkdir -p build/aedes
	-npm install --prefix build/aedes --silent --no-audit --no-fund aedes@1.2.0

brokers: install $(if $(shell command -v npm),$(AEDES)) ## Try the promises with five brokers; print the table of docs/brokers.md
	$(BIN)/python -m tests.harness.promises

fuzz: install ## Send a million hostile messages (or MESSAGES=N, SEED=N) beside a patient
	$(BIN)/python -m tests.harness.fuzz $(or $(MESSAGES),1000000) $(or $(SEED),0)

cluster: install ## Let nodes and daemons of a cluster fail under load, and print what happened
	$(BIN)/python -m tests.harness.cluster

bench: install ## Compare the daemons, batch, and training with what they are built on
	$(BIN)/python -m tests.bench.streaming
	$(BIN)/python -m tests.bench.files
	$(BIN)/python -m tests.bench.fit
	$(BIN)/python -m tests.bench.train denoise --epochs 10 --ours-epochs 7 --seeds 3
	$(BIN)/python -m tests.bench.train vae --epochs 10 --ours-epochs 3

profile: install ## Print where the daemon's time goes, station by station
	$(BIN)/python -m tests.bench.profile

bench-train: install ## Compare the trainings with the sources' plain code
	$(BIN)/python -m tests.bench.train

clean: ## Remove generated files
	rm -rf $(VENV) out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
