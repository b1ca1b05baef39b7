# Two commands on a fresh machine: `make demo` and `make test`.  Both begin with `make install`.

.DEFAULT_GOAL := help
.PHONY: help install servers demo test test-containers lint bench soak constraints clean
.SUFFIXES:

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## .venv with the dynlog command, every extra and the tools, pinned with hashes (PYTHON=... to choose)

# The stamp is newer than what it was made from exactly if nothing changed since.
$(STAMP): constraints.txt pyproject.toml scripts/install.sh
	@scripts/install.sh $(VENV)
	@touch $@

servers: ## The real servers that tests talk to, built once per version into ~/.cache/dynlog
	@scripts/servers/all.sh

demo: install ## A fleet, a router that is killed, and its state back from the log
	@$(BIN)/dynlog demo

test: install ## Everything that CI runs: servers, static checks, containers, uvloop, compiled, pytest (ARGS="..." for pytest)
	@scripts/check.sh servers lint types layers containers uvloop compiled tests

test-containers: install ## The fixtures of dynlog.testing from containers: local images, a dockerd of its own if none answers
	@scripts/containers.sh $(BIN)/python -m pytest tests/testing/test_fixtures.py tests/testing/with_docker.py $(ARGS)

lint: install ## The static half of `make test`
	@scripts/check.sh lint types layers

bench: install ## Tables against peers, and benchmarks/results/*.json, on the compiled build (ARGS="--quick rebuild")
	@scripts/compiled.sh python -m benchmarks $(ARGS)

soak: install servers ## Crashes, and servers that fail for 30 s, ROUNDS=n of each (ARGS="--only crash,redis --seed 7")
	@$(BIN)/python scripts/soak.py $(if $(ROUNDS),--rounds $(ROUNDS)) $(ARGS)

constraints: ## constraints.txt anew from pyproject.toml (ARGS=--upgrade to move every version)
	@scripts/constraints.sh $(ARGS)

clean: ## Removes what make made here; keeps ~/.cache/dynlog
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
