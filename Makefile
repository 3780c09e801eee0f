# Two commands: `make demo` and `make test`. Both make .venv from the exact lock first.
CONFIG ?= config/config.yaml
CORES ?= all
PIP_ARGS ?=
BIN = .venv/bin
PYTHON ?= $(shell for p in python3.12 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null && echo $$p && break; done)

.PHONY: demo run report test test-report test-tutorial docs rehearsal test-dft test-gpu test-slurm test-faults lint format venv dft-setup slurm-setup clean
.DEFAULT_GOAL := demo
# The report is of a run that has ended, also with `make -j`; Snakemake has its own cores.
.NOTPARALLEL:

demo: run report

# Checked before Snakemake reads the file by looser rules of its own.
run: .venv/installed
	@$(BIN)/workflow-lib check --config "$(CONFIG)"
	@$(BIN)/snakemake --configfile "$(CONFIG)" --cores $(CORES)

# Snakemake's own report, made again only if a result is newer. The page of the run is a rule's.
report: .venv/installed
	@$(BIN)/workflow-lib appendix --config "$(CONFIG)"

# Two processes of one thread each: more would need more memory than a laptop has.
TEST_PROCESSES ?= 2
test: .venv/installed
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadgroup --no-loadscope-reorder

# The page of a run in a real browser: numbers, controls, accessibility, both widths, no request.
test-report: .venv/browser
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser tests/stages/report

# Playwright drives the system's Chromium; it is installed here if run as root.
.venv/browser: .venv/installed envs/requirements-browser.lock
	@installed() { command -v chromium || command -v chromium-browser || command -v google-chrome; }; \
	installed >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; }; \
	installed >/dev/null || { echo "The test of the page needs Chromium: on Debian run 'sudo apt-get install chromium'" >&2; exit 2; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c envs/requirements.lock -r envs/requirements-browser.lock
	@touch $@

# docs/own-material.md word by word, from a CIF to a voltage curve; a few minutes.
test-tutorial: .venv/installed
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m tutorial tests/docs

# The documentation as a site, in site/. Opens as files; a warning is an error.
docs: .venv/docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	@echo "Open site/index.html"

.venv/docs: .venv/installed envs/requirements-docs.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c envs/requirements.lock -r envs/requirements-docs.lock
	@touch $@

# Recomputes one stored frame of each kind with GPAW; DFT=quick takes only the smallest.
test-dft: .venv/gpaw
	@$(BIN)/python -m pytest -m $(if $(filter quick,$(DFT)),dft_quick,dft) tests/dft

# paper.yaml from its sources to all figures, on stand-ins of the public files served on this machine.
rehearsal: .venv/installed
	@$(BIN)/python -m pytest -m rehearsal tests/workflow/test_rehearsal.py

# Everything that runs on CUDA, against the CPU; a few minutes. Without a GPU it says so and fails.
test-gpu: .venv/installed
	@$(BIN)/python -c "import sys, torch; torch.cuda.is_available() or sys.exit('no GPU: torch sees no CUDA device here, nothing was tested')"
	@$(BIN)/python -m pytest -m gpu tests/gpu

# The smoke configuration through a real SLURM on this machine, with fake GPUs.
test-slurm: slurm-setup
	@$(BIN)/python -m pytest -m slurm tests/slurm

# Every fault of docs/reliability.md, on this machine and in a real SLURM.
FAULT_TESTS = $(shell grep -o "tests/[a-z_/]*\.py" docs/reliability.md | sort -u)
test-faults: slurm-setup
	@$(BIN)/python -m pytest -m "not dft" $(FAULT_TESTS)

lint: .venv/installed
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/snakefmt --check Snakefile rules && $(BIN)/mypy && \
	$(BIN)/lint-imports --no-cache --no-logo

format: .venv/installed
	@$(BIN)/ruff check --fix -q . ; $(BIN)/ruff format . && $(BIN)/snakefmt Snakefile rules

venv: .venv/installed

.venv/installed: envs/requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.12 is needed (found: $$(python3 --version 2>/dev/null || echo no python3)); get it with 'uv python install 3.12', 'pyenv install 3.12', 'conda create -n py312 python=3.12' or your system's package python3.12, or say where it is: make PYTHON=/path/to/python3.12" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu install the package python3.12-venv" >&2; rm -rf .venv; exit 2; }
	@echo "Installing the locked packages into .venv (a few minutes, once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r envs/requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# The optional DFT engine. GPAW is compiled against libxc, OpenBLAS and FFTW of the system.
DFT_HEADERS = xc.h cblas.h fftw3.h
DFT_PACKAGES = g++ libxc-dev libopenblas-dev libfftw3-dev
dft-setup: .venv/gpaw

.venv/gpaw: .venv/installed envs/requirements-dft.lock envs/gpaw-siteconfig.py
	@headers() { for h in $(DFT_HEADERS); do echo "#include <$$h>"; done | g++ -x c++ -E - -o /dev/null 2>/dev/null; }; \
	headers || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(DFT_PACKAGES) >/dev/null; }; \
	headers || { echo "GPAW needs a C++ compiler, libxc, OpenBLAS and FFTW: on Debian and Ubuntu run 'sudo apt-get install $(DFT_PACKAGES)'; with conda see docs/dft.md" >&2; exit 2; }
	@echo "Compiling GPAW into .venv (a minute) ..."
	@GPAW_CONFIG=$(CURDIR)/envs/gpaw-siteconfig.py $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c envs/requirements.lock -r envs/requirements-dft.lock
	@touch $@

# SLURM for its tests: installed if run as root, and started once to check that it works.
SLURM_PACKAGES = slurmctld slurmd munge
slurm-setup: .venv/installed
	@PATH="$$PATH:/usr/sbin:/sbin"; \
	found() { command -v slurmctld && command -v slurmd && command -v munged; } >/dev/null; \
	found || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(SLURM_PACKAGES) >/dev/null; }; \
	found || { echo "The SLURM test needs slurmctld, slurmd and munge: on Debian and Ubuntu run 'sudo apt-get install $(SLURM_PACKAGES)'" >&2; exit 2; }
	@$(BIN)/python tests/slurm/cluster.py true

# Removes the folder of one run, found through its configuration, and nothing that a run did not make. The
# configuration is named: hours of training are not removed unasked.
clean: .venv/installed
	@test "$(origin CONFIG)" != file || { echo "Say which run to remove: make clean CONFIG=config/config.yaml" >&2; exit 2; }
	@$(BIN)/workflow-lib clean --config "$(CONFIG)"
