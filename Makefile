# The commands of a day: each makes .venv if it is missing and installs what it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# The miniature world and the tests are those of a CPU, also on a machine with GPUs: `make test GPUS=0` shows them the first.
ON_CPU := CUDA_VISIBLE_DEVICES=$(GPUS)

.PHONY: help venv train test faults lint bench

help:  ## list the commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-7s %s\n", $$1, $$2}'

venv: $(INSTALLED)  ## make .venv with everything (about 2 GB, some minutes)

# Editable: the application runs from this folder. The stamp is younger than both files when all that they name is there.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else f"EchoRay needs Python 3.11 or newer, but $(PYTHON) is {sys.version.split()[0]}. Name another: make PYTHON=python3.11 venv")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

train: $(INSTALLED)  ## teach the miniature world's image model, in minutes, on a laptop
	$(ON_CPU) $(BIN)/python -m pipelines.train recipes/toy.toml $(if $(OUT),--out $(OUT))

# Two processes take whole files in turn, in the order of tests/conftest.py.
test: $(INSTALLED)  ## unit and integration tests
	$(ON_CPU) $(BIN)/python -m pytest -q tests --ignore=tests/faults -n 2 --dist loadfile --no-loadscope-reorder

faults: $(INSTALLED)  ## whole runs that lose workers, ranks, nodes, drivers and disks, by SIGKILL
	$(ON_CPU) $(BIN)/python -m pytest -q tests/faults -n 2 --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED)  ## style, format, types, and which package may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED)  ## measure the loop, the models, prompt sets, plans, the ranks, checkpoints, faults, memory and the objectives (hours)
	$(BIN)/python -m bench.loop
	$(BIN)/python -m bench.reward
	$(BIN)/python -m bench.caption
	$(BIN)/python -m bench.rollout --tiny
	$(BIN)/python -m bench.learner --tiny
	$(BIN)/python -m bench.prompts
	$(BIN)/python -m bench.score
	$(BIN)/python -m bench.plan
	$(BIN)/python -m bench.zero
	$(BIN)/python -m bench.checkpoint
	$(BIN)/python -m bench.faults
	$(BIN)/python -m bench.estimate
	$(BIN)/python -m bench.signal
	$(BIN)/python -m bench.objectives
	$(BIN)/python -m bench.peers
