# stagegraph: what there is to type. `make` alone lists it.
#
# Two commands do all the set-up themselves: `make demo` and `make test`. They need Python 3.11 or
# newer with its venv module, and make. The first call fills $(VENV); the next starts at once.

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
ARGS ?=

python := $(VENV)/bin/python
pip := $(python) -m pip --disable-pip-version-check
ready := $(VENV)/.ready

# Small matrices on many threads wait for each other; pytest runs one process per core instead.
tests := OMP_NUM_THREADS=1 $(python) -m pytest -n auto --maxprocesses 8 --dist loadgroup

.DEFAULT_GOAL := help
.PHONY: help demo test check format slow gpu bench bench-trainers clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo '  ARGS="..." is passed on: make demo ARGS="--steps 200", make test ARGS="-k plateau".'
	@echo '  PYTHON=python3.12 chooses the Python, TORCH="torch==2.13.0" the torch of a new $(VENV).'

demo: $(ready) ## the main example: a GPT that grows on a plateau, about two minutes
	@$(python) -W 'ignore:Failed to initialize NumPy' -m examples.grow_gpt.train $(ARGS)

test: $(ready) ## the tests
	@echo '== tests'
	@$(tests) $(ARGS)

check: $(ready) ## the full gate: format, lint, types, then all tests (layers, schemas, examples too)
	@echo '== format'
	@$(python) -m ruff format --check .
	@echo '== lint'
	@$(python) -m ruff check .
	@echo '== types'
	@$(python) -m mypy
	@echo '== tests: behaviour, import layers, fresh schemas, exported names, examples'
	@$(tests)

format: $(ready) ## put the code in its form, and mend what lint can mend
	@$(python) -m ruff check --fix-only --exit-zero .
	@$(python) -m ruff format .

slow: $(ready) ## the tests that take minutes, fuzzing by coverage among them
	@$(pip) install --quiet --editable '.[fuzz]'
	@if command -v npm >/dev/null; then npm install --silent --no-package-lock --prefix tests/xstate; \
	    else echo '== no npm: the comparison with XState is skipped'; fi
	@$(tests) -m slow $(ARGS)

gpu: $(ready) ## the tests on CUDA; where there is none they are skipped
	@$(tests) -m gpu tests/cuda $(ARGS)

bench: $(ready) ## the benchmarks
	@OMP_NUM_THREADS=1 $(python) -m pytest -p pytest_benchmark.plugin -m "" benchmarks $(ARGS)

bench-trainers: $(ready) ## what stagegraph adds to an update, in each trainer
	@OMP_NUM_THREADS=1 $(python) -m benchmarks.trainers $(ARGS)

clean: ## remove the environment and all caches
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	rm -rf .import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# Set-up. The stamp is written last, so that what was interrupted is taken up again.

$(ready): pyproject.toml | $(VENV)/bin/pip
	@$(python) -c 'from importlib.metadata import version; print("== torch", version("torch"))' \
	    2>/dev/null || { \
	    echo '== installing $(TORCH) (large; minutes on a slow line)'; \
	    $(pip) install $(TORCH); \
	}
	@echo '== installing stagegraph and what its tests need'
	@$(pip) install --quiet --editable '.[dev]'
	@touch $@
	@echo '== set up in $(VENV)'

$(VENV)/bin/pip:
	@command -v $(PYTHON) >/dev/null || { \
	    echo 'stagegraph needs Python 3.11 or newer, and there is no "$(PYTHON)".'; \
	    echo 'Install one (Debian, Ubuntu: apt install python3 python3-venv),'; \
	    echo 'or name yours: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12'; \
	    exit 1; } >&2
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "stagegraph needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)."; \
	    echo 'Name a newer one: make $(MAKECMDGOALS) PYTHON=python3.12'; \
	    exit 1; } >&2
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo '$(PYTHON) cannot make virtual environments: its venv module is not installed.'; \
	    echo 'Debian, Ubuntu: apt install python3-venv'; \
	    exit 1; } >&2
	@echo "== making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	    echo '$(PYTHON) -m venv failed. Debian, Ubuntu: apt install python3-venv' >&2; exit 1; }
