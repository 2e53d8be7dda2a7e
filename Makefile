# `make demo` and `make test` need Python 3.11 or newer and make; each sets up what it needs.

# The first interpreter on the path (or of pyenv) that starts, is new enough and can make environments.
candidates := python3.11 python3.12 python3.13 python3.14 python3 \
  $(wildcard $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions/3.1[1-9].*/bin/python3)
can_run = $(1) -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, $(2)))' 2>/dev/null
first_from = $(firstword $(foreach python,$(candidates),$(shell $(call can_run,$(python),$(1)) && echo $(python))))

PYTHON ?= $(call first_from,11)
PYTEST_ARGS ?=
BIN := .venv/bin
# Tests run side by side, one thread each: their tensors are too small for more.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8

# ArviZ 1 needs Python 3.12: where there is one, the tests also read a saved run with that generation of ArviZ.
PYTHON312 ?= $(call first_from,12)
ARVIZ1 := .venv-arviz1/ready

.NOTPARALLEL:
.PHONY: demo test test-all lint types docs clean

demo: .venv/examples
	$(BIN)/python examples/digits.py

test: .venv/test $(ARVIZ1)
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-all: .venv/test $(ARVIZ1)
	$(PYTEST) $(PYTEST_ARGS)

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev
	$(BIN)/pyright

docs: .venv/docs
	$(BIN)/python -m sphinx -W --keep-going -E -b html docs docs/_build/html

clean:
	rm -rf .venv .venv-arviz1 build dist *.egg-info docs/_build docs/api/generated .pytest_cache .ruff_cache

.venv/created:
	@test -n '$(PYTHON)' || { echo 'No Python 3.11 or newer with venv found; install one or say make PYTHON=/path/to/python' >&2; exit 1; }
	$(PYTHON) -m venv .venv
	touch $@

# One stamp for each extra of pyproject.toml: test, examples, docs, dev.
.venv/%: pyproject.toml setup.cfg constraints.txt | .venv/created
	@echo 'Installing langevin and what $* needs into .venv; the first time takes a minute or more.'
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$*]'
	touch $@

$(ARVIZ1): tests/arviz1.txt
	@if test -z '$(PYTHON312)'; then echo 'No Python 3.12 or newer: the tests of ArviZ 1 will be skipped' >&2; \
	else $(PYTHON312) -m venv .venv-arviz1 && .venv-arviz1/bin/python -m pip install --quiet -r $< && touch $@; fi
