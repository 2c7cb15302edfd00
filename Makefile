# make demo: see it work. make test: prove it. Both work again without network once installed, until
# pyproject.toml or constraints.txt change: changed sources need no new installation.
PYTHON ?= python3
VENV ?= .venv
DIST ?= dist
BIN := $(VENV)/bin
# by content, not by time: a fresh checkout of the same files installs nothing, so needs no network
WANTED := $(shell cat pyproject.toml constraints.txt | cksum | cut -d ' ' -f 1)
INSTALLED := $(VENV)/.installed-$(WANTED)
INSTALLED_DEV := $(VENV)/.installed-dev-$(WANTED)
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt
NO_PIP := { echo "pip could not install what pyproject.toml and constraints.txt ask for; its message stands above." >&2; \
  echo "The network is needed for the first make demo and make test, and again when one of these two files has changed." >&2; exit 1; }

.PHONY: demo serve test check soak data bench format wheel install install-dev clean
.DEFAULT_GOAL := demo

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "steerec needs Python 3.11 or newer: make PYTHON=python3.11 demo" or 0)'
	$(PYTHON) -m venv $(VENV)

# torch first and alone: any other order may fetch a CUDA build of several gigabytes
$(INSTALLED): | $(BIN)/python
	@echo "installing steerec into $(VENV) (some minutes the first time)"
	@$(PIP) "torch==2.13.0" || $(NO_PIP)
	@$(PIP) -e ".[offline]" || $(NO_PIP)
	@touch $@

$(INSTALLED_DEV): | $(INSTALLED)
	@echo "installing what the tests need into $(VENV)"
	@$(PIP) -e ".[offline,dev]" || $(NO_PIP)
	@touch $@

install: $(INSTALLED)

install-dev: $(INSTALLED_DEV)

demo: install
	$(BIN)/steerec demo

# the demo shop over HTTP
serve: install
	$(BIN)/steerec serve --sample

# a process for each core; the threads of libraries would only get in each other's way
test: install-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

# what takes minutes: opt in
soak: install-dev
	$(BIN)/python -m pytest -m slow

# what reads real sets from STEEREC_DATA_DIR: opt in, fails where they are missing
data: install-dev
	$(BIN)/python -m pytest -m data

# every scenario of benchmarks/quality, from STEEREC_DATA_DIR: hours; peers get their own environment
bench: install-dev
	$(BIN)/python benchmarks/quality/run.py --all
	$(BIN)/python benchmarks/quality/steps.py
	$(BIN)/python benchmarks/quality/cross_domain.py
	$(BIN)/python benchmarks/quality/race.py
	$(BIN)/python benchmarks/quality/results.py

check: install-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile
	$(BIN)/python -m pytest tests/test_layers.py tests/test_docs.py

format: install-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: install-dev
	$(BIN)/python -m build --wheel --no-isolation --outdir $(DIST) .

clean:
	rm -rf dist build out steerec-demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
