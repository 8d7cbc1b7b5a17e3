# Every target makes what it needs: a virtual environment in .venv, filled by plain pip. `make help` lists them.
# Another interpreter: make test PYTHON=python3.12. Another place for the environment: VENV=/tmp/venv.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo serve-demo test test-gpu test-faults test-stores lint format bench up health hotfix benchmark down docs clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.local  ## Serve the demo model: three experts in one batch, one of them replaced while it answers
	$(BIN)/loradex demo

serve-demo: $(VENV)/.local  ## The same, and leave the server running
	$(BIN)/loradex demo --serve

test: $(VENV)/.test  ## Run the tests (ten to thirteen minutes on two cores; WORKERS=4 for more)
	$(BIN)/python -m pytest -n $(WORKERS) -q

test-gpu: $(VENV)/.test  ## Run the tests that need an NVIDIA card, on this machine's
	TRITON_INTERPRET=0 $(BIN)/python -m pytest -q -m gpu

test-faults: $(VENV)/.test  ## Kill -9 at every point and fuzz at length (40 minutes; FUZZ_ROUNDS=2000 for 12)
	$(BIN)/python -m pytest -n $(WORKERS) -q -m slow tests/faults tests/adapters

test-stores: $(VENV)/.test-stores  ## Run the tests of s3:// and gs://, against servers of this machine
	$(BIN)/python -m pytest -q tests/registry/sources/test_stores.py

lint: $(VENV)/.lint  ## Check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.lint  ## Format the code and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.local  ## Measure the demo model for a few seconds; benchmarks/README.md has the real ones
	$(BIN)/loradex bench throughput --batch 4 --input 32 --output 32 --pairs 5 --out -

# In containers where a Docker engine answers, else as a process of this machine: deploy/stack says what can be given.
STACK_RUN = LORADEX=$(abspath $(BIN))/loradex PYTHON=$(PYTHON) RUN=$(CURDIR)/.run deploy/stack

.SECONDEXPANSION:
up health hotfix benchmark down: $$(shell docker info >/dev/null 2>&1 || echo $(VENV)/.bench)

up:  ## Start a server, with Prometheus and Grafana where there is Docker (MODEL=, ADAPTERS=, PORT=)
	@$(STACK_RUN) up

health:  ## Wait until the server answers
	@$(STACK_RUN) health

hotfix:  ## Replace an adapter under streams again and again, and check every answer (ONE=, TWO=)
	@$(STACK_RUN) hotfix

benchmark:  ## Measure load, replace and unload on the server (ONE=, TWO=)
	@$(STACK_RUN) benchmark

down:  ## Stop what `up` started
	@$(STACK_RUN) down

docs: $(VENV)/.local  ## Write the reference pages of docs/reference from the code
	$(BIN)/python docs/generate.py

clean:  ## Remove the environment, caches and builds
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: each extra is installed once, and again when pyproject.toml changes.

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  found=$$({ $(PYTHON) --version || echo missing; } 2>/dev/null); \
	  echo "error: Loradex needs Python 3.11 or newer; \`$(PYTHON)\` is $$found"; \
	  echo "  fix: install one and name it: make PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "error: \`$(PYTHON) -m venv\` failed"; \
	  echo "  fix: install the venv module (Debian, Ubuntu: apt install python3-venv)"; exit 2; }
	@touch $@

$(VENV)/.%: $(VENV)/.made pyproject.toml
	@echo "installing loradex[$*] into $(VENV) (the first time takes a few minutes)"
	$(PIP) -e '.[$*]'
	@touch $@
