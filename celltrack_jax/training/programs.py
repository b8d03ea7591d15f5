"""Compiled programs that outlive their process, so that a command compiles once per machine."""

import hashlib
import os
import platform
from pathlib import Path

import jax

_CPU = Path("/proc/cpuinfo")


def keep_compiled() -> None:
    """Keeps compiled programs in the user's cache folder; what JAX_COMPILATION_CACHE_DIR says goes first.

    A program for a CPU uses its instructions, and home folders are shared between machines: each kind of CPU has a
    folder of its own.
    """
    if jax.config.jax_compilation_cache_dir is None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "celltrack_jax" / _kind_of_cpu()))


def _kind_of_cpu() -> str:
    lines = _CPU.read_text().splitlines() if _CPU.is_file() else [platform.processor()]
    described = [line for line in lines if line.startswith(("flags", "Features", "model name"))][:2] or lines[
        :1
    ]
    return f"{platform.machine()}-{hashlib.sha256(''.join(described).encode()).hexdigest()[:12]}"
