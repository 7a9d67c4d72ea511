# make demo: the made-up shop from nothing to ./unimp and its report.   make space: a page over ./unimp.
# make test: the test suite.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo space test check clean

demo: $(VENV)/.installed
	$(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no train.py --config recipes/demo.yaml

space: $(VENV)/.installed-demo
	@test -f unimp/config.json || { echo "there is no model in ./unimp: run \`make demo\` first"; exit 1; }
	$(BIN)/python -m hub_cards.space.app --model unimp

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 8 --dist loadfile

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "UniMP needs Python 3.10 or newer; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install -q -e ".[train]"
	touch $@

$(VENV)/.installed-demo: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install -q -e ".[demo]"
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install -q -e ".[dev]"
	touch $@ $(VENV)/.installed $(VENV)/.installed-demo

clean:
	rm -rf $(VENV) unimp .pytest_cache .mypy_cache .ruff_cache
