"""What all tests share: one compilation cache for the session, and the real data where they are at hand."""

import gc
import os
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"

# Set before jax is imported anywhere: identical programs compile once per machine, also in child processes.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
os.environ.setdefault("JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES", "none")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the tests' time is compilation, and much of that is LLVM's optimisation: without it four files that compile
# much took 0.4 of their CPU time, all tests 0.6. XLA's older, plainer loops instead of those of its fusion emitters, in
# one piece per program, take another half off compilation.
# With a level given in XLA_FLAGS none of these is added: `XLA_FLAGS=--xla_backend_optimization_level=3 make test` runs
# what users run.
QUICKLY_COMPILED = (
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
)
if "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *QUICKLY_COMPILED)).strip()

# Every run tries the same examples, so that a change is never refused for another one's rare case; those are found with
# `HYPOTHESIS_PROFILE=random make test`.
settings.register_profile("same", derandomize=True, database=None)
settings.register_profile("random", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

_LONG = ("slurm", "training", "launch", "test_configs.py", "tasks", "models")
"""What takes longest is begun first; the rest follows in pytest's order."""


def pytest_collection_modifyitems(items):
    def rank(item) -> int:
        top = Path(item.path).relative_to(ROOT / "tests").parts[0]
        return _LONG.index(top) if top in _LONG else len(_LONG)

    items.sort(key=rank)


def pytest_collection_finish():
    """What is imported stays: looked through at each collection of garbage, it took 8 % of the CPU time of a file."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


@pytest.fixture
def real_data():
    """Returns a function name -> folder of a real data set; skips the test where it is absent."""

    def folder(name: str) -> Path:
        path = DATA / name
        if not path.is_dir():
            pytest.skip(f"real data {name} are not at hand ({path})")
        return path

    return folder
