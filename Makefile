# Each target sets itself up: a virtual environment in .venv with the versions of constraints.txt.
PYTHON ?= python3
RUN := .venv/bin/python

.PHONY: sweep figures fresh two-hop smollm test check docs benchmark clean

sweep: .venv/base
	$(RUN) -m theory.sweep width=2**8,2**10,2**12,2**14,2**16,2**18,2**20,2**22,2**24 seeds=32

figures: .venv/base
	$(RUN) -m figures report=true readme=README.md

# Text made from rows, made again: what is committed is what the rows say. Pictures are left out, whose bytes the machine
# may choose.
fresh: .venv/base
	$(RUN) -m paper_checks
	$(RUN) -m paper_checks.predictions
	$(RUN) -m figures report=true readme=README.md
	git diff --exit-code --stat -- README.md 'results/paper/*.md' \
	  'results/figures/*.md' 'results/figures/*.csv' 'results/figures/*.tex'

two-hop: .venv/llm
	HF_HUB_OFFLINE=1 $(RUN) -m llm.two_hop

# The file goes to ~/.cache/lora-reuse, or to the folder that LORA_REUSE_CACHE names.
smollm: .venv/llm
	@$(RUN) -m llm.smollm2

test: check
	OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses 2 --dist loadfile

check: .venv/test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m basedpyright

# The site is build/site; a warning is an error.
docs: .venv/docs
	$(RUN) -m docs.generate
	$(RUN) -m zensical build --strict --clean

benchmark: .venv/base
	$(RUN) -m theory.benchmark

clean:
	rm -rf .venv

.venv/base: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "PYTHON: got %s; allowed: 3.11 or newer; try make PYTHON=python3.11" % sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

.venv/llm: .venv/base
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[llm]'
	@touch $@

.venv/docs: .venv/test
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@

# The type checker finds the package as it is installed through .venv/checkout: lora_reuse.theory is ./theory.
PARTS := figures llm paper_checks runs theory lora_reuse/__init__.py lora_reuse/__main__.py
.venv/test: .venv/base
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@rm -rf .venv/checkout && mkdir -p .venv/checkout/lora_reuse
	@ln -s $(addprefix ../../../,$(PARTS)) .venv/checkout/lora_reuse/
	@touch $@
