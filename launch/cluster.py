"""Flags of the mains that run on several processes, and how these find each other."""

import os
from typing import TYPE_CHECKING

from absl import flags

from launch import cli

if TYPE_CHECKING:  # a wrong path is reported without waiting for jax to load
    from celltrack_jax.training import hosts

COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "host:port of process 0, for several processes that nothing else (SLURM, ...) started",
)
PROCESSES = flags.DEFINE_integer("processes", 1, "how many there are, with --coordinator", lower_bound=1)
PROCESS = flags.DEFINE_integer("process", 0, "which one this is, from 0, with --coordinator", lower_bound=0)


def refuse_several(why: str) -> None:
    """Refuses to run as one of several processes.

    Raises:
      flags.ValidationError: flags or environment say that there are others; the message begins with `why`.
    """
    cluster = _cluster()
    if cluster is not None and cluster.processes != 1:
        raise flags.ValidationError(
            f"{why}: start it as one process, not as {cluster.processes or 'several'}"
        )


def join(*, stop_together: bool = True) -> None:
    """Connects this process with the others of its run; to be called before anything else touches a device.

    Args:
      stop_together: as of `hosts.join`.

    Raises:
      InputError: flags or environment describe no run, or the others are not found.
    """
    from celltrack_jax.training import hosts, peers, programs

    programs.keep_compiled()
    hosts.join(_cluster(), stop_together=stop_together)
    run = peers.of_this_run()
    if run is not None:
        cli.ON_FAILURE.append(run.fail)


def _cluster() -> "hosts.Cluster | None":
    from celltrack_jax.training import hosts

    if COORDINATOR.value is None:
        if PROCESSES.present or PROCESS.present:
            raise flags.ValidationError(
                "--processes and --process go with --coordinator=<host of process 0>:<port>"
            )
        return hosts.from_environment(os.environ)
    return hosts.from_flags(COORDINATOR.value, int(PROCESSES.value or 1), int(PROCESS.value or 0))
