# `make run` and `make test` need Python 3.11 or later with venv, and nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# The PostgreSQL versions to test on, the newest and the oldest. All tests run on the first, and
# those that depend on the server on the others too, of many cases one (all of them:
# ROTA_EVERYTHING=1). A version that is not installed is left out. What lies between:
# make test VERSIONS="18 16 15".
VERSIONS ?= 18 15
SERVER_TESTS := tests/functions tests/concurrency tests/schedules tests/test_deploy.py \
	tests/test_house_rules.py

MINUTES ?= 5
SEED ?= 7
EXAMPLES ?= 100
ROWS ?= 10000000

.PHONY: run demo test hostile fuzz drain faults ha soak locks mutants sweep bench bench-quick vendor lint clean help

help:
	@echo "make run    run Rota here: database, API and one worker; Ctrl-C stops it"
	@echo "make demo   enqueue a hundred jobs in a running Rota and watch them"
	@echo "make test   run the tests on every PostgreSQL at hand, or on TEST_DATABASE_URL"
	@echo "make hostile  the functions' tests where every default of the server is hostile"
	@echo "make fuzz   the API against requests made up from its document, EXAMPLES=100 each, by SEED=7"
	@echo "make drain  10,000 jobs while a worker is killed every second"
	@echo "make faults every fault in its long form; docs/faults.md has what is seen"
	@echo "make ha     lose nodes of a Patroni cluster, twelve times and more; docs/faults.md has what is seen"
	@echo "make soak   all faults in rotation, for MINUTES=5"
	@echo "make locks  for how long an upgrade of ROWS=10000000 jobs keeps others waiting"
	@echo "make mutants make each known mistake in a copy; some test must notice (six minutes)"
	@echo "make sweep  make 400 small mistakes, drawn by SEED=7; goes on where it was stopped"
	@echo "make bench  measure Rota and its peers on this machine; make bench-quick in five minutes"
	@echo "make vendor  fetch what the pages take from npm anew, as vendor.json has its versions"
	@echo "make lint   check the style of Python and SQL"
	@echo "make clean  remove the virtual environment and the embedded database with its data"

run: $(VENV)/run
	@exec $(BIN)/rota run

demo: $(VENV)/run
	@exec $(BIN)/rota demo

test: $(VENV)/dev
	@exec $(BIN)/python -m tests.all $(VERSIONS) -- $(SERVER_TESTS)

hostile: $(VENV)/dev
	@ROTA_HOSTILE=all ROTA_PG=$(lastword $(VERSIONS)) $(BIN)/python -m pytest -q \
		tests/functions tests/schedules tests/concurrency

fuzz: $(VENV)/dev
	@ROTA_FUZZ=$(EXAMPLES) ROTA_FUZZ_SEED=$(SEED) $(BIN)/python -m pytest -q tests/api/test_fuzz.py

drain: $(VENV)/dev
	@ROTA_DRAIN_JOBS=10000 $(BIN)/python -m pytest -q -s tests/faults/test_drain.py

faults: $(VENV)/dev
	@mkdir -p .rota; rm -f .rota/faults.jsonl
	@ROTA_FAULTS=all ROTA_RECORD=$(CURDIR)/.rota/faults.jsonl \
		$(BIN)/python -m pytest -q tests/history tests/faults \
		tests/api/test_example_workers.py
	@$(BIN)/python -m tests.faults.report .rota/faults.jsonl

ha: $(VENV)/dev $(VENV)/ha
	@mkdir -p .rota; rm -f .rota/ha.jsonl
	@ROTA_HA=$${ROTA_HA:-all} ROTA_RECORD=$(CURDIR)/.rota/ha.jsonl \
		$(BIN)/python -m pytest -q -rs tests/ha
	@test "$${ROTA_HA:-all}" != all || $(BIN)/python -m tests.ha.report .rota/ha.jsonl

soak: $(VENV)/dev
	@$(BIN)/python -m tests.soak --minutes $(MINUTES)

locks: $(VENV)/dev
	@exec $(BIN)/python -m tests.locks --rows $(ROWS)

mutants: $(VENV)/dev
	@exec $(BIN)/python -m tests.mutants

sweep: $(VENV)/dev
	@$(BIN)/python -m tests.mutants.sweep --sample 300 --seed $(SEED)
	@$(BIN)/python -m tests.mutants.sweep --python --sample 100 --seed $(SEED)

bench: $(VENV)/bench
	@exec $(BIN)/python -m bench

bench-quick: $(VENV)/bench
	@exec $(BIN)/python -m bench --size quick

vendor: $(VENV)/dev
	@$(BIN)/python -m tests.ui.vendor

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/squawk db/migrations/*.sql

clean:
	rm -rf $(VENV) .rota

# Each stamp is the list of requirements that was installed; pip runs again when it changes.
$(VENV)/run: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed; say which with PYTHON=… make …" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing what Rota needs into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@cp requirements.txt $@

$(VENV)/dev: requirements-dev.txt $(VENV)/run
	@echo "Installing what its tests need into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@cp requirements-dev.txt $@

$(VENV)/ha: requirements-ha.txt $(VENV)/run
	@echo "Installing Patroni into $(VENV)/patroni …"
	@test -x $(VENV)/patroni/bin/python || $(PYTHON) -m venv $(VENV)/patroni
	@$(VENV)/patroni/bin/python -m pip install --quiet --disable-pip-version-check \
		-r requirements-ha.txt
	@cp requirements-ha.txt $@

# The peers that run on Node are left out where there is no npm.
$(VENV)/bench: requirements-bench.txt bench/package.json $(VENV)/run
	@echo "Installing the peers into $(VENV) and bench/node_modules …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-bench.txt
	@if command -v npm > /dev/null; then \
		npm install --prefix bench --silent --no-audit --no-fund --no-package-lock; \
		else echo "there is no npm: graphile-worker and pg-boss are left out";  fi
	@cat requirements-bench.txt bench/package.json > $@
