# Every target makes .venv and installs what it needs; set VENV to use an environment of your own.
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.nnunet-mamba-installed

.PHONY: demo study-hippocampus study-reach test test-slow test-long test-gpu lint types docs build coverage check startup bench clean

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install -e ".[dev]"
	touch $@

demo: $(INSTALLED)  ## the whole job on 25 real cases: train, cross-validate, ensemble, predict
	$(BIN)/nnunet-mamba demo

study-hippocampus: $(INSTALLED)  ## every network against its control on DATA=Task04_Hippocampus, a download of the MSD: hours
	$(BIN)/nnunet-mamba study hippocampus_study --data $(DATA) --out $(or $(OUT),study_hippocampus)

study-reach: $(INSTALLED)  ## at which distance each network stops, on invented volumes: hours
	$(BIN)/nnunet-mamba study reach_study --out $(or $(OUT),study_reach)

test: $(INSTALLED)  ## all tests but the slow ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not long" -n $(WORKERS)

test-slow: $(INSTALLED)  ## nnU-Net's own commands end to end on real data, on the CPU
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n $(WORKERS) --dist loadfile

test-long: $(INSTALLED)  ## the rest of the matrices of which the other tests take a part: an hour
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long -n $(WORKERS)

test-gpu: $(INSTALLED)  ## what only a GPU shows; skipped, and said so, where there is none
	$(BIN)/python -m pytest tests/gpu

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(INSTALLED)  ## the documentation as a site, warnings are errors
	$(BIN)/python -m pip install --quiet -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

build: $(INSTALLED)  ## wheel and source distribution in dist/
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist

coverage: $(INSTALLED)  ## which lines the fast tests reach
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not long" -n $(WORKERS) --cov --cov-report=term-missing:skip-covered

check: lint types docs build test startup test-slow  ## everything

startup: $(INSTALLED)  ## what the hook costs at interpreter start
	$(BIN)/python -m nnunet_mamba.discovery.benchmark

bench: startup  ## our operators and networks beside other implementations (minutes)
	$(BIN)/python -m pip install --quiet -e ".[bench]"
	$(BIN)/nnunet-mamba bench ops
	$(BIN)/nnunet-mamba bench network

clean:
	rm -rf $(VENV) build dist site .coverage .pytest_cache .ruff_cache .hypothesis
