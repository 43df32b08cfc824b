# `make demo` and `make test` create the environment in .venv and run. See `make help`.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: help setup check demo smoke test test-cluster test-all test-processors gpu-check coverage lint verify data clean

CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
VENV ?= .venv
BIN := $(VENV)/bin
# A pip index with CPU builds of torch, for machines without an NVIDIA GPU (see README).
TORCH_INDEX ?=
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/.complete

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(STAMP): constraints.txt pyproject.toml tools/make-venv
	tools/make-venv $(VENV)
	@echo "installing the packages of constraints.txt into $(VENV) (some minutes the first time)"
	$(PIP) install --quiet --constraint constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch torchvision
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

setup: $(STAMP)  ## build the virtual environment

# A clip of a real person; downloaded, never redistributed.
CLIP := assets/real-clips
$(CLIP)/manifest.json: | $(STAMP)
	$(BIN)/clipaffect rule fetch-asset real-clips $(CLIP)

demo: $(STAMP) $(CLIP)/manifest.json  ## build the demo's report, and predict a real clip: results/demo/
	$(BIN)/clipaffect run --cores $(CORES) all model
	$(BIN)/clipaffect predict $(CLIP)/laughing.mp4 --model results/demo/model --out results/demo/prediction
	@echo "the report: results/demo/report/index.html; the clip: results/demo/prediction/index.html"

RUN ?= demo
verify: $(STAMP)  ## check results/RUN against its RO-Crate (written by clipaffect crate results/RUN)
	$(BIN)/clipaffect verify results/$(RUN)

CONFIG ?= config/config.yaml
check: $(STAMP)  ## check the data and estimate the cost of CONFIG=FILE before a run; takes seconds
	$(BIN)/clipaffect check $(CONFIG)

smoke: $(STAMP)  ## run the whole workflow on a few clips, in one or two minutes
	$(BIN)/clipaffect run --cores $(CORES) --configfile tests/config/micro.yaml

SUITE := pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
test: $(STAMP)  ## run the tests for every change; takes minutes
	$(BIN)/python -m $(SUITE)

test-cluster: $(STAMP)  ## test a short run on a real SLURM with accounting and a real DVC
	$(BIN)/python -m $(SUITE) -m 'cluster and not slow' tests/cluster

test-all: $(STAMP) test-processors  ## run every test: the demo, all studies, SLURM failures, random kills; takes hours
	$(BIN)/python -m $(SUITE) -m 'slow or cluster'

# These variables select code for a processor in torch, oneDNN, MKL and OpenBLAS. torch does not
# check its own variable: without AVX-512 it would end in an illegal instruction.
AVX512 := $(shell grep -qsw avx512f /proc/cpuinfo && echo ATEN_CPU_CAPABILITY=avx512)
test-processors: $(STAMP)  ## run the tests for every change as on other processors
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 OPENBLAS_CORETYPE=Nehalem $(BIN)/python -m $(SUITE)
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_CBWR=AVX2 OPENBLAS_CORETYPE=Haswell $(BIN)/python -m $(SUITE)
	$(AVX512) MKL_CBWR=COMPATIBLE $(BIN)/python -m $(SUITE)

GPU_PYTHON ?= python3
gpu-check:  ## check and measure the GPU of this machine with the torch of GPU_PYTHON; takes minutes
	PYTHONPATH=src $(GPU_PYTHON) -m clipaffect gpu-check

coverage: $(STAMP)  ## measure line and branch coverage of `make test`, including stage subprocesses
	rm -f .coverage*
	$(BIN)/python -m coverage run -m $(SUITE)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered --fail-under 90

lint: $(STAMP)  ## run ruff, mypy, snakefmt and snakemake --lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

data: $(STAMP)  ## render the demo's videos again (about 12 minutes on 2 cores)
	rm -rf resources/demo/videos resources/demo/annotations
	$(BIN)/python -m clipaffect.synthetic make-data resources/demo --processes $(CORES)

clean:  ## remove results, logs and the work store (but not the environment or the downloads)
	rm -rf results logs store .snakemake
