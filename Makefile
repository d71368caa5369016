# The commands of this repository; CI runs the same ones.
#   run    generate a story with the model that ships, offline      dev    install everything for development
#   check  format, lint, types, layers, declared imports, versions  test   every test, offline, on the CPU
#   quick  the tests without the slow ones                          alone  PKG=x: build x, install it by itself, test it
#   sanitize  the tests of the CPU kernels under AddressSanitizer
#   arm    the CPU kernels of 64-bit Arm in an emulator; needs Debian's gcc-aarch64-linux-gnu, libc6-dev-arm64-cross
#          and qemu-user-static
#   bench  time the project beside its peers                        release PKG=x: check, build and tag one package
#   demo-model  compose the corpus, train and export the model that ships
PYTHON ?= python3
BIN := .venv/bin
PACKAGES := $(patsubst %/pyproject.toml,%,$(wildcard llm_*/pyproject.toml))
MANIFESTS := $(PACKAGES:%=%/pyproject.toml)
TOOLS := pytest pytest-xdist hypothesis transformers compressed-tensors accelerate bitsandbytes peft pyarrow matplotlib tensorboard wandb mlflow-skinny gguf ruff pyright import-linter build hatchling

.PHONY: run dev check test quick sanitize arm alone bench release demo-model
.DELETE_ON_ERROR:

run: .venv/.family
	@$(BIN)/llm generate --prompt "Tell me a story about a brave little fox." --max_new_tokens 250 --temperature 0.5 --seed 7

dev: .venv/.dev
	@echo "ready: source .venv/bin/activate"

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python tools/check_imports.py
	$(BIN)/python tools/check_versions.py

# A process for each core and one thread in each: tiny models gain nothing from more.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile

test: .venv/.dev
	$(PYTEST)

quick: .venv/.dev
	$(PYTEST) -m "not slow"

sanitize: .venv/.dev
	$(BIN)/python tools/sanitize.py

arm: .venv/.dev
	$(BIN)/python tools/arm.py

alone: .venv/.dev
	$(BIN)/python tools/alone.py $(PKG)

bench: .venv/.dev
	$(BIN)/python tools/bench/generate.py $(ARGS)

release: .venv/.dev check
	$(BIN)/python tools/release.py $(PKG)

demo-model: .venv/.dev
	$(BIN)/python -m tools.demo_model

# The two stamps are newer than what they were made from, so nothing is installed twice.
.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": try make PYTHON=python3.11 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv .venv

.venv/.family: constraints.txt $(MANIFESTS) | .venv/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt $(PACKAGES:%=-e ./%)
	@touch $@

.venv/.dev: constraints.txt $(MANIFESTS) Makefile | .venv/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt $(TOOLS) $(PACKAGES:%=-e ./%)
	@touch $@ .venv/.family
