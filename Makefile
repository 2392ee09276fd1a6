# The commands of this package. Each first puts into the virtual environment .venv what it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

C_SOURCES = $(wildcard python/swiftmax/*.[ch] Sources/*/*.c Sources/*/include/*.h Tests/*/*.c)
SWIFT_SOURCES = Package.swift Sources/Kernels Sources/ExactSum Sources/Swiftmax Tests/SwiftmaxTests
PYTHON_SOURCES = setup.py $(wildcard python Tests/python benchmarks demo scripts)

.PHONY: build demo test peers bench accuracy check-machine-code lint format clean

# The extension, built in place; .venv imports the package from python/.
build: $(VENV)/.has-build
	$(BIN)/python setup.py --quiet build_ext --inplace

demo: $(VENV)/.has-demo build
	$(BIN)/python demo/run.py

# The peers' tests run if the peers are there: `make peers` installs them.
test: $(VENV)/.has-test build
	swift test --configuration release --scratch-path build/swift-test
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

bench: $(VENV)/.has-bench build
	$(BIN)/python benchmarks/bench.py

accuracy: $(VENV)/.has-bench build
	$(BIN)/python benchmarks/accuracy.py

# No calls, spills or scalar arithmetic in the hot loops of the kernels.
check-machine-code: build
	$(BIN)/python scripts/check_machine_code.py

# PyTorch, JAX and onnxruntime, for the tests and the benchmarks that compare with them.
peers: $(VENV)/.has-peers

lint: $(VENV)/.has-lint $(VENV)/.has-test
	swift format lint --strict --recursive $(SWIFT_SOURCES)
	$(BIN)/clang-format --dry-run -Werror $(C_SOURCES)
	$(BIN)/ruff check $(PYTHON_SOURCES)
	$(BIN)/ruff format --check $(PYTHON_SOURCES)
	$(BIN)/mypy $(PYTHON_SOURCES)

format: $(VENV)/.has-lint
	swift format --in-place --recursive $(SWIFT_SOURCES)
	$(BIN)/clang-format -i $(C_SOURCES)
	$(BIN)/ruff check --fix $(PYTHON_SOURCES)
	$(BIN)/ruff format $(PYTHON_SOURCES)

clean:
	rm -rf build dist $(VENV) python/*.egg-info python/swiftmax/*.so

# What it takes to build, and the package itself as an editable install.
$(VENV)/.has-build: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel "numpy>=2"
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable .
	touch $@

# One group of the optional dependencies of pyproject.toml.
$(VENV)/.has-%: $(VENV)/.has-build
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[$*]"
	touch $@
