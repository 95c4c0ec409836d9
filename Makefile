PYTHON ?= python3
# The torch that everything here was measured with, installed first and by itself, so that nothing else chooses one.
TORCH ?= torch==2.13.0
# The versions that everything here was tested with; `make constraints` writes them anew.
CONSTRAINTS ?= constraints.txt

VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow coverage report constraints clean

# A learned sample portrait in four prompts, two pictures each, and a contact sheet of them in demo/.
demo: $(VENV)/.installed
	$(BIN)/pmagic demo

test: $(VENV)/.tested
	$(BIN)/ruff check pmagic tests
	$(BIN)/ruff format --check pmagic tests
	$(BIN)/python -m pyright --pythonpath $(BIN)/python
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-slow: $(VENV)/.tested
	$(BIN)/python -m pytest -m slow

# Every line and branch of the library, of the gallery and of what is printed is tried.
coverage: $(VENV)/.tested
	$(BIN)/python -m pytest --cov --cov-report=term-missing --cov-fail-under=100 tests/test_library_*.py \
	  tests/test_cli_gallery.py tests/test_cli_library.py tests/test_cli_archives.py tests/test_cli_metadata.py \
	  tests/test_hostile_text.py tests/test_streams.py tests/test_paths.py tests/test_privacy.py tests/test_two_processes.py \
	  tests/test_fuzzing.py tests/test_numbers.py::test_values_that_are_not_finite_are_never_kept

# The measured table of docs/miniature.md.
report: $(VENV)/.tested
	$(BIN)/python -m pmagic.experiments.report

# constraints.txt: the versions that pip chooses today.
constraints:
	$(PYTHON) .ci/constraints.py "$(TORCH)"

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) "$(TORCH)"
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable .
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable ".[test,world,browser]"
	touch $@

# What makes the two files below, kept apart so that it is in neither.
TOOLS := .venv-tools
$(TOOLS)/.installed:
	test -x $(TOOLS)/bin/python || $(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet "uv>=0.9" "cyclonedx-bom>=7"
	touch $@

.PHONY: lock sbom
# requirements.lock: the version and the SHA-256 of every file of all that pmagic needs, on every system, to be
# installed with `pip install --require-hashes -r requirements.lock` and then `pip install --no-deps .`
lock: $(TOOLS)/.installed
	$(TOOLS)/bin/uv pip compile --quiet --upgrade --universal --generate-hashes --no-annotate --python-version 3.11 \
	  $(patsubst %,--constraint %,$(wildcard constraints.txt)) --custom-compile-command "make lock" \
	  --output-file requirements.lock pyproject.toml

# sbom.json: a bill of materials (CycloneDX) of what is installed here.
sbom: $(VENV)/.installed $(TOOLS)/.installed
	$(TOOLS)/bin/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml --output-file sbom.json \
	  $(BIN)/python

FLOORS := .venv-floors
.PHONY: floors
# The lower bounds of pyproject.toml: the oldest version of each library that they allow, and quick tests of what uses it.
# The one torch that is tried is TORCH.
floors: $(TOOLS)/.installed
	rm -rf $(FLOORS)
	$(PYTHON) -m venv $(FLOORS)
	$(FLOORS)/bin/python -m pip install --quiet --no-deps "$(TORCH)"
	$(TOOLS)/bin/uv pip install --quiet --python $(FLOORS)/bin/python --resolution lowest-direct "$(TORCH)" \
	  --editable ".[test,world,browser]"
	$(FLOORS)/bin/python -m pytest tests/test_api.py tests/test_engine_rendering.py tests/test_pictures.py \
	  tests/test_cli_metadata.py tests/test_library_bundle.py tests/test_evaluation_report.py tests/test_bases_loading.py \
	  tests/test_vision_faces.py tests/test_vision_recogniser.py tests/test_world_captions.py tests/test_world_snapshots.py

clean:
	rm -rf $(VENV) $(TOOLS) $(FLOORS) demo sbom.json
