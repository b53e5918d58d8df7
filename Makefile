# `make repro` sets up and runs the pipeline; `make test` sets up and runs the tests. Python 3.11 or 3.12, git and make
# are all that is needed.
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3,$(if $(shell command -v $(p) 2>/dev/null),$(p))))
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: repro study test unit lint types check machine doctor clean

repro: doctor
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/dvc repro
	@echo "The report is report/index.html; the figures: dvc metrics show"

# An hour and a half: the curriculum with and without each option, three seeds each, as DVC experiments.
study: repro
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/cadmllm study curriculum --seeds 3

test: machine
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadgroup

unit: $(READY)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest tests/unit

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(READY)
	$(BIN)/mypy

check: lint types test

# Libraries, memory, disk: said before anything else fails.
machine: $(READY)
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/cadmllm doctor --no-preset

doctor: $(READY)
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/cadmllm doctor

# The lock names every package, so pip has nothing to resolve.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 13) else "Python 3.11 or 3.12 is needed (make PYTHON=...)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

clean:
	rm -rf scratch dvc_plots wandb
