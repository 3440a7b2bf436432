# Needs Python 3.11, 3.12 or 3.13 with pip and venv, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OLDEST := .venv-oldest
# a process of tests for every core; bytecode is kept, since tests start a hundred Python processes
OPTIONS := --numprocesses auto --dist loadfile --no-loadscope-reorder
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest $(OPTIONS)

.PHONY: benchmark demo docs test test-all pytest pytest-all test-oldest test-browser test-readers chaos fuzz lint clean

# bytecode is written on all cores, where pip takes one; some packages hold files that are not for this Python
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	touch $@

$(OLDEST)/installed: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --constraint constraints-oldest.txt --editable '.[dev]'
	touch $@

benchmark: $(VENV)/installed  ## CPU time and memory of this build beside an earlier commit, COMMIT (the one before)
	$(BIN)/python -m benchmarks.builds --commit $${COMMIT:-HEAD^} --out benchmarks/results

demo: $(VENV)/installed  ## the main job on photographs with a known answer, on this machine, with a report
	$(BIN)/python -m jobs.demo --out demo

docs: $(VENV)/installed  ## the documentation as a site in site/, without the network; a dead link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --clean

test: lint pytest  ## what must pass

test-all: lint pytest-all  ## the same, and the tests marked long

pytest: $(VENV)/installed
	$(PYTEST) -m "not long"

pytest-all: $(VENV)/installed
	$(PYTEST)

# with Python 3.11; old packages warn of much that is mended in newer ones
test-oldest: $(OLDEST)/installed  ## the main job and the tests of the packages with the oldest versions that are allowed
	$(OLDEST)/bin/python -m jobs.demo --out demo/oldest
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest $(OPTIONS) -W default -m "not long" \
		tests/schemas tests/nemf tests/pipeline tests/jobs tests/examples

test-browser: $(VENV)/installed  ## the report in a headless browser; needs chromium on PATH
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[browser]'
	$(BIN)/python -m pytest tests/browser

test-readers: $(VENV)/installed  ## our tables in other readers of Parquet, each in an environment of its own, from PyPI
	$(BIN)/python -m pytest tests/readers -rP

chaos: $(VENV)/installed  ## rounds of random kills; CHAOS_ROUNDS, CHAOS_SEED
	$(BIN)/python -m pytest tests/chaos

fuzz: $(VENV)/installed  ## hostile images and manifests; FUZZ_EXAMPLES each (20,000)
	FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-20000} $(BIN)/python -m pytest tests/fuzz

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) $(OLDEST) demo site
