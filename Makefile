# Two commands on a machine with Python 3.11 or newer and nothing else:
#   make book    build the book and say where to open it
#   make test    run everything
# Another interpreter: make book PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
PORT ?= 8000

BIN := $(VENV)/bin
BENCH_VENV := .venv-bench
BENCH_ENV := $(BENCH_VENV)/.installed
ENV := $(VENV)/.installed
BOOK := _build/.book
HTML := _build/html/index.html

CHAPTERS := $(wildcard book/*.ipynb)
PACKAGE := $(shell find diffedu -name '*.py' -o -name '*.js' -o -name '*.css')
SOURCES := _config.yml _toc.yml tools/book_assets.py $(PACKAGE) \
           $(shell find book -type f -not -path '*/.*')

# What nbval compares: every printed line and every widget's state, in a fresh kernel of
# this environment; the sanitizer lists what is left out.
NBVAL := --nbval --nbval-current-env --nbval-cell-timeout 600 \
         --nbval-sanitize-with tests/book/nbval.cfg
# Two workers, each with whole files: a notebook's cells share one kernel. Bars of progress
# are off, as they were when the outputs were stored.
PYTEST := TQDM_DISABLE=1 $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: help book serve notebooks test lint format mutation determinism newcomer \
        bench clean

help:
	@echo "make book         build the book, say where to open it"
	@echo "make serve        the same, served on http://127.0.0.1:$(PORT)"
	@echo "make notebooks    execute and normalise the chapters (NOTEBOOKS=... for some)"
	@echo "make test         package, chapters, built book and widgets, in a browser"
	@echo "make lint         ruff and pyright          make format   let ruff rewrite"
	@echo "make mutation     one-symbol mutants of the formulas: does a test notice?"
	@echo "make determinism  same outputs with two threads and on an older CPU?"
	@echo "make newcomer     a chapter in a fresh environment with only the wheel"
	@echo "make bench        beside other packages, in an environment of its own"
	@echo "make clean        remove what the commands above made"

$(ENV): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

# Sphinx reports a warning only when it reads the page again, so a failed build starts
# afresh the next time.
$(BOOK): $(ENV) $(SOURCES)
	$(BIN)/jupyter-book build . --all -n -W --keep-going || { rm -rf _build; exit 1; }
	@touch $@

book: $(BOOK)
	@echo "The book is built. Open file://$(CURDIR)/$(HTML)"

serve: $(BOOK)
	@echo "The book is at http://127.0.0.1:$(PORT) (Ctrl-C stops)"
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

notebooks: $(ENV)
	$(BIN)/python tools/notebooks.py $(NOTEBOOKS)

test: $(ENV) $(BOOK)
	$(BIN)/python -m tests.browser
	$(PYTEST) $(NBVAL) tests $(CHAPTERS)

lint: $(ENV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

format: $(ENV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

mutation: $(ENV)
	$(BIN)/python -m tests.mutation

# The same outputs, compared by nbval, with two torch threads and without the vector
# instructions of a newer CPU.
determinism: $(ENV)
	$(BIN)/python tools/notebooks.py --copy-with-threads 2 _build/two-threads
	OMP_NUM_THREADS=2 $(PYTEST) $(NBVAL) _build/two-threads
	ATEN_CPU_CAPABILITY=default $(PYTEST) $(NBVAL) $(CHAPTERS)

newcomer: $(ENV)
	$(BIN)/python tools/newcomer.py

$(BENCH_ENV): requirements.txt benchmarks/requirements.txt
	test -x $(BENCH_VENV)/bin/python || $(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet -r benchmarks/requirements.txt
	@touch $@

bench: $(BENCH_ENV)
	$(BENCH_VENV)/bin/python -m benchmarks $(TOPICS)

clean:
	rm -rf _build .venv .venv-bench build dist diffedu.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
