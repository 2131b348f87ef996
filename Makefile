# Two commands matter: `make demo` and `make test`. Each sets everything up on a fresh machine.
PYTHON ?= python3
VENV   ?= .venv
# Options for pip where a plain `torch` is not the build you want, e.g. TORCH_ARGS="--index-url <a CPU wheel index>".
TORCH_ARGS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PROJECTS := pyproject.toml constraints.txt $(wildcard plugins/*/pyproject.toml)

.PHONY: demo test test-all lint install system-deps bench clean

install: $(STAMP)

$(STAMP): $(PROJECTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt $(TORCH_ARGS) torch numpy
	$(BIN)/python -m pip install --quiet -c constraints.txt \
	    -e ".[tasks,report,tables,sweep,fit,test]" \
	    -e plugins/ideal -e plugins/pcm -e plugins/rram -e plugins/circuit
	touch $(STAMP)

demo: install
	$(BIN)/mho run digits pcm.standard

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: lint
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: lint
	$(BIN)/python -m pytest -n 2

# How fast it is here, on one thread and on two: see benchmarks/README.md.
bench: install
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/run.py --threads 1
	OMP_NUM_THREADS=2 $(BIN)/python benchmarks/run.py --threads 2

# System packages that some tests use (a circuit simulator). Never called by `make demo` or `make test`.
system-deps:
	apt-get update -q
	apt-get install -y -q ngspice

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
