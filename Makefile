# Each target sets itself up: a virtual environment in .venv with the versions of constraints.txt.
PYTHON ?= python3
RUN := .venv/bin/python

# The CPU build of torch for CI, Python 3.11 on Linux, as the index of PyTorch has it: PyPI's needs CUDA's packages.
TORCH := torch==2.13.0 --hash=sha256:6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b
CPU_BUILD := awk '/^[a-z]/ { kept = !/^(torch|triton|cuda|nvidia)/ } kept'
# The type checker finds the package as it is installed through .venv/checkout: lora_reuse.theory is ./theory.
PARTS := figures llm paper_checks runs theory lora_reuse/__init__.py lora_reuse/__main__.py
CHECKOUT := rm -rf .venv/checkout && mkdir -p .venv/checkout/lora_reuse \
  && ln -s $(addprefix ../../../,$(PARTS)) .venv/checkout/lora_reuse/

.PHONY: sweep figures fresh pages-fresh ledger pages two-hop smollm test claims tests notebooks check docs benchmark lock locked lowest clean

sweep: .venv/base
	$(RUN) -m theory.sweep width=2**8,2**10,2**12,2**14,2**16,2**18,2**20,2**22,2**24 seeds=32

figures: .venv/base
	$(RUN) -m figures report=true readme=README.md

# What is made from rows, made again: what is committed is what the rows say.
fresh: pages-fresh
	$(RUN) -m pytest tests/test_results.py

# The same of the texts; `make tests` looks at the pictures, too.
pages-fresh: ledger pages
	git diff --exit-code --stat -- README.md 'results/paper/*.md' 'results/figures/*.md'

# Measures every claim, and fails where one does not hold or a planted mistake passes.
ledger: .venv/test
	OMP_NUM_THREADS=1 $(RUN) -m paper_checks

pages: .venv/test
	OMP_NUM_THREADS=1 $(RUN) -m paper_checks.predictions
	OMP_NUM_THREADS=1 $(RUN) -m figures report=true readme=README.md

two-hop: .venv/llm
	HF_HUB_OFFLINE=1 $(RUN) -m llm.two_hop

# The file goes to ~/.cache/lora-reuse, or to the folder that LORA_REUSE_CACHE names.
smollm: .venv/llm
	@$(RUN) -m llm.smollm2

test: check claims tests

claims: .venv/test
	OMP_NUM_THREADS=1 $(RUN) -m pytest paper_checks/test_claims.py --numprocesses 2 --dist worksteal

# Without what `make claims` and, with the same functions, `make ledger` measure.
UNMEASURED := tests paper_checks $(addprefix --deselect=paper_checks/test_claims.py::test_,claim planted_mistake_is_rejected)
tests: .venv/test
	OMP_NUM_THREADS=1 $(RUN) -m pytest $(UNMEASURED) --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Runs the notebooks of examples/ afresh and compares what they print; `update=1` puts it in their places.
notebooks: .venv/test
	$(RUN) -m pytest examples $(if $(update),--update)

check: .venv/test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m basedpyright

# The site is build/site. A warning is an error, and so is a page that loads anything from another host.
docs: .venv/docs
	$(RUN) -m docs.generate
	$(RUN) -m zensical build --strict --clean
	@! grep -rnoE '(<(script|link|img|iframe)[^>]* (src|href)=|url\()["'\'']?(https?:)?//[^"'\'' )]+' \
	  --include='*.html' --include='*.css' build/site

benchmark: .venv/base
	$(RUN) -m theory.benchmark

# lock.txt: the versions of constraints.txt that CI needs, with the hashes of their files.
lock: .venv/base
	$(RUN) -m pip install --quiet --constraint constraints.txt uv
	{ echo '# make lock writes this: the versions of constraints.txt with the hashes of their files, for make locked.'; \
	  $(RUN) -m uv pip compile pyproject.toml --extra test --extra docs --constraint constraints.txt --generate-hashes \
	  --python-version 3.11.5 --python-platform x86_64-manylinux_2_28 --no-header --no-annotate --quiet | $(CPU_BUILD); \
	  echo '$(TORCH)'; } > .venv/lock.txt
	mv .venv/lock.txt lock.txt

# The environment of the other targets as CI has it: nothing is installed whose hash is not in lock.txt. What is imported
# is compiled when it is, which halves the time: pip compiles every file.
locked:
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --require-hashes --no-deps --no-compile --requirement lock.txt
	$(RUN) -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(RUN) -m pip check
	@$(CHECKOUT)
	@touch .venv/base .venv/llm .venv/test .venv/docs

# A share of the tests with the lowest versions that pyproject.toml allows.
lowest: .venv/lowest/made
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 .venv/lowest/bin/python -m pytest --numprocesses 2 --dist loadfile \
	  tests/test_kernels.py tests/test_sweep.py tests/test_compositions.py tests/test_rows.py \
	  tests/test_figure_numbers.py tests/llm/test_compose.py tests/llm/test_adapters.py

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

.venv/test: .venv/base
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@$(CHECKOUT)
	@touch $@

.venv/lowest/made: .venv/base
	$(RUN) -m pip install --quiet --constraint constraints.txt uv
	$(PYTHON) -m venv .venv/lowest
	echo 'beartype>=0.22 hypothesis>=6.140 pytest>=9 pytest-xdist>=3.8' | tr ' ' '\n' | $(RUN) -m uv pip compile pyproject.toml - \
	  --extra llm --extra continent --resolution lowest-direct --no-header --no-annotate --quiet | $(CPU_BUILD) \
	  > .venv/lowest/versions.txt
	.venv/lowest/bin/python -m pip install --quiet --requirement .venv/lowest/versions.txt $(firstword $(TORCH))
	@touch $@
