# Penstock on this machine. Needs Python 3.11 or newer as python3, and make; `make run KAFKA=apache`
# and a part of the tests need Java 17 and Maven too.

.DEFAULT_GOAL := help
.PHONY: help run test test-long coverage bench chaos sim exhaustive mutants mutmut check lint format test-matrix clean clean-data

PYTHON ?= python3
KAFKA ?= embedded
DATA ?= .penstock
TESTS ?=
# Test files side by side, in the order of their names: the last ones are the short ones. Some tests,
# chosen by TESTS, run one by one, as a debugger needs it.
SIDE_BY_SIDE ?= $(if $(TESTS),,-n 2 --dist loadfile --no-loadscope-reorder)
# The tests start hundreds of processes: one that may keep its bytecode starts in a third of the time.
BYTECODE := PYTHONDONTWRITEBYTECODE=
BENCH ?=
RUNS ?= 100000
MINUTES ?= 10
SEED ?= 1
CHAOS ?=
MATRIX ?= 2.1.1 3.6.0
CORE := assignment batch commands flight ledger mending ndjson partition recovery retry share
# The old engines run one statement at a time, the oldest a process a statement: of the layout's tests
# they get those that exactly-once stands on.
MATRIX_LAYOUT := $(addprefix tests/contract/test_layout.py::test_,a_row_is_converted_and_stamped \
	a_ledger_row_for_each_clickhouse_partition a_replay_changes_neither_table_nor_views \
	of_an_event_sent_twice_the_copy_received_first_stays)

BIN := .venv/bin
# A uv on the PATH is used; else one of our own is brought, beside the environment.
UV := $(or $(shell command -v uv 2>/dev/null),.tools/bin/uv)
READY := .venv/.synced

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1	/p' $(MAKEFILE_LIST) | sort | while IFS='	' read -r name what; do \
		printf '  make %-14s %s\n' "$$name" "$$what"; done

run: $(READY) ## the whole pipeline on this machine; KAFKA=apache for a durable broker; Ctrl-C stops it
	@exec $(BIN)/python -m deploy.local --kafka $(KAFKA) --data $(DATA)

test: $(READY) ## all tests but the long ones; TESTS='tests/unit -k name' for some
	$(BYTECODE) $(BIN)/python -m pytest $(SIDE_BY_SIDE) $(TESTS)

test-long: $(READY) ## the tests that take minutes each
	$(BIN)/python -m pytest -m long --timeout 1200 $(TESTS)

# What hypothesis meets differs from run to run; the unit tests alone have to reach every branch.
coverage: $(READY) ## do the unit tests take every branch of the pure core?
	$(BIN)/python -m pytest -q tests/unit/consumer $(CORE:%=--cov=consumer.%) --cov-branch \
		--cov-report=term-missing --cov-fail-under=100

check: lint test ## format, lint, types, tests: what CI runs

# Ruff without its cache: how imports are sorted depends on which modules there are.
lint: $(READY) ## format, lint and types, without changing anything
	$(BIN)/ruff format --check .
	$(BIN)/ruff check --no-cache .
	$(BIN)/mypy

format: $(READY) ## format the code, and mend what lint can mend
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

test-matrix: $(READY) $(MATRIX:%=matrix-%) ## the ClickHouse contract tests on older engines

# chDB 2.1.1 is ClickHouse 24.8, 3.6.0 is 25.5: the front runs there, the tests do not.
matrix-%: .penstock/matrix/%/.ready
	FRONT_PYTHON=$(CURDIR)/.penstock/matrix/$*/bin/python \
		$(BIN)/python -m pytest --timeout 900 tests/contract/test_clickhouse_facts.py $(MATRIX_LAYOUT)

.PRECIOUS: .penstock/matrix/%/.ready
.penstock/matrix/%/.ready: $(READY)
	$(UV) venv --quiet --clear --python $(BIN)/python .penstock/matrix/$*
	$(UV) pip install --quiet --python .penstock/matrix/$*/bin/python chdb==$*
	@touch $@

sim: $(READY) ## seeded runs of the core over modelled servers; RUNS=1000000 SEED=0
	$(BIN)/python -m tests.simulation --runs $(RUNS) --seed $(SEED)

exhaustive: $(READY) ## every order of events in small scopes, by search; about ten minutes
	$(BIN)/python -m tests.exhaustive

mutants: $(READY) ## each rule of the protocol switched off: does a named test turn red?
	$(BIN)/python -m tests.mutants

mutmut: $(READY) ## each expression of the pure core changed in turn: the share that its tests notice
	$(UV) run --frozen --with mutmut==3.8.1 python -m tests.mutants.each_line

bench: $(READY) ## the benchmark, as a table and as JSON; BENCH=--help for its options
	$(BIN)/python -m tests.bench $(BENCH)

chaos: $(READY) ## kills, cuts, freezes and lies for MINUTES=10 from SEED=1; CHAOS=--help for more
	$(BIN)/python -m tests.chaos --minutes $(MINUTES) --seed $(SEED) $(CHAOS)

clean: ## remove the environment and all caches; the trial's data stays
	rm -rf .venv .tools .mypy_cache .ruff_cache .pytest_cache .hypothesis .penstock/matrix
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

clean-data: ## remove the trial's data
	rm -rf $(DATA)

$(READY): pyproject.toml uv.lock | $(UV)
	$(UV) sync --quiet --frozen --python $(PYTHON)
	@touch $@

.tools/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is not a Python 3.11 or newer: set PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -m venv --clear .tools \
		|| { echo "$(PYTHON) -m venv failed (Debian, Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
	@.tools/bin/pip install --quiet uv
