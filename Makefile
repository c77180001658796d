# Two commands for a newcomer: `make demo` and `make test`. Both make the environment first where it is missing.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO ?= runs/demo

.PHONY: demo test test-deep test-live proto lint check benchmark privacy clean help

help: ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet torch==2.13.0 --constraint constraints.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

env: $(READY) ## the environment alone
.PHONY: env

demo: $(READY) ## a whole federation on this machine, on generated DICOM; ends with runs/demo/report.html
	$(BIN)/fedward simulate --out $(DEMO) --overwrite

test: $(READY) ## the tests, three at a time: many of them wait for other processes
	$(BIN)/python -m pytest -q --numprocesses 3 --dist loadfile --no-loadscope-reorder

test-deep: $(READY) ## five times as many random files, twice as many burned-in texts; others with FEDWARD_RANDOM=1, all burned-in text with FEDWARD_MATRIX=1
	FEDWARD_DEEP=1 $(BIN)/python -m pytest -q tests/attacks/deid

test-live: $(READY) ## a coordinator and three hospitals as processes of their own, disturbed and attacked in every way, and whole runs interrupted (forty minutes)
	$(BIN)/python -m pytest -q -m live --numprocesses 2 --dist loadfile tests

proto: $(READY) ## the code for the audit exchange, from its .proto
	$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --grpc_python_out=. compliance/proto/audit.proto

lint: $(READY) ## style, types, floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test test-deep test-live ## all that CI runs

benchmark: $(READY) ## the full comparison on ten sites (more than an hour) and the round overhead
	$(BIN)/fedward simulate benchmark --sites 8 --unseen X1,X2 --patients 0 --size 160 --slices 8 --compare all \
		--out runs/benchmark --overwrite
	$(BIN)/python -m benchmarks.local_grid

privacy: $(READY) ## what privacy costs: epsilon 1, 3 and 8, three times each, eight hospitals (about 45 minutes)
	$(BIN)/fedward simulate private --sites H1,H2,H3,H4,H5,H6,H7,H8 --unseen X1,X2 --patients 16 --compare none \
		--epsilons 1,3,8 --repeats 3 --out runs/privacy --overwrite

clean: ## remove the environment and all runs
	rm -rf $(VENV) runs
