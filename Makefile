# make setup: install into .venv · make demo: the main job · make test: all tests · make check: what CI runs
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
EXTRAS ?= dev

# torch: a folder of wheels that pip is set up with comes first (uv does not read pip's settings); else uv picks the build
# that fits this machine, CUDA where there is a GPU, CPU where there is none.
FIND_LINKS := $(strip $(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null || printenv PIP_FIND_LINKS))
ifneq ($(FIND_LINKS),)
export UV_FIND_LINKS := $(FIND_LINKS)
else
export UV_TORCH_BACKEND ?= auto
endif

.PHONY: setup demo test check clean

INSTALLED := $(VENV)/installed-$(EXTRAS)

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade uv
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode --constraint constraints.txt --group corrected --editable '.[$(EXTRAS)]'
	touch $@

demo: setup
	$(BIN)/python train.py $(ARGS)

test: setup
	$(BIN)/python -m pytest $(ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m pytest

clean:
	rm -rf $(VENV)
