# make demo          train on text from the shipped grammar, translate, evaluate: about 5 minutes on two cores
# make test          the fast tests
# make test-slow     the tests that train models
# make test-faults   kills, failing disks, damaged files, two at once: 600 faults, and a table of what came of them
# make test-mutants  150 small faults put into losses, search, calibration and batching: which do the tests notice?
# make check         ruff, mypy, and known vulnerabilities of the versions in constraints.txt
# make docs          the documentation as a site, in site/; warnings are errors
# make clean         removes the virtual environment and the demo's run
#
# Each sets up what it needs in .venv on its first call. PAIR=fr-en make demo does French to English.

PYTHON ?= python3
VENV ?= .venv
PAIR ?= de-en
DEMO_DIR ?= runs/demo-$(PAIR)
# more options of train.py for the demo, such as "--train.max_steps 100"
DEMO_OPTIONS ?=

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# exit code 5 of pytest: no test of this kind is there
PYTEST := $(BIN)/python -m pytest

.PHONY: help demo test test-slow test-faults test-mutants check docs clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

$(INSTALLED): pyproject.toml constraints.txt
	@echo "setting up $(VENV) (once)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "error: Python 3.10 or later is needed, this is " + sys.version.split()[0])'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet "pip>=22"
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,docs]"
	@touch $@

demo: $(INSTALLED)
	$(BIN)/mt demo $(PAIR) --run_dir $(DEMO_DIR) $(DEMO_OPTIONS)

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(PYTEST) -q -n auto -m "not slow" || [ $$? -eq 5 ]

test-slow: $(INSTALLED)
	$(PYTEST) -q -m slow || [ $$? -eq 5 ]

test-faults: $(INSTALLED)
	$(BIN)/python tests/faults/run.py --count 600

test-mutants: $(INSTALLED)
	$(BIN)/python tests/mutants/run.py --count 150 --seed 1

check: $(INSTALLED)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python .ci/audit.py

docs: $(INSTALLED)
	$(BIN)/python -m mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) $(DEMO_DIR) build site dist *.egg-info
