PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Every install, and every build for one, takes its versions from here; `make LOCK=/dev/null test`
# takes the newest. By variables, for pip 25.3 and later asks for the second by a name of its own.
LOCK ?= requirements.lock
export PIP_CONSTRAINT := $(LOCK)
export PIP_BUILD_CONSTRAINT := $(LOCK)

.PHONY: help install demo test lint lock train faults bench bench-train clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | column -t -s "$$(printf '\t')"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The demo needs no TensorFlow; everything else brings all there is.
$(VENV)/.demo: pyproject.toml $(LOCK) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

$(VENV)/.all: pyproject.toml $(LOCK) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@ $(VENV)/.demo

install: $(VENV)/.all ## Install everything into .venv

demo: $(VENV)/.demo ## Show it: simulated patients, alarms raised and cleared; Ctrl-C ends it
	$(BIN)/ecg-monitor demo

# By file, so that what the tests of one share is made once.
test: install ## Run the tests; ECG_DATA names the folder of the data sets
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: install ## Check style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# One file for every supported Python: a line that is for some of them alone says so.
lock: | $(BIN)/python ## Renew the lock: the newest versions that fit pyproject.toml
	PIP_CONSTRAINT= $(BIN)/python -m pip install --quiet --upgrade uv
	echo 'hatchling>=1.27' | $(BIN)/uv pip compile --quiet --upgrade --universal \
	  --python-version 3.11 --all-extras --no-annotate --custom-compile-command 'make lock' \
	  --output-file requirements.lock pyproject.toml -

train: install ## Train everything and make a page of it: out/report.html
	$(BIN)/ecg-train all

faults: install ## Break things under load and print what became of the beats
	$(BIN)/python -m tests.harness.faults

bench: install ## Measure the daemon beside a bare subscriber
	$(BIN)/python -m tests.bench.streaming

bench-train: install ## Measure the trainings beside the sources' plain code
	$(BIN)/python -m tests.bench.train

clean: ## Remove what the targets made
	rm -rf $(VENV) out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
