# Two commands on a fresh machine: `make demo` and `make test`. Python 3.11 or later and make are all they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
EXTRAS := crawl,overlap,train,s3,gcp,test

.PHONY: demo test fuzz lint bench clean help

help:
	@echo "make demo   build a dataset from a small web served on loopback (needs no network but the package index)"
	@echo "make test   run every test"
	@echo "make fuzz   the tests' mutation fuzzing with a hundred times as many inputs (an hour or two)"
	@echo "make lint   ruff and mypy"
	@echo "make bench  the benchmarks of docs/benchmarks.md (long)"

demo: $(READY)
	$(BIN)/openwit demo --out runs/demo

# Each process of the tests has a core: more threads of torch would only wait for each other (2.3 times as long).
# In the order of their names, since of the long tests some are alone in a file and would come last.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

fuzz: $(READY)
	FUZZ_SCALE=100 $(BIN)/python -m pytest tests/test_fuzz.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m bench

# torch goes first: another package's open range would fetch gigabytes of CUDA libraries.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "openwit needs Python 3.11 or later; name one with: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
	  { echo "this Python cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$(EXTRAS)]"
	# The peer that weights are compared with; its own requirements include torchvision, which the tests do without.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps open_clip_torch
	@touch $(READY)

clean:
	rm -rf $(VENV) runs dist
