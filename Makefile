# make demo   install, train on emoji, open the report and a search gallery    make check  style, types, imports, docs
# make quick  the golden tests, and units and contracts but the slow files     make docs   the site
# make test   all tests but those of nightly                                   make dist   wheel and sdist, looked at
# make nightly  what takes minutes more                                        make bench  side by side with the peers
# make other  another Python with PyPI's own torch: demo, wrappers, golden     make clean  forget what was built
# make kernels  the golden tests as on other processors                         make paper SLUG=zclip   all that concerns one paper
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
RUN := runs/demo
# A second Python, with the torch that PyPI gives it: on Linux a CUDA build, which is what most users have.
OTHER ?= $(shell command -v python3.13 || command -v python3.12)
# Packages whose shapes and types are checked at every call while the golden tests run.
SHAPES := tether.losses,tether.models,tether.evaluate,tether.optim,tether.generation,tether.methods
# Tests start hundreds of processes, and each would compile every file again.
export PYTHONDONTWRITEBYTECODE :=

# An older Python is refused before it makes an environment that would stay in the way.
MAKE_VENV = test -x $(BIN)/python || { $(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Tether needs \
	Python 3.11 or newer, and $(PYTHON) is %d.%d: make PYTHON=python3.11" % sys.version_info[:2])' && $(PYTHON) -m venv $(VENV); }

quick: TIER := tests/unit tests/contracts tests/property -m "not slow and not distributed and not nightly"
test: TIER := --ignore tests/golden -m "not nightly and not installs"

.PHONY: demo quick test nightly other portable kernels check docs dist bench clean paper

$(VENV)/.stamp-use: pyproject.toml
	@$(MAKE_VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo]'
	touch $@

$(VENV)/.stamp-dev: pyproject.toml reproduction/pyproject.toml
	@$(MAKE_VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' --editable ./reproduction
	touch $@ $(VENV)/.stamp-use

demo: $(VENV)/.stamp-use
	$(BIN)/tether train --recipe demo --out $(RUN) --resume
	$(BIN)/tether report $(RUN)
	$(BIN)/tether embed emoji:split=all --model $(RUN) --out $(RUN)/embeddings.parquet --thumbnail 64 --precision bfloat16
	$(BIN)/tether index $(RUN)/embeddings.parquet --out $(RUN)/store --existing replace
	$(BIN)/tether search $(RUN)/store "red heart" "woman firefighter" "fruit" "flag" "cat face" --html $(RUN)/gallery.html
	@echo
	@echo "report:         $(CURDIR)/$(RUN)/report.html"
	@echo "search gallery: $(CURDIR)/$(RUN)/gallery.html"

quick test: $(VENV)/.stamp-dev
	rm -f .pytest_cache/v/tether/again
	$(BIN)/python -m pytest -q -n 2 --jaxtyping-packages=$(SHAPES),shapes_and_types.checker tests/golden; golden=$$?; \
	$(BIN)/python -m pytest -n 2 --earlier-failures $(TIER) && exit $$golden

# With COMMIT, a tenth of it that the commit draws, without what makes an environment.
nightly: $(VENV)/.stamp-dev
	$(BIN)/python -m pytest -n 2 $(if $(COMMIT),--tenth $(COMMIT),-m "nightly or installs")

kernels: $(VENV)/.stamp-dev
	ATEN_CPU_CAPABILITY=default OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 tests/golden
	ATEN_CPU_CAPABILITY=avx2 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 tests/golden
	ONEDNN_MAX_CPU_ISA=AVX2 MKLDNN_MAX_CPU_ISA=AVX2 OMP_NUM_THREADS=2 $(BIN)/python -m pytest -q tests/golden
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --last-bits=$${SEED:-1} tests/golden

other:
	@test -n "$(OTHER)" || echo "no second Python: needs python3.13 or python3.12"
	test -z "$(OTHER)" || $(MAKE) portable VENV=.venv-$(notdir $(OTHER)) PYTHON=$(OTHER)

portable: $(VENV)/.stamp-dev
	rm -rf runs/portable
	$(BIN)/tether train --recipe demo steps=6 --out runs/portable
	$(BIN)/tether report runs/portable
	$(BIN)/tether search emoji:split=test "red heart" "cat face" --model runs/portable
	$(BIN)/python -m pytest -q -n 2 -m "not nightly" tests/golden tests/contracts/test_runtime_protocols.py tests/unit/core \
		tests/unit/models/test_cached.py tests/unit/models/test_geometry_models.py tests/unit/serve/test_serve_routes.py

check: $(VENV)/.stamp-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check
	$(BIN)/lint-imports
	$(BIN)/deptry .
	$(BIN)/tether-lab docs --check

# Each check runs whatever the others say; what is missing comes last. Types are checked as a whole, for pyrefly leaves
# the project's settings out where files are named.
STEM := $(subst -,_,$(SLUG))
OF_PAPER = $(wildcard src/tether/methods/$(STEM) reproduction/tether_lab/papers/$(STEM))
TESTS_OF_PAPER = $(wildcard tests/methods/$(STEM) tests/golden/test_$(STEM).py)
paper: $(VENV)/.stamp-dev
	@test -f src/tether/methods/$(STEM)/method.toml || { echo "no paper '$(SLUG)': make paper SLUG=zclip"; exit 2; }
	@bad=; try() { echo "$$*"; "$$@" || bad="$$bad $${1##*/}"; }; \
	try $(BIN)/ruff check $(OF_PAPER) $(TESTS_OF_PAPER); \
	try $(BIN)/ruff format --check $(OF_PAPER) $(TESTS_OF_PAPER); \
	try $(BIN)/pyrefly check --min-severity error --summary=none; \
	try $(BIN)/lint-imports; \
	try $(BIN)/python -m pytest -q -n 2 $(TESTS_OF_PAPER) tests/unit/core/test_dotted_names.py tests/unit/core/test_methods.py \
		--deselect tests/unit/core/test_methods.py::test_an_import_from_an_old_place_names_the_new_one; \
	try $(BIN)/python -m pytest -q tests/unit/cli/test_cli.py -k method; \
	try $(BIN)/python -m pytest -q --paper $(SLUG) tests/contracts tests/lab; \
	try $(BIN)/tether-lab docs --check; \
	try $(BIN)/tether-lab reproduce $(SLUG) --smoke; \
	$(BIN)/tether-lab missing $(SLUG); \
	test -z "$$bad" || { echo "and to mend:$$bad"; exit 1; }

docs: $(VENV)/.stamp-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	$(BIN)/tether-lab docs --write
	$(BIN)/python docs/gallery.py
	$(BIN)/sphinx-build -W -b html docs docs/_build/html

dist: $(VENV)/.stamp-use
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'build>=1.2' 'check-wheel-contents>=0.6' 'twine>=6.1'
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl

bench: $(VENV)/.stamp-dev
	for file in $$(grep -l -- --quick benchmarks/*.py); do echo "== $$file"; $(BIN)/python $$file --quick || exit 1; done

clean:
	rm -rf $(VENV) docs/_build docs/_gallery build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
