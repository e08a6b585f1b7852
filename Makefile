PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: setup serve demo test lint bench conformance soak pins clean

# Everything for running and testing, in .venv; pinned and hashed.
setup: $(STAMP)

$(STAMP): requirements/dev.txt requirements/data.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	    echo "Python's venv module is missing; on Debian or Ubuntu: apt install python3-venv"; rm -rf $(VENV); exit 1; }
	@echo "Installing the pinned requirements into $(VENV) (a minute or two the first time) ..."
	$(PIP) --require-hashes -r requirements/dev.txt
	$(PIP) --no-deps --require-hashes -r requirements/data.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

# The server with its own PostgreSQL, on loopback; data in ./wetread-data.
serve: setup
	$(BIN)/wetread serve

# The main job on real data, from end to end. KEEP=1 leaves the server up.
demo: setup
	$(BIN)/wetread demo $(if $(KEEP),--keep)

# What a change must pass. Installs the peers from Debian that the tests run against.
test: setup
	./scripts/install-peers.sh dcmtk dicom3tools orthanc orthanc-dicomweb postgresql chromium chromium-driver openssl \
	    nats-server rsyslog rsyslog-openssl libfaketime
	@./scripts/test-lanes.sh tests/unit "tests/flow --ignore tests/flow/access" \
	    "tests/flow/access tests/browser tests/chaos"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Beside peers, in the same run; results and method in docs/benchmarks/.
bench: setup
	./scripts/install-peers.sh dcmtk orthanc orthanc-dicomweb maven openjdk-17-jdk-headless wrk
	$(BIN)/python -m benchmarks

# The HL7 validator and the peers that come from Maven Central and npm.
conformance: setup
	bash conformance/install.sh
	$(BIN)/pytest -m conformance --timeout 1200
	$(BIN)/python -m conformance.requirements

# The full counts: fuzz twenty times over, two hundred kills, the whole brain model. An hour or two.
soak: setup
	./scripts/install-peers.sh dcmtk dicom3tools orthanc orthanc-dicomweb postgresql nats-server rsyslog rsyslog-openssl libfaketime
	WETREAD_SOAK=1 $(BIN)/pytest -m "not conformance" --timeout 5400

# Renews the pins after a change of pyproject.toml (needs uv).
pins:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	    --extra cpu pyproject.toml -o requirements/cpu.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	    --extra cpu --group dev -c requirements/cpu.txt pyproject.toml -o requirements/dev.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	    --extra gpu pyproject.toml -o requirements/gpu.txt

clean:
	rm -rf $(VENV) build demo-output
