# Two commands for a newcomer: `make demo` and `make test`.  Each sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test soak bench lint install clean

demo: $(STAMP)
	@$(BIN)/vmbus demo $(ARGS)

test: $(STAMP)
	@$(BIN)/python -m tests.run $(ARGS)

soak: $(STAMP)
	@VMBUS_SOAK=1 $(BIN)/python -m tests.run --soak $(ARGS)

bench: $(STAMP)
	@$(BIN)/python -m benchmarks all $(ARGS)

lint: $(STAMP)
	@$(BIN)/python -m tests.run --lint-only

install: $(STAMP)

$(STAMP): pyproject.toml setup.py $(wildcard vmbus/native/*.[ch]) vmbus/capture/_records.c
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is missing; on Debian or Ubuntu: apt-get install python3 python3-venv"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: Python 3.11 or newer is needed, this is $$($(PYTHON) --version); name another with PYTHON=..."; exit 1; }
	@test -x $(BIN)/python || { echo "making a virtual environment in $(VENV)"; $(PYTHON) -m venv $(VENV) || { echo "make: on Debian or Ubuntu: apt-get install python3-venv"; exit 1; }; }
	@echo "installing vmbus and what it needs into $(VENV) (once; about a minute)"
	@$(BIN)/python -m pip install -q -U pip 'setuptools>=77' wheel
	@$(BIN)/python -m pip install -q -e '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
