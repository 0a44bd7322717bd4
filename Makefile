# Every target does its own set-up: all that a machine needs is Python >= 3.11 and make. Written for GNU make 3.81
# and later with a POSIX sh, so that the make of macOS will do.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

# Further arguments for the program that a target runs: make run ARGS="--both-ways --objects 100 --exit"
ARGS ?=

# Tests wait more than they work, so there are more processes than a small machine has processors. Each takes whole
# files, in the order in which they were collected. ARGS="-n 0" keeps to one process.
SIDE_BY_SIDE := -n 3 --dist loadfile --no-loadscope-reorder

UV_PIN := 0.13.9
TOOLS := .tools
STAMP := .venv/.synced
DOCS_STAMP := .venv/.synced-docs

# One environment, wherever make was called from: an activated one, or one that uv was told to use, is left alone.
unexport VIRTUAL_ENV
# Compiling all that is imported takes longer than most tests do: once is enough.
unexport PYTHONDONTWRITEBYTECODE
export UV_PROJECT_ENVIRONMENT := .venv
# The interpreter found below is the one used; nothing fetches another one.
export UV_PYTHON_DOWNLOADS := never

AT_LEAST_311 := import sys; sys.exit(sys.version_info < (3, 11))
ifeq ($(origin PYTHON),undefined)
# A name on PATH may be a shim without an interpreter behind it, so each candidate has to run.
PYTHON := $(shell for python in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	if "$$python" -c '$(AT_LEAST_311)' >/dev/null 2>&1; then command -v "$$python"; break; fi; done)
endif

ifeq ($(origin UV),undefined)
# uv checks `required-version` of pyproject.toml whatever it is asked, so this finds only a uv that is new enough.
UV := $(shell if uv cache dir >/dev/null 2>&1; then command -v uv; else echo $(TOOLS)/uv-$(UV_PIN)/bin/uv; fi)
endif

# An environment whose folder was moved or copied runs the code of its old place, and one whose interpreter is gone
# runs nothing: both are made anew.
FORGET_STALE := $(shell if [ -f $(STAMP) ]; then \
	if [ "`cat $(STAMP)`" != "$(CURDIR)" ] || ! .venv/bin/python -c '' >/dev/null 2>&1; then rm -rf .venv; fi; fi)

.PHONY: help run check test test-deep set-up provision test-emulators test-kill test-guards soak bench lint docs docs-references docs-picture docs-plots image format clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo '  ARGS="..." hands further arguments to the program that the target runs.'

# `exec`, here and below: the program takes the shell's place, so a signal reaches it and nothing outlives it.
run: $(STAMP)  ## Start emulators of S3, SQS and GCS and the daemon on them, in one command (Ctrl-C ends all of it)
	@exec .venv/bin/consumer sandbox $(ARGS)

check: $(STAMP)  ## Ask S3, SQS and GCS, as configured, whether the daemon could start
	@exec .venv/bin/consumer check

test: $(STAMP)  ## Run the test suite (no network beyond this machine, no cloud account)
	@exec .venv/bin/python -m pytest $(SIDE_BY_SIDE) $(ARGS)

test-deep: $(STAMP)  ## Live through far more random races, crashes and faults (ARGS="--hypothesis-seed=N" repeats a run)
	@exec .venv/bin/python -m pytest tests/convergence --hypothesis-profile=deep --timeout=3600 -s $(ARGS)

set-up: $(DOCS_STAMP)  ## Install what every target needs; each does it by itself

provision: $(STAMP)  ## Build or download the emulators of `make test-emulators`, as far as they are not there yet
	@exec .venv/bin/python -m tests.emulators.provision $(ARGS)

test-emulators: $(STAMP)  ## Provision MinIO, fake-gcs-server, pstest, Redis, Valkey, DynamoDB Local, ElasticMQ, LocalStack, Prometheus, Helm, kubeconform, kustomize and Chromium, and test against them
	@.venv/bin/python -m tests.emulators.provision
	@exec .venv/bin/python -m pytest -m emulators $(SIDE_BY_SIDE) $(ARGS)

test-kill: $(STAMP)  ## Kill running daemons over real emulators (KILLS=60 KILL_KEYS=2500 KILL_SEED=random)
	@.venv/bin/python -m tests.emulators.provision
	@exec .venv/bin/python -m pytest -m emulators tests/crash $(ARGS)

test-guards: $(STAMP)  ## Break one guard after the other in a copy: does a test turn red? (ARGS="convergence" takes one list)
	@exec .venv/bin/python -m tests.guards $(ARGS)

soak: $(STAMP)  ## Run the daemon for ten minutes under load, faults and rotating credentials: does anything grow?
	@.venv/bin/python -m tests.emulators.provision
	@exec .venv/bin/python -m bench.soak $(ARGS)

bench: $(STAMP)  ## Measure CPU, requests, memory and latency beside SDKs, rclone and curl (ARGS="--help")
	@.venv/bin/python -m tests.emulators.provision minio elasticmq redis
	@exec .venv/bin/python -m bench $(ARGS)

lint: $(STAMP)  ## Check style, formatting, types and the layering
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports

docs: $(DOCS_STAMP)  ## Build the pages of docs/ into build/docs/, every warning an error, and follow every link inside
	@rm -rf build/docs
	.venv/bin/python -m sphinx --builder html --doctree-dir build/doctrees --fail-on-warning --keep-going --nitpicky --quiet --fresh-env docs build/docs
	@exec .venv/bin/python -m tests.docs.site build/docs

docs-references: $(STAMP)  ## Write the pages that say what the code says: settings, commands, HTTP, metrics, reasons
	@exec .venv/bin/python -m tests.docs.write

docs-picture: $(STAMP)  ## Draw into docs/ what terminals show of the sandbox and a backfill, and the dashboard of a run
	@.venv/bin/python -m tests.docs.picture
	@.venv/bin/python -m tests.docs.backfill_picture
	@.venv/bin/python -m tests.emulators.provision minio elasticmq redis prometheus chromium grafana-ui
	@exec .venv/bin/python -m tests.deploy.dashboard

image:  ## Build the container image on a base pinned by its digest (PYTHON_IMAGE=python:TAG@sha256:... names it; needs Docker)
	@exec deploy/build-image.sh $(ARGS)

docs-plots: $(STAMP)  ## Draw the plots of docs/scale.md from the plan and its simulation
	@exec .venv/bin/python -m bench.scale_pictures

format: $(STAMP)  ## Format the code and mend what can be mended by itself
	.venv/bin/ruff check --fix-only --exit-zero
	.venv/bin/ruff format

clean:  ## Remove the environment, the tools, the emulators and every cache
	rm -rf .venv $(TOOLS) .cache .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find consumer tests -type d -name __pycache__ -prune -exec rm -rf {} +

$(STAMP): pyproject.toml uv.lock consumer/__init__.py | $(UV)
	@if [ -z "$(PYTHON)" ]; then \
		echo 'No Python >= 3.11 found on PATH. Install one, or name it: make PYTHON=/path/to/python3.12 ...' >&2; \
		exit 1; \
	fi
	@echo 'Installing what the program and its tests need into .venv ...'
	@"$(UV)" sync --quiet --frozen --all-extras --python "$(PYTHON)"
	@echo "$(CURDIR)" > $@

$(DOCS_STAMP): $(STAMP)
	@echo 'Installing what the pages are built with into .venv ...'
	@"$(UV)" sync --quiet --frozen --all-extras --group docs --python .venv/bin/python
	@echo "$(CURDIR)" > $@

$(TOOLS)/uv-$(UV_PIN)/bin/uv:
	@if [ -z "$(PYTHON)" ]; then \
		echo 'No Python >= 3.11 found on PATH. Install one, or name it: make PYTHON=/path/to/python3.12 ...' >&2; \
		exit 1; \
	fi
	@echo 'No suitable uv on PATH: installing uv $(UV_PIN) into $(TOOLS)/ ...'
	@rm -rf $(TOOLS)/uv-$(UV_PIN)
	@if ! "$(PYTHON)" -m venv $(TOOLS)/uv-$(UV_PIN); then \
		rm -rf $(TOOLS)/uv-$(UV_PIN); \
		echo '$(PYTHON) has no working venv module. On Debian and Ubuntu: apt-get install python3-venv;' >&2; \
		echo 'or put uv on PATH yourself, or name another interpreter: make PYTHON=/path/to/python3.12 ...' >&2; \
		exit 1; \
	fi
	@$(TOOLS)/uv-$(UV_PIN)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_PIN)
