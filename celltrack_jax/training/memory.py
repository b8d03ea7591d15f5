"""Whether a compiled step fits into the memory of its devices, and what would."""

import os
from pathlib import Path
from typing import Any

from celltrack_jax.config import Config
from celltrack_jax.errors import InputError

_CGROUP = Path("/sys/fs/cgroup/memory.max")


def needed_bytes(compiled: Any) -> int:
    """Returns what a compiled program holds on each device while it runs, as its compiler counts it."""
    memory = compiled.memory_analysis()
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return int(kept + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes)


def device_bytes(device: Any, sharing: int) -> int | None:
    """Returns the memory of a device; None where it is not known.

    Args:
      device: of this process.
      sharing: devices of this process. On a CPU they share the host's memory.
    """
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    if device.platform != "cpu":
        return None
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _CGROUP.read_text().strip() if _CGROUP.is_file() else "max"
    return min(host, int(limit) if limit.isdigit() else host) // sharing


def check_fits(needed: int, state: int, available: int | None, samples: int, config: Config) -> None:
    """Refuses a step that its devices have no room for, before anything runs.

    Args:
      needed: bytes of the step on each device.
      state: bytes of it that do not depend on the batch.
      available: bytes of a device, None for unknown.
      samples: of the global batch that are on a device at a time.
      config: with data.batch_size and train.accumulate, for the cure.

    Raises:
      InputError: it does not fit; the message says by how much, and what would.
    """
    if available is None or needed <= available:
        return
    room = max(0, available - state) / max(1, needed - state)
    fitting = int(room * samples)
    parts = [n for n in range(2, samples + 1) if samples % n == 0 and samples // n <= fitting]
    if parts:
        cure = (
            f"--config.train.accumulate={parts[0] * config.train.accumulate} keeps the batch of "
            f"{config.data.batch_size} and takes {samples // parts[0]} at a time, or choose "
            f"--config.data.batch_size={config.data.batch_size * fitting // samples}"
        )
    else:
        cure = (
            f"not even one sample fits: crops of {room * samples:.0%} of the size would (--config.data.crop), or "
            "--config.mesh.space=<devices per sample>, or --config.model.remat"
        )
    raise InputError(
        f"a step needs {needed / 2**30:.2f} GiB on each device, which has {available / 2**30:.2f}: {samples} samples "
        f"are on it at a time, about {fitting} would fit; {cure}"
    )


def explain_exhausted(error: Exception) -> None:
    """Turns an error of the compiler or of a device about memory into one line.

    Raises:
      InputError: it was about memory.
    """
    if "RESOURCE_EXHAUSTED" in str(error):
        reason = " ".join(str(error).split())[:240]
        raise InputError(
            f"the devices have no room for a step ({reason}): choose a smaller --config.data.batch_size or a larger "
            "--config.train.accumulate, --config.mesh.space or --config.model.remat"
        ) from error
