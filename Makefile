# `make help` lists the targets.
#
# PYTHON is the interpreter that makes the virtual environment. With VENV= (empty) none is made, and PYTHON itself runs
# everything; it must then have the packages of requirements.txt and requirements/*.txt.

PYTHON ?= python3
VENV ?= .venv
DATA ?= procedural
JOBS ?= auto
RUN := $(if $(VENV),$(VENV)/bin/python,$(PYTHON))
REQUIREMENTS := requirements.txt requirements/data.txt requirements/dev.txt

.PHONY: help environment demo test quick lint

help:
	@echo "make environment          $(or $(VENV),no environment) with the tested versions of all packages; then: source $(VENV)/bin/activate"
	@echo "make demo                 all four stages on procedural chairs; about five minutes on two CPU cores"
	@echo "make demo DATA=furniture  the same on real, openly licensed furniture; 14 to 20 minutes"
	@echo "make test                 all tests, in up to four processes (JOBS=1 for one)"
	@echo "make quick                the tests without the slow ones"
	@echo "make lint                 ruff format and ruff check, as CI runs them"
	@echo "make demo ANEW=1          from the start, though runs are there; otherwise it goes on where it stopped"
	@echo "Variables: PYTHON=python3, VENV=.venv (empty: use PYTHON as it is), DATA=procedural, JOBS=auto"

demo: environment
	$(RUN) demo.py --data $(DATA) $(if $(ANEW),--anew)

# A module's tests stay in one process, since they share what its fixtures trained.
test: environment
	$(RUN) -m pytest -q -n $(JOBS) --maxprocesses 4 --dist loadfile

quick: environment
	$(RUN) -m pytest -q -n $(JOBS) --maxprocesses 4 --dist loadfile -m "not slow"

lint: environment
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .

environment: $(if $(VENV),$(VENV)/.installed)

$(VENV)/.installed: $(REQUIREMENTS) requirements/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; make PYTHON=... names it" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -c requirements/constraints.txt $(addprefix -r ,$(REQUIREMENTS))
	touch $@
