# `make help` lists the targets. Every target sets up what it needs first.
SHELL := /bin/sh
PYTHON := .venv/bin/python
.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-busy test-slow models models-check bench lint protos clean

# Real netem: from this kernel where it has it, else from a user-mode kernel (x86-64 only).
TEST_KERNEL := $(if $(filter x86_64,$(shell uname -m)),tools/test_kernel.sh,true)
KERNEL_PROGRAMS := $(if $(filter x86_64,$(shell uname -m)),make flex bison bc xz)
# What `netctl verify --cross-check` asks besides its own prober.
CROSS_CHECKS := iperf3 irtt

# Two at a time: those of links mostly wait. What shares servers or model files stays together.
WORKERS := --numprocesses 2 --dist loadgroup --no-loadscope-reorder
FAST := tests/unit tests/engine tests/http tests/sensors \
	tests/integration/test_cascade.py tests/integration/test_grpc_messages.py \
	tests/integration/test_inference_service.py
WITHOUT_LINKS := --ignore tests/links --ignore tests/netem \
	--deselect tests/integration/test_quickstart.py::test_links_are_as_asked

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo:  ## set up, then run the quickstart scenario and write its report
	@tools/setup.sh testbed
	@.venv/bin/testbed run scenarios/quickstart.yaml

test:  ## set up, then run every test
	@tools/setup.sh testbed,train,dev $(KERNEL_PROGRAMS) $(CROSS_CHECKS)
	@$(TEST_KERNEL) >/dev/null
	@tools/peers.sh >/dev/null
	@$(PYTHON) -m pytest $(WORKERS) $(ARGS)

test-fast:  ## set up, then run what needs no links, no training and no processes (2 minutes)
	@tools/setup.sh testbed,train,dev
	@$(PYTHON) -m pytest $(WORKERS) $(FAST) $(ARGS)

test-busy:  ## every test, beside two loops that keep the processors busy
	@tools/beside_busy_loops.sh 2 $(MAKE) test

test-slow:  ## every test but those of links, with a quarter of one processor (needs root)
	@tools/setup.sh testbed,train,dev
	@tools/peers.sh >/dev/null
	@tools/with_processor_share.sh 25 $(PYTHON) -m pytest $(WORKERS) $(WITHOUT_LINKS) $(ARGS)

models:  ## train, quantise and describe the shipped models (about 2 hours on 2 cores; resumable)
	@tools/setup.sh testbed,train
	@$(PYTHON) -m learning.shipped_models
	@$(PYTHON) -m testbed.evaluation describe models

models-check:  ## verify the shipped models' hashes and held-out accuracy through llama.cpp
	@tools/setup.sh testbed
	@$(PYTHON) -m testbed.evaluation check models

bench:  ## measure, print a table and write build/bench.json
	@tools/setup.sh testbed,train,dev
	@$(PYTHON) -m benchmarks

bench-%:  ## one benchmark: make bench-links, bench-runtime
	@tools/setup.sh testbed,train,dev
	@$(PYTHON) -m benchmarks $*

lint:  ## ruff, mypy and buf
	@tools/setup.sh testbed,train,dev
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy && .venv/bin/buf lint

protos:  ## generate the Python code of the .proto files
	@tools/setup.sh testbed,train,dev
	@$(PYTHON) -m protos.generate

clean:  ## remove what can be made again (not the models, not runs/)
	rm -rf build .venv *.egg-info
