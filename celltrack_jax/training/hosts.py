"""How the processes of one run find each other: by flags, through SLURM, or not at all.

jax's own detection assumes one task per GPU: a task that has several of a node's GPUs uses one of them, and where all
tasks see the whole node they quarrel. Here each task takes its share of what it sees.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import jax
from jax._src import distributed

from celltrack_jax.errors import InputError
from celltrack_jax.ops import cpu

TIMEOUT_S = 120
"""For all processes to come together."""
HEARTBEAT_S = 30
"""After so long without a sign of life a process counts as dead, and the others end."""

_TOLD = "celltrack/told"


class Cluster(NamedTuple):
    """A run of several processes, seen from one of them."""

    coordinator: str
    """host:port of process 0."""
    processes: int
    process: int
    """Of this one, from 0."""
    local_devices: tuple[int, ...] | None
    """Of the accelerators that this process sees, the ones that it takes; None for all."""
    origin: str
    """Who says so, for messages."""


def from_flags(coordinator: str, processes: int, process: int) -> Cluster:
    """Makes the cluster that flags describe.

    Raises:
      InputError: they do not fit together.
    """
    if not re.fullmatch(r"[^\s:]+:\d+|\[[0-9a-fA-F:]+\]:\d+", coordinator):
        raise InputError(f"--coordinator={coordinator} is not host:port, such as 10.0.0.1:12345")
    if not 0 <= process < processes:
        raise InputError(f"--process={process} is none of --processes={processes}: they count from 0")
    return Cluster(coordinator, processes, process, None, "--coordinator")


def from_slurm(environment: Mapping[str, str]) -> Cluster | None:
    """Reads the cluster of a SLURM job step; None outside of one, or in one of a single task.

    Args:
      environment: of the process. In the batch script itself, outside of `srun`, there is no step of tasks.

    Raises:
      InputError: the step's tasks cannot share the GPUs that they see.
    """
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", 1))
    if tasks < 2:
        return None
    job, step = int(environment["SLURM_JOB_ID"]), environment.get("SLURM_STEP_ID", "0")
    # Two steps of a job, or two jobs on a node, take different ports.
    port = 61440 + (7 * job + (int(step) if step.isdigit() else 0)) % 4096
    host = first_host(environment["SLURM_STEP_NODELIST"])
    here = tasks_per_node(environment["SLURM_STEP_TASKS_PER_NODE"])[int(environment.get("SLURM_NODEID", 0))]
    local = int(environment.get("SLURM_LOCALID", 0))
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    devices = (
        None if visible is None else _share(len([each for each in visible.split(",") if each]), here, local)
    )
    return Cluster(f"{host}:{port}", tasks, int(environment["SLURM_PROCID"]), devices, f"SLURM job {job}")


def first_host(nodes: str) -> str:
    """Returns the first node of a SLURM node list such as "gpu[07-09,12],login1"."""
    name, bracket, rest = nodes.partition("[")
    if not bracket or "," in name:
        return name.split(",")[0]
    inside, _, after = rest.partition("]")
    return name + re.split("[,-]", inside)[0] + re.split(r"[,\[]", after)[0]


def tasks_per_node(counts: str) -> list[int]:
    """Reads SLURM's tasks per node, such as "2(x3),1": [2, 2, 2, 1]."""
    found: list[int] = []
    for part in counts.split(","):
        count, times = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part).groups()  # pyright: ignore[reportOptionalMemberAccess]
        found += [int(count)] * int(times or 1)
    return found


def join(cluster: Cluster | None) -> None:
    """Connects this process with the others; to be called before anything else touches a device.

    Raises:
      InputError: the coordinator does not answer, or not all processes come.
    """
    if cluster is None:
        return
    # Both are for CPUs; accelerators do not read them.
    cpu.run_collectives_in_order()
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            cluster.coordinator,
            cluster.processes,
            cluster.process,
            local_device_ids=cluster.local_devices,
            initialization_timeout=TIMEOUT_S,
            heartbeat_timeout_seconds=HEARTBEAT_S,
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"process {cluster.process} of {cluster.processes} ({cluster.origin}) found no coordinator at "
            f"{cluster.coordinator} within {TIMEOUT_S} s ({reason}): check that process 0 runs, and that its port "
            "can be reached from here"
        ) from error


def barrier(name: str, timeout_s: float) -> None:
    """Waits until all processes of the run are here; returns at once where there is only one.

    Args:
      name: of this place; a run comes to it once.
      timeout_s: how long to wait.

    Raises:
      jax.errors.JaxRuntimeError: not all came, or one of them is dead.
    """
    client = distributed.global_state.client
    if client is not None:
        client.wait_at_barrier(name, int(timeout_s * 1000))


def tell(what: str, message: str = "") -> None:
    """Tells all processes of the run, this one included.

    Args:
      what: they can ask for.
      message: one line about it.
    """
    client = distributed.global_state.client
    if client is not None:
        key = f"{_TOLD}/{what}/{distributed.global_state.process_id}"
        client.key_value_set(key, message, allow_overwrite=True)


def told(what: str) -> dict[int, str]:
    """Returns process -> message of those that told so; a question to process 0 over the network."""
    client = distributed.global_state.client
    if client is None:
        return {}
    found = client.key_value_dir_get(f"{_TOLD}/{what}/")
    return {int(key.rpartition("/")[2]): message for key, message in found}


def _share(visible: int, tasks: int, local: int) -> tuple[int, ...]:
    """The GPUs of one of a node's tasks: all it sees if it is alone, one if it sees one, else an equal part."""
    if tasks == 1 or visible < 2:
        return tuple(range(visible))
    if visible % tasks:
        raise InputError(
            f"{tasks} tasks of this node see {visible} GPUs and cannot share them equally: start "
            f"--ntasks-per-node=1 or a number that divides {visible}, or give each its own by --gpus-per-task"
        )
    part = visible // tasks
    return tuple(range(local * part, (local + 1) * part))
