# make demo                   learn, segment and reconstruct procedural chairs; five to ten minutes on two CPU cores
# make demo DATA=furniture    the same on real, openly licensed furniture
# make test                   the tests
# make lint                   ruff
#
# PYTHON is the interpreter the virtual environment is made with. With VENV= (empty) none is made, and PYTHON itself,
# which must have everything in requirements*.txt, does the work.

PYTHON ?= python3
VENV ?= .venv
DATA ?= procedural
RUN := $(if $(VENV),$(VENV)/bin/python,$(PYTHON))
REQUIREMENTS := requirements.txt requirements-data.txt requirements-dev.txt

.PHONY: demo test lint environment

demo: environment
	$(RUN) demo.py --data $(DATA)

test: environment
	$(RUN) -m pytest -q

lint: environment
	$(RUN) -m ruff check .

environment: $(if $(VENV),$(VENV)/.installed)

$(VENV)/.installed: $(REQUIREMENTS) constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt $(addprefix -r ,$(REQUIREMENTS))
	touch $@
