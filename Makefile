# One virtual environment, two stamps: `demo` and `bench` need the package alone, the checks also need the `dev` extra.
# A stamp is older than pyproject.toml or constraints.txt only if one of them changed, so set-up is skipped otherwise.
#
# Another torch (a GPU build, say): CONSTRAINTS= drops the pins, PIP_ARGS adds an index or a wheel folder, and
# VENV_ARGS=--system-site-packages reuses a torch that the machine already has:
#   make setup CONSTRAINTS= PIP_ARGS="--extra-index-url <the index PyTorch's install page names for your GPU>"
PYTHON      ?= python3
VENV        ?= .venv
VENV_ARGS   ?=
PIP_ARGS    ?=
PYTEST_ARGS ?=
KILLS       ?= 10
CONSTRAINTS ?= constraints.txt
LOWEST      ?= .venv-lowest
WHEEL       ?= .venv-wheel

BIN     := $(VENV)/bin
CORE    := $(VENV)/.core-stamp
DEV     := $(VENV)/.dev-stamp
INPUTS  := pyproject.toml $(CONSTRAINTS)
INSTALL := $(BIN)/python -m pip install --quiet --no-compile $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) $(PIP_ARGS)
# Byte-compiled here on all cores rather than by pip on one, the libraries' own tests left out. Where Python is told to write no
# bytecode (PYTHONDONTWRITEBYTECODE), every import of torch would else compile it anew. The exit code is not looked at: torch
# ships a file in the grammar of a newer Python.
COMPILE := $(BIN)/python -m compileall -qq -j 0 -x '/tests/' $(VENV)/lib || true
# The checkout's own modules too, before what starts the program many times; only those that changed are compiled.
COMPILE_OWN := $(BIN)/python -m compileall -qq src tests || true

.DEFAULT_GOAL := help
.PHONY: help setup setup-core format lint contracts typecheck test test-slow soak bench demo docs check lowest wheel clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(DEV)  ## create .venv with the package and the developers' tools
setup-core: $(CORE)  ## create .venv with the package alone

$(BIN)/python:
	$(PYTHON) -m venv $(VENV_ARGS) $(VENV)

$(CORE): $(INPUTS) | $(BIN)/python
	$(INSTALL) --editable .
	$(COMPILE)
	@touch $@

$(DEV): $(INPUTS) | $(BIN)/python
	$(INSTALL) --editable '.[dev]'
	$(COMPILE)
	@touch $(CORE) $@

format: $(DEV)  ## rewrite the code in the house format
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

lint: $(DEV)  ## format and ruff; changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

contracts: $(DEV)  ## who imports whom (docs/design.md)
	$(BIN)/lint-imports

typecheck: $(DEV)  ## mypy, strict, on src and tests
	$(BIN)/mypy

test: $(DEV)  ## the tests that run in minutes, on two processes; PYTEST_ARGS="-n 0 -k lsq" is passed on
	@$(COMPILE_OWN)
	$(BIN)/pytest -n 2 --dist worksteal $(PYTEST_ARGS)

test-slow: $(DEV)  ## the tests marked slow
	@$(COMPILE_OWN)
	$(BIN)/pytest -m slow --hypothesis-profile thorough $(PYTEST_ARGS)

soak: $(DEV)  ## hundreds of kills, two at once, signals; KILLS=10 of each of fifteen jobs in two ways
	@$(COMPILE_OWN)
	$(BIN)/pytest -m slow tests/faults --kills $(KILLS) $(PYTEST_ARGS)

bench: $(CORE)  ## run every benchmarks/*.py
	@set -e; for script in $(sort $(wildcard benchmarks/*.py)); do echo "== $$script"; $(BIN)/python "$$script"; done

demo: $(CORE)  ## the whole method on scikit-learn's digits: teacher to INT8 ONNX
	env -u OMP_NUM_THREADS $(BIN)/python -m spaceevo +stage=pipeline experiment=digits

docs: $(DEV)  ## the documentation's site, in site/
	$(INSTALL) --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

check: lint contracts typecheck test  ## everything a change must pass

lowest:  ## the tests with the lowest versions that pyproject.toml allows, in .venv-lowest; takes PYTEST_ARGS
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --editable '.[dev]'
	$(LOWEST)/bin/python -m pytest -n 2 $(PYTEST_ARGS)

wheel: $(DEV)  ## build wheel and sdist into dist/; the demo from the wheel alone, in .venv-wheel and an empty folder
	rm -rf dist $(WHEEL)
	$(BIN)/python -m build
	$(PYTHON) -m venv $(WHEEL)
	$(WHEEL)/bin/python -m pip install --quiet --no-compile $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) $(PIP_ARGS) dist/*.whl
	cd "$$(mktemp -d)" && env -u OMP_NUM_THREADS -u PYTHONPATH $(abspath $(WHEEL))/bin/spaceevo +stage=pipeline experiment=digits

clean:  ## remove caches and built packages; keeps .venv, data and runs
	rm -rf build dist site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache src/*.egg-info
	find . -path './$(VENV)' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
