# make bench: install, run a first comparison on what is here, show it.     make test: the whole test suite.

PYTHON ?= python3
BIN := .venv/bin
MODELS ?= resnet18

.PHONY: bench test lint types horovod clean

bench: .venv/.horovod
	$(BIN)/pytest bench_cases --gpus 2 --dnn-frameworks all --dnn-models $(MODELS) --dnn-steps 8 \
	    --benchmark-columns=median,iqr,rounds --benchmark-sort=name --benchmark-autosave

test: .venv/.horovod
	$(BIN)/pytest

horovod: .venv/.horovod

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.ready
	$(BIN)/mypy

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch torchvision
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

.venv/.horovod: .venv/.ready
	$(BIN)/python -m pytest_dnnbench horovod
	touch $@

clean:
	rm -rf .venv build *.egg-info
