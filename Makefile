# Everything here is also a plain command: see the README's first section.
VENV := $(or $(VIRTUAL_ENV),$(CONDA_PREFIX),.venv)
PYTHON := $(VENV)/bin/python
READY := $(VENV)/.memnets-ready
WORKERS ?= auto

.PHONY: train test lint long learn reproduce tables install clean

train: install ## an NTM learns to copy
	$(PYTHON) scripts/train.py

test: lint ## static checks, then the quick tests
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n $(WORKERS)

lint: install ## style, types, import order of the rooms
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(VENV)/bin/lint-imports

long: install ## the cases that the quick tests leave out: more shapes of kernels, every point of every sweep
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n $(WORKERS) -m long

learn: install ## the long tests: models reach stated errors
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n $(WORKERS) -m learning

reproduce: install ## train, record and draw what is behind a table: SET=ntm, QUICK=--quick, JOBS=2, WITH="key=value ..."
	$(PYTHON) scripts/reproduce.py set=$(SET) jobs=$(or $(JOBS),1) $(if $(WITH),with='$(WITH)') $(QUICK)
	$(PYTHON) scripts/tables.py

tables: install ## results/*.csv into the tables of README and docs
	$(PYTHON) scripts/tables.py

install: $(READY)

# A virtual environment that is active is used; otherwise one is made here.
$(READY): pyproject.toml
	test -x $(PYTHON) || python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $(READY)

clean:
	rm -rf build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
