# make demo: set up .venv and synthesise demo.wav.  make test: set up and run the tests.
# CONTRIBUTING.md has the legs of the tests: other Pythons, the oldest and the newest JAX and Flax.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?=
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-long lint clean

$(READY): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 12) else f"cosyjax needs Python 3.11 or 3.12, this is {v[0]}.{v[1]}: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]' $(CONSTRAINTS:%=--constraint %)
	touch $@

demo: $(READY)
	$(BIN)/python -m infer.synthesize --preset tiny --prompt-wav assets/prompt.wav \
	  --prompt-text '希望你以后能够做的比我还好呦。' --text 'Hello from JAX.' --out demo.wav

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not long' tests

test-long: $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[dev,ray,serve-tests]'
	$(BIN)/python -m pytest -m long tests

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf .venv .venv-* build dist *.egg-info demo.wav
