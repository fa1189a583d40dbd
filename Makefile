# The whole dev loop: make install, demo, test, lint, bench (and lensing, imagenet, the longer examples).
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1

.PHONY: install demo lensing imagenet test fuzz lint bench gpu zoo truth clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt requirements-demo.txt requirements-test.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,lensing]'
	$(BIN)/python -m pip install --quiet --no-deps -r requirements-demo.txt -r requirements-test.txt
	touch $@

demo: install
	$(BIN)/python examples/weak_lensing/study.py

lensing: install
	$(BIN)/python examples/weak_lensing/train.py
	$(BIN)/python examples/weak_lensing/study.py

imagenet: install
	$(BIN)/python examples/imagenet/demo.py

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile -q

fuzz: install
	SALIENCE_FUZZ=5000 $(BIN)/python -m pytest -q -m slow tests/*/test_fuzz_*.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: install
	$(BIN)/python -m pip install --quiet --no-deps -r benchmarks/requirements.txt
	$(BIN)/python -m pytest -q -m bench tests
	$(BIN)/python benchmarks/methods.py --out benchmarks/results
	$(BIN)/python benchmarks/randomization.py --out benchmarks/results
	$(BIN)/python benchmarks/tokens.py --out benchmarks/results

gpu: install
	@if $(BIN)/python -c 'import torch; raise SystemExit(not torch.cuda.is_available())'; then \
		set -e; \
		$(BIN)/python -m pip install --quiet --no-deps -r benchmarks/requirements.txt; \
		$(BIN)/python -m pytest -q tests/tape/test_devices.py; \
		$(BIN)/python benchmarks/methods.py --device cuda --batch 64 --out benchmarks/results; \
		$(BIN)/python benchmarks/randomization.py --device cuda --batch 16 --out benchmarks/results; \
	else echo "make gpu: torch sees no CUDA device here, so nothing was run"; fi

zoo: install
	$(BIN)/python -m pip install --quiet --no-deps -r benchmarks/requirements.txt
	cd benchmarks && ../$(BIN)/python -m zoo

truth: install
	cd benchmarks && ../$(BIN)/python -m ground_truth --jobs 2

clean:
	rm -rf $(VENV) out examples/weak_lensing/.cache .pytest_cache .ruff_cache
