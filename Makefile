# `make demo` and `make test` set up all they need in .venv; the rest expects one of them to have run.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROJECT_FILES := pyproject.toml constraints.txt

.PHONY: demo test check bench soak proto clean
.DELETE_ON_ERROR:

$(VENV)/.demo: $(PROJECT_FILES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo]'
	touch $@

$(VENV)/.dev: $(PROJECT_FILES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/.demo

# The main job: train on this machine, derive cutoffs, train with them, compare. Runs add up in results/.
demo: $(VENV)/.demo
	@set -e; export PATH="$(CURDIR)/$(BIN):$$PATH"; \
	run() { echo; echo "\$$ $$*"; "$$@"; }; \
	run python -m harness.run; \
	run python -m analysis.cutoff results/ -o cutoffs.json; \
	run python -m harness.run --cutoffs cutoffs.json; \
	run python -m analysis.pareto results/

# What measures times or fills the machine runs by itself, after the rest.
test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 -m "not serial"
	$(BIN)/python -m pytest -m serial

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage* htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
