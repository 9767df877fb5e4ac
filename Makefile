# Everything runs inside .venv, which `make install` creates in this checkout.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Modules are compiled once, as they are first imported, whatever the caller's environment says.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help install demo test lint bench docs clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/'

install: $(STAMP)  ## create .venv and install modeflow into it (editable)

KERNELS := $(wildcard src/modeflow/native/*.cpp src/modeflow/native/*.h src/modeflow/native/CMakeLists.txt)

$(STAMP): pyproject.toml constraints.txt $(KERNELS)
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@echo "installing modeflow and its development tools into $(VENV) (the first time takes a few minutes)"
	@# Older ones take twice as long to choose among all files of a package.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile 'pip>=24'
	@# Modules are compiled as they are imported: most of what is installed never is.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)  ## fit, score, sample and report on embedded data (under three minutes)
	$(BIN)/modeflow demo

test: $(STAMP)  ## run the tests
	$(BIN)/python -m pytest -n auto --maxprocesses 8

lint: $(STAMP)  ## formatting, lint, types, one-way imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)  ## the comparison with other libraries (long); results go to benchmarks/results
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[peers]'
	$(BIN)/python benchmarks/run.py

docs: $(STAMP)  ## build the documentation into site/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/mkdocs build --strict

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache site
