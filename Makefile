# `make demo` and `make test` set up their own environment; a second call installs nothing.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: demo smollm2 test test-integration chaos check lock clean

demo: $(STAMP)
	$(BIN)/cool-rlhf demo

# A real model under two conditions, on two cores.
smollm2: $(STAMP)
	$(BIN)/cool-rlhf fetch-smollm2
	$(BIN)/cool-rlhf online run configs/online/smollm2-135m.yaml

test: $(STAMP) check
	$(BIN)/python -m pytest --numprocesses 2 --no-loadscope-reorder

test-integration: $(STAMP)
	$(BIN)/python -m pytest -m integration

# Twenty random kills of a PPO run; CHAOS_KILLS=4 for fewer.
chaos: $(STAMP)
	$(BIN)/python -m pytest -m chaos -rA

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

$(STAMP): requirements/cpu.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -qq --no-deps -r requirements/cpu.lock
	$(BIN)/pip install -qq --no-deps --no-build-isolation -e .
	touch $(STAMP)

# Resolves afresh in a throw-away environment, leaves out the four CUDA-only wheels.
lock:
	./requirements/lock.sh > requirements/cpu.lock.new
	mv requirements/cpu.lock.new requirements/cpu.lock

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
