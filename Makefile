# Two commands matter: `make demo` and `make test`. Each sets everything up on a fresh machine.
PYTHON ?= python3
VENV   ?= .venv
# Options for pip where a plain `torch` is not the build you want, e.g. TORCH_ARGS="--index-url <a CPU wheel index>".
TORCH_ARGS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# mho-lab comes twice: with extras alone, pip does not take it for the mho-lab that mho-cost asks for.
PLUGINS := lab fast ideal pcm rram circuit qat digital kit transformers cost exchange[parquet,onnx] lab[tasks,report,tables,sweep,fit]
PROJECTS := pyproject.toml constraints.txt $(wildcard plugins/*/pyproject.toml)

.PHONY: demo examples test test-all docs lint install system-deps bench test-gpu clean

install: $(STAMP)

$(STAMP): $(PROJECTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt $(TORCH_ARGS) torch numpy
	$(BIN)/python -m pip install --quiet -c constraints.txt \
	    -e ".[docs,test]" $(PLUGINS:%=-e "plugins/%")
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps aeon  # for the data in it: examples/vowels
	touch $(STAMP)

demo: install
	$(BIN)/mho run digits pcm.standard

# Every table and figure under examples/, from the trainings on; about half an hour on two cores, resumable.
RUN := $(BIN)/mho run
EXAMPLES := --seeds 3 --chips 10 --out mho-runs/examples
examples: install
	$(RUN) examples/fashion/task.py pcm.standard $(EXAMPLES)/fashion
	$(RUN) examples/stdlib/task.py pcm.standard $(EXAMPLES)/stdlib
	for t in task lstm cnn; do for hw in pcm.standard examples/harsh.yaml; do \
	    $(RUN) examples/vowels/$$t.py $$hw $(EXAMPLES)/vowels-$$t-$$(basename $$hw .yaml) || exit 1; done; done
	$(BIN)/python examples/results.py mho-runs/examples/*

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python tools/codelines.py

# Warnings are errors. The reference pages are written from the code while Sphinx runs.
docs: install
	$(BIN)/python -m sphinx -q -W --keep-going docs docs/_build/html
	@echo docs/_build/html/index.html

test: lint docs
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: lint docs
	$(BIN)/python -m pip install --quiet -c constraints.txt -e "plugins/transformers[trainers]"
	$(BIN)/python -m pytest -n 2

# What needs an accelerator: the same tests on it, and the table of benchmarks/gpu.py.
test-gpu: install
	$(BIN)/python -m pytest -k "cuda or mps" -rs
	$(BIN)/python benchmarks/gpu.py

# How fast it is here, on one thread and on two: see benchmarks/README.md.
bench: install
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/run.py --threads 1
	OMP_NUM_THREADS=2 $(BIN)/python benchmarks/run.py --threads 2

# System packages that some tests use (a circuit simulator, Fashion-MNIST). Never called by `make demo` or `make test`.
system-deps:
	apt-get update -q
	apt-get install -y -q ngspice dataset-fashion-mnist

clean:
	rm -rf $(VENV) docs/_build docs/reference .pytest_cache .mypy_cache .ruff_cache
