# SPDX-License-Identifier: Apache-2.0
# Every target sets up what it needs, in .venv, from python3, a C++ compiler and make.
SHELL := /bin/sh
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The interpreter that .venv is made from. `make PYTHON=python3.12 test` chooses another one.
ifeq ($(origin PYTHON),undefined)
PYTHON := python3
else
READY_CHECK := same-python
endif

# What pyrel needs to be built and to run its demo; then what tests and checks need beside that.
PINS := requirements/build.txt requirements/runtime.txt requirements/cli.txt requirements/report.txt
TOOL_PINS := requirements/test.txt requirements/lint.txt requirements/docs.txt
ORACLES := requirements/oracles.txt
CUDA_PINS := requirements/cuda.txt
READY := .venv/.packages-installed
TOOLS := .venv/.tools-installed
CUDA_TOOLS := .venv/.cuda-tools-installed
BUILT := .venv/.pyrel-installed
# Its name says how the compiler is asked, so that another answer builds again.
FLAGS := .venv/.werror-$(or $(PYREL_WERROR),OFF)-cuda-$(or $(PYREL_CUDA),OFF)
RUN := .venv/bin/python
ENGINE := CMakeLists.txt pyproject.toml $(wildcard csrc/*.* csrc/*/*.* tests/native/*.*)
CXX_SOURCES = $(shell find csrc tests/native -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test docs fuzz cuda lint lint-python lint-stub lint-cpp lint-docs build clean same-python

help:
	@echo 'make demo    train two recurrent cells on shipped digits, explain and judge them, write report.html'
	@echo 'make test    run all tests, on all processors (eight at most)'
	@echo 'make docs    write the API reference to build/api'
	@echo 'make fuzz    load and run changed files for FUZZ_SECONDS (60) with the address and undefined behaviour sanitizers'
	@echo 'make cuda    compile the CUDA library by nvcc, for each GPU, and check its machine code; needs no GPU'
	@echo 'make lint    run ruff, mypy, stubtest, clang-format and the checks of links, licence lines and the table of operators'
	@echo 'make build   install pyrel for development; compiles the extension again after a change in csrc/'
	@echo 'make clean   remove .venv, build/ and caches'
	@echo 'All but clean first set up .venv from $$PYTHON (python3; other: make PYTHON=python3.12 test).'

demo: $(BUILT)
	.venv/bin/pyrel demo

# Idle workers take tests from busy ones. More than eight of them would need much memory: each loads torch.
test: $(BUILT) $(TOOLS)
	$(RUN) -m pytest --numprocesses=auto --maxprocesses=8 --dist=worksteal

docs: $(BUILT) $(TOOLS)
	$(RUN) tools/make_docs.py build/api

# The engine apart from the installed one, in build/fuzz. FUZZ_SEED=N repeats one file, which a failure prints and adds to
# tools/fuzz_seeds.txt.
FUZZ_SECONDS := 60
FUZZ_SEED :=
FUZZ_CORE := build/fuzz/.built

fuzz: $(BUILT) $(FUZZ_CORE)
	$(RUN) tools/fuzz.py --seconds=$(FUZZ_SECONDS) $(FUZZ_SEED:%=--seed=%)

$(FUZZ_CORE): $(BUILT) $(ENGINE)
	.venv/bin/cmake -S . -B build/fuzz -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath .venv/bin/ninja) -DPYREL_SANITIZE=ON \
	  -DSKBUILD_PROJECT_VERSION=0.0.0 -DSKBUILD_PROJECT_VERSION_FULL=0.0.0 -DPython_EXECUTABLE=$(abspath .venv/bin/python) \
	  -Dpybind11_DIR=$$($(RUN) -m pybind11 --cmakedir) -DCMAKE_BUILD_TYPE=Release >build/fuzz.log 2>&1 || { cat build/fuzz.log; exit 1; }
	.venv/bin/cmake --build build/fuzz
	@touch $@

# CUDA_OPTIONS are those of the tool, as in CUDA_OPTIONS="--sass-to build/sass".
CUDA_OPTIONS :=

cuda: $(CUDA_TOOLS)
	$(RUN) tools/check_cuda_code.py $(CUDA_OPTIONS)

lint: lint-python lint-stub lint-cpp lint-docs

lint-python: $(BUILT) $(TOOLS)
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy --strict pyrel

lint-stub: $(BUILT) $(TOOLS)
	$(RUN) -m mypy.stubtest --allowlist tools/stubtest.txt pyrel._core

lint-cpp: $(TOOLS)
	.venv/bin/clang-format --dry-run -Werror $(CXX_SOURCES)

lint-docs: $(BUILT)
	$(RUN) tools/check_links.py
	$(RUN) tools/check_licence_lines.py
	$(RUN) tools/operator_table.py --check

build: $(BUILT)

clean:
	rm -rf .venv build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find bench pyrel scripts tests tools -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# A .venv without its stamp was interrupted half way: it is made anew, never repaired.
$(READY): $(PINS) | $(READY_CHECK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "pyrel needs Python 3.11 or newer, and $(PYTHON) is: $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -f $@ || { echo 'Setting up .venv (once; downloads torch and others: some hundred megabytes, or some gigabytes where torch comes with CUDA)'; $(PYTHON) -m venv --clear .venv; }
	@rm -f $@
	$(RUN) -m pip install $(PINS:%=--requirement=%)
	@touch $@

$(TOOLS): $(READY) $(TOOL_PINS) $(ORACLES)
	$(RUN) -m pip install $(TOOL_PINS:%=--requirement=%)
	$(RUN) -m pip install --no-deps --requirement=$(ORACLES)
	@touch $@

$(CUDA_TOOLS): $(READY) $(CUDA_PINS)
	$(RUN) -m pip install --requirement=$(CUDA_PINS)
	@touch $@

$(FLAGS): | $(READY)
	@rm -f .venv/.werror-*
	@touch $@

$(BUILT): $(READY) $(ENGINE) $(FLAGS)
	@echo 'Compiling the engine (some minutes)'
	$(RUN) -m pip install --quiet --no-build-isolation --no-deps --editable .
	@touch $@

same-python:
	@test ! -f $(READY) || test -x .venv/bin/$$($(PYTHON) -c 'import sys; print("python%d.%d" % sys.version_info[:2])') || { \
	  echo "The existing .venv is of another Python than $(PYTHON): run make clean first." >&2; exit 1; }
