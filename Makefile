# `make demo` and `make test` set everything up in .venv and run. See `make help`.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: help setup check demo smoke test test-cluster lint verify data clean

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

# A real person, fetched and never passed on.
CLIP := assets/real-clips
$(CLIP)/manifest.json: | $(STAMP)
	$(BIN)/clipaffect fetch-asset real-clips $(CLIP)

demo: $(STAMP) $(CLIP)/manifest.json  ## rendered videos to a report, and a real clip to a timeline: results/demo/
	$(BIN)/clipaffect run --cores $(CORES) all model
	$(BIN)/clipaffect predict $(CLIP)/laughing.mp4 --model results/demo/model --out results/demo/prediction
	@echo "the report: results/demo/report/index.html; the clip: results/demo/prediction/index.html"

RUN ?= demo
verify: $(STAMP)  ## whether results/RUN is as its RO-Crate says (clipaffect crate results/RUN writes it)
	$(BIN)/clipaffect verify results/$(RUN)

CONFIG ?= config/config.yaml
check: $(STAMP)  ## what CONFIG=FILE finds, will run and will cost; seconds, before any work
	$(BIN)/clipaffect check $(CONFIG)

smoke: $(STAMP)  ## the whole chain on a few clips, under a minute
	$(BIN)/clipaffect run --cores $(CORES) --configfile tests/config/micro.yaml

test: $(STAMP)  ## every test, the demo among them
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-cluster: $(STAMP)  ## the workflow under a real SLURM (Debian's slurm-wlm and munge) and a real DVC
	$(BIN)/python -m pytest -m cluster --numprocesses 3 --dist loadfile --no-loadscope-reorder tests/cluster

lint: $(STAMP)  ## ruff, mypy, snakefmt, snakemake --lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

data: $(STAMP)  ## render the demo's videos again (about 12 minutes on 2 cores)
	rm -rf resources/demo/videos resources/demo/annotations
	$(BIN)/clipaffect make-data resources/demo --processes $(CORES)

clean:  ## remove results, logs and the work store (not the environment, not the downloads)
	rm -rf results logs store .snakemake
