# Everything runs in .venv, which the first target that needs it makes from the hash-pinned lock.

PYTHON ?= python3
BIN := .venv/bin
RUNTIME := .venv/installed-runtime
STAMP := .venv/installed
PYTEST_FLAGS ?=
PYTEST_WORKERS ?= 3
FUZZ_FLAGS ?=
UV_COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --no-emit-find-links --custom-compile-command "make lock"

.PHONY: help run demo test check bench bench-delivery bench-commits bench-connections bench-watch bench-bounded fuzz chaos lock types dashboards format clean soak mutants mutate

help:
	@echo "make run     serve on this machine, and print where, a token, and what to try next"
	@echo "make demo    two users ask the analyst on a server of its own; prints their timelines and stops"
	@echo "make stack   a server with canary and drills, Prometheus, Alertmanager and a receiver, as plain processes"
	@echo "make test    every test (REQUIRE_REAL=1: a missing real part fails instead of skipping)"
	@echo "make check   format, lint, types, import contracts, unit tests; under a minute"
	@echo "make soak    what takes minutes: ten million events through the ledger, a page in a hidden tab,"
	@echo "             a million events to people of all habits without one false alarm, a real Collector's whole waits"
	@echo "make bench   what an event costs, beside a bare uvicorn in the same run"
	@echo "make bench-delivery  a stalled reader, a long resume, a thousand clients back at once"
	@echo "make bench-commits      a commit's latency at 20,000 events/s, beside a bare sqlite3 loop"
	@echo "make bench-connections  memory of 5,000 connections beside a bare uvicorn's; 10,000 sockets at once"
	@echo "make bench-watch        what ledger and watch take of an event; from deadline to incident among 100,000 runs"
	@echo "make bench-bounded      a million users, 100,000 of them in violation: series, scrapes, memory, /incidents"
	@echo "make fuzz    a million hostile frames and requests against a real server; FUZZ_FLAGS=\"--seed S\" sends the same again"
	@echo "make chaos   50 users on a server that is killed 32 times, their sockets cut; CHAOS_FLAGS=\"--seed S\" does it again"
	@echo "make mutants the chain broken in every way, a user each, and what caught or healed it: the whole table"
	@echo "make mutate  mutmut over the path and the ledger; its score by module, and the survivors; hours"
	@echo "make types   write the TypeScript types of the frames anew; a test fails where they differ from the code"
	@echo "make dashboards  write the Grafana boards anew; a test fails where they differ from their generator"
	@echo "make lock    pin the dependencies anew, with hashes"
	@echo "make reference  write dashboards/reference.md anew: every metric, label, span, log record and alert, by its name"

define install
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Tracewire needs Python 3.11 or newer; this is %s. Set PYTHON=python3.11" % sys.version.split()[0])'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing the pinned dependencies of $(1) into .venv ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(1)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
endef

$(RUNTIME): requirements.lock pyproject.toml
	$(call install,requirements.lock)

$(STAMP): requirements-dev.lock pyproject.toml
	$(call install,requirements-dev.lock)
	@touch $(RUNTIME)

run: $(RUNTIME)
	@exec $(BIN)/tracewire serve

demo: $(RUNTIME)
	@$(BIN)/python -m tracewire.demo

.PHONY: stack reference

stack: $(RUNTIME)
	@$(BIN)/python -m dashboards.stack

reference: $(STAMP)
	$(BIN)/python -m dashboards.reference

test: $(STAMP)
	@$(BIN)/python tests/real_parts.py
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_FLAGS)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -n $(PYTEST_WORKERS) --dist loadfile tests/unit tests/architecture

soak: $(STAMP)
	$(BIN)/python -m tests.soak.ledger 10000000
	$(BIN)/python -m tests.soak.hidden_tab
	$(BIN)/python -m tests.soak.alarms
	$(BIN)/python -m tests.soak.collector
	$(BIN)/python -m tests.soak.witnesses

bench: $(STAMP)
	$(BIN)/python -m tests.benchmarks

bench-delivery: $(STAMP)
	$(BIN)/python -m tests.benchmarks.delivery

bench-commits bench-connections bench-watch bench-bounded: $(STAMP)
	$(BIN)/python -m tests.benchmarks.$(@:bench-%=%)

fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz $(FUZZ_FLAGS)

chaos: $(STAMP)
	$(BIN)/python -m tests.chaos $(CHAOS_FLAGS)

mutants: $(STAMP)
	$(BIN)/python -m tests.mutants $(MUTANTS_FLAGS)

mutate: $(STAMP)
	$(BIN)/python -m tests.mutation $(MUTATE_FLAGS)

lock: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(UV_COMPILE) --group run pyproject.toml -o requirements.lock
	$(UV_COMPILE) --group run --group dev -c requirements.lock pyproject.toml -o requirements-dev.lock
	$(UV_COMPILE) -c requirements-dev.lock pyproject.toml examples/agent/requirements.in -o examples/agent/requirements.lock
	$(UV_COMPILE) pyproject.toml examples/web/requirements.in -o examples/web/requirements.lock

types: $(RUNTIME)
	$(BIN)/python -m tracewire.gateway.typescript

dashboards: $(STAMP)
	$(BIN)/python -m dashboards.generator

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .examples .tracewire .stack .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist
