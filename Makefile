# make demo    install, then a whole run against simulated teachers: no GPU, no key, no network beyond the package index
# make test    install, then the test suite
# make check   install, then lint, format, types and import arrows
# make bench   the benchmarks (minutes; figures to docs/findings.md)
# make vllm-venv   a real vLLM for the CPU in an environment of its own (2 GB), which tests/test_vllm.py asks
# make wheel   sdist, wheel from it, a clean environment with that wheel, and a smoke test there
#
# On Linux without a GPU, PyTorch's CPU build spares 2 GB:  PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
export HF_HUB_OFFLINE ?= 1
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: demo test check format bench vllm-venv wheel clean

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt uv
	UV_FIND_LINKS="$$PIP_FIND_LINKS" UV_EXTRA_INDEX_URL="$$PIP_EXTRA_INDEX_URL" $(PY) -m uv pip install -q --python $(PY) \
	  --index-strategy unsafe-best-match -c constraints.txt -e '.[routers,verify,offline,distill,ray]' --group dev
	touch $@

demo: $(INSTALLED)
	$(VENV)/bin/raffinate run examples/quickstart/recipe.yaml

test: $(INSTALLED)
	$(PY) -m pytest -n 2

check: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(INSTALLED)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(INSTALLED)
	$(PY) -m benchmarks

vllm-venv: $(INSTALLED)
	$(PY) tests/vllm_env.py

wheel: $(INSTALLED)
	PYTHON=$(PYTHON) .ci/smoke

clean:
	rm -rf $(VENV) .venv-vllm build dist demo-workspace .mypy_cache .ruff_cache .pytest_cache
