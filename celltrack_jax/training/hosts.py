"""How the processes of one run find each other: by flags, through SLURM, Open MPI or a TPU's metadata, or not at all.

jax's own detection assumes one task per GPU: a task that has several of a node's GPUs uses one of them, and where all
tasks see the whole node they quarrel. Here each task takes its share of what it sees.
"""

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax

from celltrack_jax.errors import InputError
from celltrack_jax.ops import cpu
from celltrack_jax.training import peers

TIMEOUT_S = 120
"""For all processes to come together."""
HEARTBEAT_S = 30
"""After so long without a sign of life a process counts as dead, and the others end."""


class Cluster(NamedTuple):
    """A run of several processes, seen from one of them."""

    coordinator: str | None
    """host:port of process 0; None, like the two numbers, where jax reads it from a TPU's metadata."""
    processes: int | None
    process: int | None
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


def from_environment(environment: Mapping[str, str]) -> Cluster | None:
    """Reads the cluster that started this process; None where nothing of the kind did.

    Args:
      environment: of the process. Open MPI goes first: under SLURM its tasks see the variables of its own daemons.

    Raises:
      InputError: the variables describe a cluster that cannot be.
    """
    return from_open_mpi(environment) or from_slurm(environment) or _from_tpu()


def from_open_mpi(environment: Mapping[str, str]) -> Cluster | None:
    """Reads the cluster of a process that `mpirun` started; None outside of one, or in one of a single task.

    Raises:
      InputError: Open MPI does not say where process 0 runs, or a node's tasks cannot share its GPUs.
    """
    tasks = int(environment.get("OMPI_COMM_WORLD_SIZE", 1))
    if tasks < 2:
        return None
    coordinator = environment.get("JAX_COORDINATOR_ADDRESS")
    if coordinator is None:
        # Up to version 4: "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911", the addresses of mpirun's node.
        uri = environment.get("OMPI_MCA_orte_hnp_uri", "")
        found = re.match(r"(\d+)\..*?;(?:tcp://([^,:]+)|tcp6://(\[[^,\]]+))", uri)
        if found is None:
            raise InputError(
                "Open MPI 5 does not tell its tasks where process 0 runs: start "
                "mpirun -x JAX_COORDINATOR_ADDRESS=<first host>:12345 ..."
            )
        host = found[2] or f"{found[3]}]"
        coordinator = f"{host}:{61440 + int(found[1]) // 4096 % 4096}"
    here = int(environment["OMPI_COMM_WORLD_LOCAL_SIZE"])
    local = int(environment["OMPI_COMM_WORLD_LOCAL_RANK"])
    devices = _visible(environment, here, local)
    return Cluster(coordinator, tasks, int(environment["OMPI_COMM_WORLD_RANK"]), devices, "Open MPI")


def _from_tpu() -> Cluster | None:
    """On a machine with TPU chips and their driver, jax reads the pod's metadata itself, of a single host too."""
    chips = [*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*")]
    if not chips or importlib.util.find_spec("libtpu") is None:
        return None
    return Cluster(None, None, None, None, "the TPU's metadata")


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
    devices = _visible(environment, here, local)
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


def join(cluster: Cluster | None, *, stop_together: bool = True) -> None:
    """Connects this process with the others; to be called before anything else touches a device.

    Args:
      cluster: None for a single process.
      stop_together: whether all processes stop where one gets a SIGTERM (`preemption.Preemption`). Otherwise the
        signal stays with the process that gets it.

    Raises:
      InputError: the coordinator does not answer, or not all processes come.
    """
    if cluster is None:
        return
    # Both are for CPUs; accelerators do not read them.
    cpu.run_collectives_in_order()
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", stop_together)
    nobody = (
        f"process {cluster.process} of {cluster.processes} ({cluster.origin}) found no run at {cluster.coordinator} "
        f"within {TIMEOUT_S} s: check that process 0 runs, that its port can be reached from here, and that all "
        "processes were started"
    )
    peers.on_abort(lambda: nobody)
    try:
        jax.distributed.initialize(
            cluster.coordinator,
            cluster.processes,
            cluster.process,
            local_device_ids=cluster.local_devices,
            initialization_timeout=TIMEOUT_S,
            heartbeat_timeout_seconds=HEARTBEAT_S,
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{nobody} ({' '.join(str(error).split())[:160]})") from error
    peers.watch()


def _visible(environment: Mapping[str, str], tasks: int, local: int) -> tuple[int, ...] | None:
    """The GPUs of one of a node's tasks; None where the environment does not count them."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    return (
        None if visible is None else _share(len([each for each in visible.split(",") if each]), tasks, local)
    )


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
