# `make demo` and `make test` set up all they need in .venv; the rest expects one of them to have run.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROJECT_FILES := pyproject.toml constraints.txt

.PHONY: demo test interop check bench soak wheel coverage proto android-test android-check apk clean
.DELETE_ON_ERROR:

$(VENV)/.demo: $(PROJECT_FILES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo]'
	touch $@

$(VENV)/.dev: $(PROJECT_FILES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/.demo

# The main job: train on this machine, derive cutoffs, train with them, compare. Runs add up in results/.
demo: $(VENV)/.demo
	@set -e; export PATH="$(CURDIR)/$(BIN):$$PATH"; \
	run() { echo; echo "\$$ $$*"; "$$@"; }; \
	run python -m harness.run; \
	run python -m analysis.cutoff results/ -o cutoffs.json; \
	run python -m harness.run --cutoffs cutoffs.json; \
	run python -m analysis.pareto results/; \
	run python -m analysis.report results/

# What measures times or fills the machine runs by itself, after the rest.
test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not serial"
	$(BIN)/python -m pytest -m serial

# Flower 1.8.0, 1.32.1 and 1.42.0 from the package index, each way, with TLS and without; its apps on 1.24.0 and 1.42.0, on
# SuperNodes (here, in containers, over ssh) and in Ray, and our experiments there; the Java client at its servers; LiteRT, and TensorFlow, which makes its
# models. 25 minutes, more the first time.
interop: $(VENV)/.dev
	FEDMETER_INTEROP=full $(BIN)/python -m pytest tests/interop tests/android/test_flower.py tests/android/test_litert.py

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# What the instrument itself costs, each figure beside a peer. On an idle machine.
bench: $(VENV)/.dev
	$(BIN)/python -m tests.bench

# Long runs, among them 500 experiments on intervals of cutoffs and twenty minutes of metering at 100 Hz: does it grow?
soak: $(VENV)/.dev
	$(BIN)/python -m tests.soak

# What the images of docker/ install.
wheel: $(VENV)/.demo
	rm -rf build dist
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

coverage: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not serial" --cov
	$(BIN)/python -m pytest -m serial --cov --cov-append
	$(BIN)/python -m coverage report

# The Java client's core: a JDK and Debian's packages, which it names where one is missing. JUnit, the app's types, then
# fleets with both.
android-test: android-check $(VENV)/.dev
	$(MAKE) -C fl/android/core test
	$(BIN)/python -m pytest tests/android

# The Android module's types, against stubs of what it uses of Android and LiteRT.
android-check:
	$(MAKE) -C fl/android/core missing
	$(MAKE) -C fl/android/app check

# The app itself, where Gradle and an Android SDK are; elsewhere it says what is missing.
apk:
	$(MAKE) -C fl/android/app apk

# Generated code is committed. grpcio-tools 1.68.1 makes code that loads with protobuf 5.28 to 7.
proto:
	test -x .cache/proto/bin/python || $(PYTHON) -m venv .cache/proto
	.cache/proto/bin/pip install --quiet grpcio-tools==1.68.1 'setuptools<81'
	.cache/proto/bin/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. fl/wire/transport.proto fl/wire/measurement.proto
	sed -i '1i # mypy: disable-error-code="type-arg, valid-type"' fl/wire/transport_pb2.pyi fl/wire/measurement_pb2.pyi

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage* htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
