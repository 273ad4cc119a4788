# Two commands are all a newcomer needs: `make quickstart` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Compiled programs are kept: the second run starts at once.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.jax_cache
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0.3

.PHONY: quickstart test test-slow lint types imports check clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

quickstart: $(VENV)/installed  ## train on shapes, draw captioned images, score them
	$(BIN)/python experiments/quickstart/run.py

test: $(VENV)/installed-dev  ## everything but the slow tests
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(VENV)/installed-dev  ## minutes each: run before an issue ends
	$(BIN)/python -m pytest -m slow -o log_cli=true -o log_cli_level=INFO

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

imports: $(VENV)/installed-dev
	$(BIN)/lint-imports --config setup.cfg

check: lint types imports test  ## what CI runs

clean:
	rm -rf $(VENV) .jax_cache build dist
