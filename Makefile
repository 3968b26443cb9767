# What CI runs is what a person types. Everything is set up on first use, in .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
SETUP := .venv/.set-up

.PHONY: setup demo test lint fast bench clean

setup: $(SETUP)

$(SETUP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	# wherever Ray finds this package it starts a whole dashboard, which takes seconds: only the tests of jobs do
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps --target .venv/job-server aiohttp-cors
	$(BIN)/python -m pip uninstall --quiet --yes aiohttp-cors
	touch $@

demo: $(SETUP) ## distil a digits teacher on a local Ray
	$(BIN)/raykd run jobs/digits.py:kd

lint: $(SETUP) ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint ## everything, on two cores
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

fast: $(SETUP) ## what needs no cluster
	$(BIN)/pytest -m "not ray"

bench: $(SETUP) ## the ratios of RESULTS.md
	$(BIN)/python benchmarks/cache.py
	$(BIN)/python benchmarks/codec.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/sharing.py
	$(BIN)/python benchmarks/quality.py
	$(BIN)/python benchmarks/crash.py
	$(BIN)/python benchmarks/fuzz.py
	$(BIN)/python benchmarks/hostile.py
	$(BIN)/python benchmarks/many_classes.py
	$(BIN)/python benchmarks/epoch.py
	$(BIN)/python benchmarks/overlap.py
	$(BIN)/python benchmarks/pools.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/chaos.py

clean:
	rm -rf .venv storage
