"""The config of a run, whose output a command reads by other settings where its --config.<key>=<value> says so.

They may be those that launch.tune found, or other tiles. Of `representation` only settings of its decoding make sense:
other targets than those that the network learned are not learned anew.
"""

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from celltrack_jax.config import Config
from celltrack_jax.errors import InputError
from celltrack_jax.training import checkpoint
from launch import overrides
from launch.sweeps import arms

PARTS = ("representation", "detection", "evaluation", "inference", "tracking")
"""Of a config, that say how a network's output is read and judged."""

_SPLIT = tuple(
    f"evaluation.{key}" for key in ("folds", "fold", "holdout", "holdout_tracks", "holdout_frames")
)
"""They say what was trained on: by other values a run would be judged on what it has learned."""


def load_config(workdir: Path, changes: Mapping[str, str] | None = None) -> Config:
    """Reads `config.json` of a run, and changes how its output is read and judged.

    Args:
      workdir: of the run.
      changes: values as they are written, by key; None takes those that this process was called with.

    Raises:
      InputError: there is no such run, it lacks a key, or a value does not fit.
    """
    config = checkpoint.load_config(workdir)
    for key, text in (overrides.given() if changes is None else changes).items():
        _change(config, key, text, workdir)
    return config


def changes_for(workdirs: Iterable[Path]) -> dict[Path, dict[str, str]]:
    """Returns those of the changes that this process was called with whose key a run has, for each of several runs.

    Raises:
      InputError: no run has a key, or there is no such run.
    """
    configs = {workdir: checkpoint.load_config(workdir) for workdir in workdirs}
    given = overrides.given()
    for key in given:
        if not any(arms.has(config, key) for config in configs.values()):
            raise InputError(f"--config.{key}: none of the runs has {key!r}: correct the key")
    return {
        workdir: {key: text for key, text in given.items() if arms.has(config, key)}
        for workdir, config in configs.items()
    }


def _change(config: Config, key: str, text: str, workdir: Path) -> None:
    *parents, last = key.split(".")
    if key in _SPLIT or (key == "evaluation.store" and not text):
        raise InputError(
            f"--config.{key}: {workdir} was trained on what this leaves, and would be judged on what it has learned: "
            "give another --config.evaluation.store, or train another run"
        )
    if key.partition(".")[0] not in PARTS:
        raise InputError(
            f"--config.{key}: {workdir} is trained, and only how it is read and judged can be changed, "
            f"{', '.join(PARTS)}: train another run by it"
        )
    part: Any = config
    for parent in parents:
        part = part.get(parent) if isinstance(part, ConfigDict) else None
    if not isinstance(part, ConfigDict) or last not in part:
        there = f" ({', '.join(part)})" if isinstance(part, ConfigDict) else ""
        raise InputError(f"--config.{key}: the config of {workdir} has no such key{there}: correct it")
    part[last] = _value(part[last], text, key)


def _value(present: Any, text: str, key: str) -> Any:
    """Returns a value of the present one's type."""
    if isinstance(present, str):
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(present, float) and type(value) is int:
        value = float(value)
    if isinstance(value, tuple):
        value = list(value)
    kind = list if isinstance(present, list | tuple) else type(present)
    if type(value) is not kind:
        wanted = "True or False" if kind is bool else f"another {kind.__name__}"
        raise InputError(f"--config.{key}={text} does not fit: it is {present!r} now, give {wanted}")
    return value
