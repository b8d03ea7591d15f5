"""Checkpoints of a run, by orbax v1: saved asynchronously, restorable on any number of devices."""

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import ml_collections
from etils import epath
from orbax.checkpoint import v1 as ocp

from celltrack_jax.config import Config
from celltrack_jax.errors import InputError
from celltrack_jax.models.functional import FunctionalModel, Variables
from celltrack_jax.training.state import TrainState

CONFIG_FILE = "config.json"
_BEST, _LATEST = "best", "latest"


class Checkpoints:
    """The checkpoints of one work folder: the latest ones and the best by a score."""

    def __init__(self, workdir: Path, best_metric: str, keep_latest: int):
        """Opens or makes `<workdir>/checkpoints`; whatever a crash left half-written there is removed.

        Args:
          workdir: the run's folder.
          best_metric: key of the evaluation whose largest value marks the best checkpoint.
          keep_latest: how many of the newest to keep beside the best.
        """
        self._metric = best_metric
        policies = ocp.training.preservation_policies
        keep: Any = policies.AnyPreservationPolicy(
            [
                policies.LatestN(keep_latest),
                policies.BestN(
                    get_metric_fn=lambda metrics: metrics[best_metric],
                    n=1,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        self._checkpointer = ocp.training.Checkpointer(
            epath.Path(workdir.absolute() / "checkpoints"),
            preservation_policy=keep,
            cleanup_tmp_directories=True,
        )

    def save(self, step: int, state: TrainState, scores: Mapping[str, float] | None) -> None:
        """Starts to save; returns as soon as the arrays are copied.

        Args:
          step: steps done.
          state: the whole training state.
          scores: of an evaluation of exactly this state, None where there was none.

        Raises:
          InputError: the disk is full or cannot be written.
        """
        metrics: Any = None
        if scores is not None and scores.get(self._metric) is not None:
            metrics = {self._metric: float(scores[self._metric])}
        parts = {"state": state._replace(ema=()), "ema": state.ema}
        with _disk_errors(step):
            self._checkpointer.save_checkpointables_async(
                step, parts, force=True, overwrite=self.has(step), metrics=metrics
            )

    def has(self, step: int) -> bool:
        """Returns whether this step was saved."""
        return any(checkpoint.step == step for checkpoint in self._checkpointer.checkpoints)

    def restore_latest(self, abstract: TrainState) -> TrainState | None:
        """Returns the newest complete state on the abstract state's devices, or None.

        Raises:
          InputError: the checkpoint belongs to another model.
        """
        latest = self._checkpointer.latest
        if latest is None:
            return None
        parts = {"state": abstract._replace(ema=()), "ema": abstract.ema}
        loaded = _load(self._checkpointer, latest.step, parts)
        return loaded["state"]._replace(ema=loaded["ema"])

    def wait(self) -> None:
        """Blocks until everything saved is on disk."""
        with _disk_errors(None):
            self._checkpointer.wait()

    def close(self) -> None:
        """Waits and releases."""
        with _disk_errors(None):
            self._checkpointer.close()


def restore_variables(workdir: Path, which: str | int, model: FunctionalModel) -> tuple[int, Variables]:
    """Loads the averaged weights of a run, for inference on the devices of this process.

    Args:
      workdir: the run's folder.
      which: "best" (by the run's own score; the latest where nothing was scored), "latest", or a step.
      model: the model of the run's config.

    Returns:
      The step and the variables.

    Raises:
      InputError: there is no such checkpoint, or it belongs to another model.
    """
    folder = workdir.absolute() / "checkpoints"
    if not folder.is_dir():
        raise InputError(f"{workdir} holds no checkpoints: give the --workdir of a launch.train run")
    with ocp.training.Checkpointer(epath.Path(folder)) as checkpointer:
        saved = {checkpoint.step: checkpoint for checkpoint in checkpointer.checkpoints}
        if not saved:
            raise InputError(f"{folder} holds no finished checkpoint: train longer before predicting")
        step = _choose(saved, which, folder)
        shapes = jax.eval_shape(model.init, jax.random.key(0))
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)
        return step, _load(checkpointer, step, {"ema": abstract})["ema"]


def checkpoint_steps(workdir: Path) -> list[int]:
    """Returns the steps of all finished checkpoints, ascending."""
    folder = workdir.absolute() / "checkpoints"
    if not folder.is_dir():
        return []
    with ocp.training.Checkpointer(epath.Path(folder)) as checkpointer:
        return sorted(checkpoint.step for checkpoint in checkpointer.checkpoints)


def save_config(workdir: Path, config: Config) -> None:
    """Writes `config.json` of a new run.

    Raises:
      InputError: the folder holds a run of another config, or cannot be written.
    """
    path = workdir / CONFIG_FILE
    text = json.dumps(json.loads(config.to_json_best_effort()), indent=2, sort_keys=True) + "\n"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _refuse_other_run(path, text)
        partial = path.with_suffix(".partial")
        partial.write_text(text)
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another --workdir") from error


def load_config(workdir: Path) -> Config:
    """Reads `config.json` of a run.

    Raises:
      InputError: it is absent or not JSON.
    """
    path = workdir / CONFIG_FILE
    try:
        return ml_collections.ConfigDict(json.loads(path.read_text()))
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist: give the --workdir of a launch.train run") from error
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} ({error}): train again into a new --workdir") from error


def _refuse_other_run(path: Path, text: str) -> None:
    old, new = json.loads(path.read_text()), json.loads(text)
    # The length of a run may grow; everything else would make two runs out of one.
    differing = [key for key in _changed(old, new) if key != "train.steps"]
    if differing:
        raise InputError(
            f"{path.parent} holds a run with another config ({', '.join(differing[:4])} differ): "
            "choose another --workdir, or remove this one"
        )


def _changed(old: Any, new: Any, prefix: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [name for key in keys for name in _changed(old.get(key), new.get(key), f"{prefix}{key}.")]
    return [] if old == new else [prefix.rstrip(".")]


def _choose(saved: dict[int, Any], which: str | int, folder: Path) -> int:
    if which == _LATEST:
        return max(saved)
    if which == _BEST:
        scored = {step: next(iter(c.metrics.values())) for step, c in saved.items() if c.metrics}
        return max(scored, key=lambda step: scored[step]) if scored else max(saved)
    if str(which).isdigit() and int(which) in saved:
        return int(which)
    raise InputError(f"no checkpoint {which!r} in {folder}: there are {sorted(saved)}, 'best' and 'latest'")


def _load(checkpointer: Any, step: int, parts: dict[str, Any]) -> dict[str, Any]:
    try:
        return checkpointer.load_checkpointables(step, parts)
    except Exception as error:  # orbax raises a different type for every kind of mismatch
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise InputError(
            f"checkpoint {step} in {checkpointer.directory} does not fit this config's model ({reason}): "
            "use the config it was trained with, or a new --workdir"
        ) from error


class _disk_errors:  # noqa: N801, a context manager that reads as a function
    """Turns an unwritable disk into a one-line error."""

    def __init__(self, step: int | None):
        self._step = step

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__
        if isinstance(cause, OSError) and cause.errno in (
            errno.ENOSPC,
            errno.EROFS,
            errno.EACCES,
            errno.EDQUOT,
        ):
            at = "" if self._step is None else f" of step {self._step}"
            raise InputError(
                f"cannot save the checkpoint{at}: {cause.strerror}; free space or choose another --workdir, "
                "then run the same command to continue from the last good checkpoint"
            ) from error
