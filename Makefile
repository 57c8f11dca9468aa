PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help install demo test lint train faults bench bench-train clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | column -t -s "$$(printf '\t')"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The demo needs no TensorFlow; everything else brings all there is.
$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

$(VENV)/.all: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@ $(VENV)/.demo

install: $(VENV)/.all ## Install everything into .venv

demo: $(VENV)/.demo ## Show it: simulated patients, alarms raised and cleared; Ctrl-C ends it
	$(BIN)/ecg-monitor demo

test: install ## Run the tests; ECG_DATA names the folder of the data sets
	$(BIN)/python -m pytest

lint: install ## Check style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

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
