# Two commands matter: `make demo` and `make test`.
PYTHON ?= python3
# uv installs the lock files; it is brought in by pip, so nothing else has to be there.
UV = VIRTUAL_ENV=$(CURDIR)/$(1) .venv/bin/uv pip install --quiet --no-deps
COMPILE = .venv/bin/uv pip compile --quiet --universal --python-version 3.10 --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

# Of the demo: ROUNDS=2 plays rounds of the loop first, WAIT=0 verifies and stops, MODEL and IMAGES
# run it on a user's own.
ROUNDS ?= 0
WAIT ?= 1
MODEL ?=
IMAGES ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-versions lint audit format lock clean

help:  ## Say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

demo: .venv/.installed .venv-label-studio/.installed  ## Show it: Label Studio, filled, ranked, serving the hardest first
	.venv/bin/python -m backend demo --rounds $(ROUNDS) $(if $(filter 0,$(WAIT)),--no-wait) $(if $(MODEL),--model "$(MODEL)") $(if $(IMAGES),--images "$(IMAGES)")

test: .venv/.installed-dev .venv-label-studio/.installed  ## Run all tests, with the real Label Studio
	.venv/bin/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test-fast: .venv/.installed-dev  ## Run the tests that need no Label Studio, browser or training
	.venv/bin/python -m pytest -n 2 --fast

test-versions: .venv/.installed-dev  ## Test publishing, order and events with older and newest Label Studios
	.venv/bin/python -m tests.run_versions

lint: .venv/.installed-dev  ## Check style and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

audit: .venv/.installed-dev  ## Ask whether the locked packages have known vulnerabilities
	.venv/bin/python .ci/audit.py requirements.lock

format: .venv/.installed-dev  ## Put the code in its form
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

lock: .venv/bin/uv  ## Resolve the dependencies into the lock files
	$(COMPILE) --overrides overrides.txt requirements.txt -o requirements.lock
	$(COMPILE) --overrides overrides.txt -c requirements.lock requirements-dev.txt -o requirements-dev.lock
	$(COMPILE) requirements-label-studio.txt -o requirements-label-studio.lock

clean:  ## Remove the environments and all generated data
	rm -rf .venv .venv-label-studio var

.venv/bin/uv:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check uv

.venv/.installed: requirements.lock | .venv/bin/uv
	$(call UV,.venv) -r requirements.lock
	touch $@

.venv/.installed-dev: requirements-dev.lock .venv/.installed
	$(call UV,.venv) -r requirements-dev.lock
	touch $@

# Label Studio pins its own versions of what we use too: it gets an environment of its own.
.venv-label-studio/.installed: requirements-label-studio.lock | .venv/bin/uv
	$(PYTHON) -m venv --without-pip .venv-label-studio
	$(call UV,.venv-label-studio) -r requirements-label-studio.lock
	touch $@
