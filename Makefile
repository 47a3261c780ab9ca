# One word per task; `make help` lists them. All that is needed is make and Python 3.10 to 3.13.

BIN := .venv/bin
STAMP := .venv/requirements.sha256
WORKERS := logical

.DEFAULT_GOAL := help
.PHONY: help setup demo notebook test coverage screenshots bench docs lint format lock resolve audit baselines clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP)  ## make .venv and install the pinned packages (the other targets do it when needed)

# A Python of the right version that can make virtual environments; else python3, for `setup` to say what is wrong.
$(STAMP): requirements.lock
	@for python in $(PYTHON) python3.11 python3.12 python3.13 python3.10 python3 python; do \
	  if $$python -c 'import ensurepip, sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; \
	  then exec $$python main.py setup; fi; \
	done; \
	command -v python3 >/dev/null || { echo "Error: there is no Python here. Install 3.10 to 3.13, then try again." >&2; exit 1; }; \
	exec python3 main.py setup

demo: $(STAMP)  ## the whole product on a made-up fleet; CHECK=1 verifies it without a person and stops
	@exec $(BIN)/python main.py demo $(if $(CHECK),--check)

# JupyterLab is large and not needed by anything else, so it comes when it is wanted; a VS Code needs no more than setup.
notebook: $(STAMP)  ## open _StartHere.ipynb (JupyterLab is installed first); CHECK=1 runs all cells without a person
ifdef CHECK
	@exec $(BIN)/python benchmarks/bench_notebook.py
else
	@$(BIN)/python -c 'import jupyterlab' 2>/dev/null || $(BIN)/python -m pip install --quiet 'jupyterlab>=4,<5'
	@exec $(BIN)/jupyter lab _StartHere.ipynb
endif

test: $(STAMP)  ## all tests, on up to 4 cores (WORKERS=0: one by one); RANDOM=1 shuffles them, RANDOM=1234 as that run did
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --maxprocesses 4 --dist loadfile $(if $(RANDOM),-p randomly $(if $(filter-out 1,$(RANDOM)),-p randomly_seed=$(RANDOM)))

coverage: $(STAMP)  ## all tests, and how much of our lines they run, those of started programs included; below 90 % is an error
	@rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under=90

screenshots: $(STAMP)  ## renew the pictures that the dashboard is compared with (tests/screenshots)
	PYTHONPATH=. $(BIN)/python tests/dashboard_pictures.py

bench: $(STAMP)  ## all benchmarks, short runs, into bench/results.jsonl; FULL=1 for figures that may be quoted
	@exec $(BIN)/python benchmarks/run_all.py $(if $(FULL),--full)

docs: $(STAMP)  ## write Docs/CLI.md and Docs/LICENSES.md anew
	$(BIN)/python cli_page.py
	$(BIN)/python licence_report.py

lint: $(STAMP)  ## ruff (lint and format) and mypy, as strict as pyproject.toml says
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)  ## put the code into the one format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# uv resolves for all Pythons and platforms at once. torch is held, and its CUDA packages are left out: see the header.
lock: $(STAMP)  ## resolve requirements-dev.txt anew into requirements.lock
	$(BIN)/python -m pip install --quiet uv
	echo 'torch==2.13.0' > .venv/hold.txt
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.10 --no-annotate --no-header \
	  --constraint .venv/hold.txt requirements-dev.txt --output-file .venv/resolved.txt
	{ sed -n '/^#/p' requirements.lock; grep -vE '^(nvidia-|cuda-|triton)' .venv/resolved.txt; } > .venv/requirements.lock
	mv .venv/requirements.lock requirements.lock

# Wheels alone: what has to be built could fail on the user's machine.
resolve: $(STAMP)  ## prove that requirements.txt resolves for Python 3.10 to 3.13 (asks the package index)
	$(BIN)/python -m pip install --quiet uv
	@set -e; for python in 3.10 3.11 3.12 3.13; do \
	  $(BIN)/uv pip compile --quiet --python-version $$python --only-binary :all: --no-annotate --no-header \
	    requirements.txt --output-file .venv/resolved-$$python.txt >/dev/null; \
	  echo "Python $$python: $$(wc -l < .venv/resolved-$$python.txt) packages"; \
	done

# Not into .venv: statsforecast holds pandas at an older version than the product's.
# --strict: what the database does not know, or cannot be asked for, is an error and no all-clear.
audit: $(STAMP)  ## known vulnerabilities of the pinned packages (asks PyPI)
	$(BIN)/python -m pip install --quiet 'pip-audit>=2.9,<3'
	$(BIN)/pip-audit --strict --disable-pip --no-deps --progress-spinner off --requirement requirements.lock

baselines: $(STAMP)  ## an environment with statsforecast, for the AutoETS and AutoTheta baselines of backtests
	$(BIN)/python -m venv .venv-baselines
	.venv-baselines/bin/python -m pip install --quiet -r requirements-baselines.txt

clean:  ## remove what can be made again: .venv, .venv-baselines, caches, logs; data, models and history stay
	rm -rf .venv .venv-baselines .mypy_cache .pytest_cache .ruff_cache .hypothesis logs lightning_logs
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
