# Everything that one does with the project. `make` alone lists the verbs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install demo run test bench peers lint types format clean

help:  ## list these verbs
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(VENV)/.installed  ## everything the server and the simulator need, in .venv

demo: $(VENV)/.installed  ## a server with five simulated cameras; Ctrl-C ends it
	@env PYTHONPATH=src $(BIN)/python -m client_sim.demo

run: $(VENV)/.installed  ## the server, with the options in ARGS: make run ARGS="-p 9000 -d"
	@$(BIN)/python src/ImageServer.py $(ARGS)

test: $(VENV)/.installed-dev  ## all tests that this machine can run; pytest's options in ARGS
	@$(BIN)/python -m pytest $(ARGS)

bench: $(VENV)/.installed  ## what a frame costs, beside Node, Bun and others: takes minutes; parts of it in ARGS
	@scripts/bench-peers
	@$(BIN)/python bench/ingest.py $(ARGS)

peers: $(VENV)/.installed-dev  ## install what the tests need beside Python: Debian packages, npm and Maven clients
	@scripts/peers

lint: $(VENV)/.installed-dev  ## faults of form and style
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev  ## check the types
	@$(BIN)/mypy

format: $(VENV)/.installed-dev  ## bring the code into the common form
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:  ## remove everything that the other verbs made
	rm -f src/compiled/*.so
	rm -rf $(VENV) .peers .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.* htmlcov
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

# The marks are younger than the lists of what is installed, or it is installed again.
$(VENV)/.installed: requirements.txt src/compiled/reader.c scripts/build-compiled
	@scripts/venv "$(PYTHON)" $(VENV) requirements.txt
	@$(BIN)/python scripts/build-compiled
	@$(BIN)/python -c 'import cv2' || echo 'OpenCV cannot be loaded, and without it there are neither windows nor' \
		'simulated cameras. On Debian: apt-get install libgl1 libglib2.0-0' >&2
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	@scripts/venv "$(PYTHON)" $(VENV) requirements-dev.txt
	@touch $@
