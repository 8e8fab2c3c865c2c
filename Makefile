# Two commands: `make demo` and `make test`. Both set up .venv if needed; a second run reuses it.
PYTHON ?= python3
BIN := .venv/bin
LOCK := requirements/cpu.txt requirements/dev.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test lint setup clean

demo: .venv/ready
	$(BIN)/palate demo

test: .venv/ready lint
	$(BIN)/python -m pytest

lint: .venv/ready
	$(BIN)/ruff check palate tests benchmarks examples
	$(BIN)/ruff format --check palate tests benchmarks examples
	$(BIN)/mypy

setup: .venv/ready

# --no-deps: the lock is complete, and torchrec's own wish for the CUDA build of fbgemm is met by fbgemm-gpu-cpu.
.venv/ready: $(LOCK) pyproject.toml
	@echo "Setting up .venv (about two minutes) ..."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-deps $(addprefix -r ,$(LOCK))
	$(BIN)/python -m pip install --quiet --no-deps --no-compile --no-build-isolation --editable .
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache
