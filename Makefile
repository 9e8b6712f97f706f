# make bench: install, run a first comparison on what is here, show it.     make test: the whole test suite.

PYTHON ?= python3
BIN := .venv/bin
MODELS ?= resnet18
FRAMEWORKS ?= single,ddp,horovod,pipedream,pipedream-2bw,pipedream-flush

help:
	@echo "make bench      install into .venv, run a first comparison on what is here, and show it"
	@echo "make test       run the whole test suite in the same .venv"
	@echo "make faults     run the whole fault matrix, about 12 minutes on two cores"
	@echo "make gpu-test   run what needs a GPU, in 4 minutes; skipped where there is none"
	@echo "make gpu-all    the same and the benchmarks of a GPU, in 10 minutes"
	@echo "make lint types picture horovod clean"

.PHONY: help bench picture faults test gpu-test gpu-all lint types horovod clean

# All but these are pipelines.
COMMA := ,
PIPELINES := $(filter-out single ddp horovod fsdp tp,$(subst $(COMMA), ,$(FRAMEWORKS)))

# Two stages are forced: between two ranks of one machine the planner would often choose pure data parallelism.
bench: .venv/.ready
	@$(MAKE) --no-print-directory .venv/.horovod || echo "bench: Horovod could not be built, so its cases are skipped"
	@mkdir -p .benchmarks
	$(BIN)/pytest bench_cases --gpus 2 --dnn-frameworks $(FRAMEWORKS) $(if $(PIPELINES),--dnn-stages 2) --dnn-models $(MODELS) \
	    --dnn-launches 5 --dnn-steps 8 --benchmark-columns=median,iqr,rounds --benchmark-sort=name --benchmark-autosave \
	    --benchmark-json .benchmarks/bench.json --dnn-report .benchmarks/report

# The plot in docs/report.md, of the last `make bench`.
picture:
	$(BIN)/python -m pytest_dnnbench report .benchmarks/bench.json -o .benchmarks/report --picture docs/throughput.svg

test: .venv/.horovod
	$(BIN)/pytest

# The whole fault matrix (docs/appendix/fault-matrix.md); `make test` runs a part of it.
faults: .venv/.horovod
	$(BIN)/pytest tests/faults -m faults -q

# What needs a GPU, as much as fits into 4 minutes; skipped where there is none.
# GPU_FOLDER gets the outcomes.
GPU_FOLDER ?= benchmarks/gpu/new
gpu-test: .venv/.ready
	$(BIN)/pytest tests/gpu --gpu-budget 240 --gpu-folder $(GPU_FOLDER)

# The same, and the benchmarks of a GPU, within 10 minutes.
gpu-all: .venv/.ready
	$(BIN)/python -m benchmarks.gpu_all --folder $(GPU_FOLDER)

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
