# Two commands on a fresh machine with Python 3.11+: `make demo` and `make test`. Both set up all they need.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# Compiled programs are kept between runs and between test processes.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 1

.PHONY: demo test lint lock setup bench-setup tpu-compiler clean

demo: setup  ## Trains, tracks and scores: the embedded synthetic movie, or DATA=<CTC data set folder>.
	$(RUN) -m launch.demo $(if $(DATA),--data="$(DATA)")

# One process per core; a file's tests stay together, because they share what is slow to make. Files come in the order of
# tests/conftest.py: the longest first, so that no core waits for another's at the end.
test: setup  ## The tests; .ci/run calls this.
	$(RUN) -m pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder $(ARGS)

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/basedpyright --level error

setup: $(VENV)/installed

$(VENV)/installed: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11, 1))' \
	  || { echo "error: $(PYTHON) is older than 3.11.1: install a newer one, or call make PYTHON=python3.12"; exit 2; }
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || $(MAKE) --no-print-directory install-venv
	@echo "installing what requirements.lock lists into $(VENV): 2 GB, a minute or more"
	$(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

# Debian and Ubuntu split venv and pip off from Python; fetch them where we may, say how where we may not.
.PHONY: install-venv
install-venv:
	@version=$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
	as_root=$$([ "$$(id -u)" = 0 ] || echo sudo -n); \
	echo "installing $$version"; \
	{ $$as_root apt-get update -qq && $$as_root apt-get install -y -qq $$version; } >/dev/null 2>&1 \
	  || { echo "error: $(PYTHON) has no venv: run 'apt-get install $$version' and call make again"; exit 2; }
	@rm -rf $(VENV) && $(PYTHON) -m venv $(VENV)

bench-setup: setup  ## What launch.bench compares with.
	$(RUN) -m pip install --quiet --disable-pip-version-check "torch==2.13.0"

TPU_COMPILER := .cache/libtpu
tpu-compiler: setup  ## What launch.compile compiles with: 656 MB that nothing else needs.
	@test -d $(TPU_COMPILER)/libtpu-$$(sed -n 's/^libtpu==\([0-9.]*\).*/\1/p' launch/tpu/requirements.lock).dist-info \
	  || $(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --upgrade \
	    --target $(TPU_COMPILER) -r launch/tpu/requirements.lock

lock:  ## Pins names, versions and hashes of everything; needs the network.
	$(PYTHON) -m venv .cache/lock && .cache/lock/bin/pip install --quiet uv
	.cache/lock/bin/uv pip compile --quiet --universal --python-version 3.11.1 --extra test --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-header --no-annotate pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) .cache runs
