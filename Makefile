# Every target that runs code depends on the stamp of a finished set-up, so that a fresh machine
# needs Python >= 3.11, make, and a network to the package index.
PYTHON ?= python3
UV_VERSION := 0.13.8
VENV := .venv
PY := $(VENV)/bin/python
UV := $(VENV)/bin/uv
# Every run is a process of its own; uncompiled libraries would cost each of them seconds.
INSTALL := $(UV) pip install --quiet --compile-bytecode --python $(PY)
EXTRAS ?=
TORCH ?=
DEVICE ?= cpu
comma := ,
BASE := $(VENV)/.ready$(if $(TORCH),-$(TORCH))
STAMP := $(if $(EXTRAS),$(VENV)/.extras-$(subst $(comma),+,$(EXTRAS)),$(BASE))

# Files of tests go to as many processes as there are cores; more than four would lack memory.
SPREAD := --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# Values reach the shell as quoted text: nothing in them is expanded or executed.
unexport METHOD DATA NET RECIPE SEEDS ARGS PART
quoted = '$(subst ','\'',$(value $(1)))'
given = $(or $(findstring command,$(origin $(1))),$(findstring environment,$(origin $(1))))
pick = $(if $(call given,$(1)),$(2)=$(call quoted,$(1)))
quote_each = $(foreach item,$(value $(1)),'$(subst ','\'',$(item))')
GRID = $(call pick,METHOD,method) $(call pick,DATA,data) $(call pick,NET,net) \
       $(call pick,RECIPE,recipe) $(call pick,SEEDS,seeds) $(call quote_each,ARGS)

.DEFAULT_GOAL := help
.PHONY: help bench test test-all perf gpu leaderboard report notebooks docs lint format clean setup

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## install everything into .venv (behind every other target)

$(BASE): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "mixbench needs Python 3.11 or newer, found %d.%d; set PYTHON=" % sys.version_info[:2])'
	@test ! -L $(VENV) || { echo "mixbench: $(VENV) is a link, whose target would be emptied; \
	remove it, or set up the packages there" >&2; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
ifeq ($(TORCH),cpu)
	sed -e '/^ *--hash/d' -e 's/ *\\$$//' -e '/^nvidia-/d' -e '/^triton/d' -e '/^cuda-/d' \
	  requirements.lock > $(VENV)/constraints.txt
	$(INSTALL) --torch-backend cpu -r $(VENV)/constraints.txt
else
	$(INSTALL) --require-hashes -r requirements.lock
endif
	$(INSTALL) --no-deps --no-build-isolation --editable .
	$(PY) -m compileall -q mixbench
	@touch $@

$(VENV)/.extras-%: $(BASE)
	$(INSTALL) --no-build-isolation --editable '.[$(subst +,$(comma),$*)]'
	@touch $@

bench: $(STAMP) ## train, evaluate and rank: METHOD=a,b DATA=name NET= RECIPE= SEEDS=0,1 ARGS="a.b=c"
	@$(PY) -m mixbench bench $(GRID)$(if $(findstring --report,$(value ARGS)),, --report)

test: $(STAMP) ## the default test suite, without network
	@$(PY) -m pytest -q $(SPREAD)

test-all: $(STAMP) ## all tests, the slow ones included
	@$(PY) -m pytest -q -m "not gpu" $(SPREAD)

perf: $(STAMP) ## speed tables against installed peers, as ratios: DEVICE=cpu|cuda
	@$(PY) -m mixbench.perf --device $(DEVICE)

gpu: $(STAMP) ## checks for a GPU in less than eight minutes: PART=tests|perf|quick DEVICE=cuda|cpu
	@$(PY) -m mixbench.perf.gpu --device $(if $(call given,DEVICE),$(call quoted,DEVICE),cuda) \
	  $(if $(call given,PART),--part $(call quoted,PART)) $(call quote_each,ARGS)

leaderboard: $(STAMP) ## tables of the runs in runs/
	@$(PY) -m mixbench leaderboard

report: $(STAMP) ## one self-contained HTML page of the runs in runs/
	@$(PY) -m mixbench report

notebooks: $(STAMP) ## execute all notebooks; the copies go to runs/notebooks/
	@$(PY) -m mixbench.notebook

docs: $(VENV)/.extras-docs ## the documentation site: docs/_build/html/index.html
	@$(PY) -m sphinx -W --keep-going -q -d docs/_build/doctrees docs docs/_build/html
	@echo "written: docs/_build/html/index.html"

lint: $(STAMP) ## ruff and pyright
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/pyright

format: $(STAMP) ## let ruff rewrite the code
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

lock: $(STAMP) ## pin the newest versions again
	@$(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-header --no-annotate --group dev pyproject.toml -o requirements.lock --upgrade --quiet

clean: ## remove the environment and caches; runs/ and data/ stay
	rm -rf $(VENV) .pytest_cache .ruff_cache dist docs/_build docs/reference
	find mixbench tests -name __pycache__ -type d -prune -exec rm -rf {} +
