# make demo | make test | make bench: each sets up .venv from requirements.txt when needed.
PYTHON ?= python3
BIN := .venv/bin
RESULTS ?= results/demo
SOFT_LABELS ?= soft_labels

.PHONY: demo test test-slow bench

.venv/ready: requirements.txt tests/requirements.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "setting up .venv (about 6 GB, a few minutes on the first run)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r tests/requirements.txt
	@touch .venv/ready
