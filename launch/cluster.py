"""Flags of the mains that run on several processes, and how these find each other."""

import os
from typing import TYPE_CHECKING

from absl import flags

if TYPE_CHECKING:  # what needs no cluster shall not wait for jax to load
    from celltrack_jax.training import hosts

COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "host:port of process 0, for several processes that nothing else (SLURM, ...) started",
)
PROCESSES = flags.DEFINE_integer("processes", 1, "how many there are, with --coordinator", lower_bound=1)
PROCESS = flags.DEFINE_integer("process", 0, "which one this is, from 0, with --coordinator", lower_bound=0)


def join() -> None:
    """Connects this process with the others of its run; to be called before anything else touches a device.

    Raises:
      InputError: flags or environment describe no run, or the others are not found.
    """
    from celltrack_jax.training import hosts

    hosts.join(_cluster())


def first() -> bool:
    """Returns whether this is process 0; connects with nobody.

    Raises:
      InputError: flags or environment describe no run.
    """
    cluster = _cluster()
    return cluster is None or cluster.process == 0


def _cluster() -> "hosts.Cluster | None":
    from celltrack_jax.training import hosts

    if COORDINATOR.value is None:
        return hosts.from_slurm(os.environ)
    return hosts.from_flags(COORDINATOR.value, int(PROCESSES.value or 1), int(PROCESS.value or 0))
