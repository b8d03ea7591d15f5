"""What --slurm=key=value,... may say, and what becomes of it in sbatch."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

SIGNAL_DELAY_S = 120
"""SLURM tells a job so long before its time is up that it has to stop: to save, and be started again."""


def _nodes(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d*(-[1-9]\d*)?", text):
        raise ValueError("a number of nodes, or a range such as 1-4")
    return text


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d*", text):
        raise ValueError("a positive number")
    return int(text)


def _gibibytes(text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?", text) or not float(text):
        raise ValueError("a positive number of GB")
    return float(text)


def _gpus(text: str) -> str:
    if not re.fullmatch(r"(\w+:)?[1-9]\d*", text):
        raise ValueError("a number of GPUs, or <type>:<number>")
    return text


KEYS: dict[str, Callable[[str], Any]] = {
    "nodes": _nodes,
    "tasks_per_node": _count,
    "gpus_per_node": _gpus,
    "cpus_per_task": _count,
    "mem_gb": _gibibytes,
    "timeout_min": _count,
    "partition": str,
    "account": str,
    "qos": str,
    "constraint": str,
    "reservation": str,
    "nodelist": str,
    "exclude": str,
    "setup": str,
}
"""Reader of each key's value. `setup` is a line of shell that runs before the command, and may be given repeatedly."""


def parse(words: Sequence[str]) -> dict[str, Any]:
    """Reads --slurm flags.

    Args:
      words: each "key=value" or several with commas between them; a comma that no "key=" follows is the value's.

    Returns:
      Value by key of `KEYS`; `setup` is a list of lines.

    Raises:
      flags.ValidationError: a key is unknown or given twice, or its value is of another kind.
    """
    found: dict[str, Any] = {}
    for part in [part for word in words for part in re.split(r",(?=\w+=)", word)]:
        key, equals, text = part.partition("=")
        if key not in KEYS:
            raise flags.ValidationError(
                f"--slurm={part}: there is no setting {key!r}; there are {', '.join(KEYS)}"
            )
        if not equals or not text:
            raise flags.ValidationError(f"--slurm={part}: give {key}=<value>")
        if key in found and key != "setup":
            raise flags.ValidationError(f"--slurm: {key} is given twice, {found[key]} and {text}")
        try:
            value = KEYS[key](text)
        except ValueError as error:
            raise flags.ValidationError(f"--slurm={part}: {key} is {error}") from None
        found[key] = [*found.get(key, []), value] if key == "setup" else value
    return found


def sbatch(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the parameters of submitit's SlurmExecutor for these settings.

    Args:
      settings: of `parse`.
    """
    given = dict(settings)
    nodes, tasks = given.pop("nodes", "1"), given.pop("tasks_per_node", 1)
    timeout_min = given.pop("timeout_min", None)
    # Parameters that submitit does not know of, or takes for other types.
    extra: dict[str, Any] = {"requeue": True, "nodes": nodes, "signal": f"TERM@{SIGNAL_DELAY_S}"}
    if nodes.isdigit():
        extra["ntasks-per-node"] = tasks  # of a range, SLURM would grant the fewest nodes that hold a task
    for key in ("reservation", "gpus_per_node"):
        if key in given:
            extra[key.replace("_", "-")] = given.pop(key)
    if "mem_gb" in given:
        extra["mem"] = f"{round(1024 * given.pop('mem_gb'))}M"
    # srun takes the tasks' cores from sbatch only in some of its versions.
    cores = [f"--cpus-per-task={given['cpus_per_task']}"] if "cpus_per_task" in given else []
    return {
        **given,
        # submitit has defaults of its own for these; without them those of the cluster hold.
        "time": timeout_min,
        "wckey": None,
        "srun_args": [f"--ntasks-per-node={tasks}", *cores],
        "stderr_to_stdout": True,
        "additional_parameters": extra,
    }
