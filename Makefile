# make demo and make test make their own environment; PYTHON chooses the interpreter it is made with.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-package test-lowest lint bench clean

demo: $(READY)
	$(BIN)/wsi-ats demo --out demo

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile

# Property tests on other examples than those of every `make test`; a failure prints how it is run again.
.PHONY: search
search: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m hypothesis --hypothesis-profile search

# Wheel and sdist, installed in a bare environment without a compiler: what users get.
test-package: $(READY)
	$(BIN)/python -m tests.package_smoke

# The lowest versions that pyproject.toml allows, but for torch, which is that of $(VENV): older ones for Linux come with
# gigabytes for GPUs. Old packages warn of each other's ways, which is not the user's concern.
LOWEST := .venv-lowest
test-lowest: $(READY)
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet uv
	$(BIN)/python -m pip freeze | grep '^torch==' > $(LOWEST)/torch.txt
	UV_FIND_LINKS="$$PIP_FIND_LINKS" $(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python \
		--resolution lowest-direct --overrides $(LOWEST)/torch.txt --editable '.[dev]'
	$(LOWEST)/bin/python -m pytest -n 2 --dist loadfile -W ignore::DeprecationWarning

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/deptry .

bench: $(READY)
	$(BIN)/python benchmarks/mosaic.py --help
	@echo "Benchmarks take long; each says in its first lines how it is run: see benchmarks/README.md"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(LOWEST) demo

# Executes the notebook in place, on what `make demo` left.
.PHONY: notebook
notebook: $(READY)
	$(BIN)/python notebooks/execute.py
