"""Checkpoints of a run, by orbax v1: saved asynchronously, restorable on any number of devices."""

import contextlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
from etils import epath
from orbax.checkpoint import v1 as ocp

from celltrack_jax.config import Config, differing
from celltrack_jax.errors import InputError
from celltrack_jax.io import files
from celltrack_jax.models.functional import FunctionalModel, Variables
from celltrack_jax.training import progress
from celltrack_jax.training.state import TrainState

CONFIG_FILE = "config.json"
FACTS_FILE = "training_data.json"
_BEST, _LATEST = "best", "latest"
_KEPT = "then run the same command to continue from the last good checkpoint"
_MAY_CHANGE = (
    r"train\.(steps|accumulate|log_every|evaluate_every|save_every|keep_latest|initial_rules)",
    r"mesh\..*",
    r"data\.(threads|prefetch|max_cells)",
    r"representation\.max_cells",
    r"evaluation\.(max_frames|window|contrasts)",
    r"(inference|tracking)\..*",
    r"size_model(\..*)?",
)
"""Keys that a run may be continued with other values of: how long and where it runs, what it holds room for, and how
it is watched. Everything else would make two runs out of one."""


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
        self._folder = workdir.absolute() / "checkpoints"
        self._scores = _scores(workdir, best_metric)
        self._saving: Any = None
        policies = ocp.training.preservation_policies
        keep: Any = policies.AnyPreservationPolicy([policies.LatestN(keep_latest), _Best(self._scores)])
        self._checkpointer = ocp.training.Checkpointer(
            epath.Path(self._folder),
            preservation_policy=keep,
            cleanup_tmp_directories=True,
        )

    def save(self, step: int, state: TrainState, scores: Mapping[str, float] | None) -> None:
        """Starts to save; returns as soon as the arrays are copied.

        Args:
          step: steps done.
          state: the whole training state.
          scores: of an evaluation of exactly this state, None where there was none. A step that was saved before is
            not saved again (orbax would delete it first), only its score is noted.

        Raises:
          InputError: the disk is full or cannot be written.
        """
        score = None if scores is None else scores.get(self._metric)
        if score is not None:
            self._scores[step] = float(score)
        if self.has(step):
            return
        parts = {"state": state._replace(ema=()), "ema": state.ema}
        with files.explained(f"the checkpoint of step {step}", _KEPT):
            self._settle()
            self._saving = self._checkpointer.save_checkpointables_async(step, parts, force=True)

    def has(self, step: int) -> bool:
        """Returns whether this step was saved."""
        return any(checkpoint.step == step for checkpoint in self._checkpointer.checkpoints)

    def best(self) -> tuple[int, float] | None:
        """Returns the step of the best checkpoint and its score, None where none was scored."""
        step = _best([checkpoint.step for checkpoint in self._checkpointer.checkpoints], self._scores)
        return None if step is None else (step, self._scores[step])

    def restore_latest(self, abstract: TrainState) -> TrainState | None:
        """Returns the newest complete state on the abstract state's devices, or None.

        Raises:
          InputError: the checkpoint belongs to another model.
        """
        latest = self._checkpointer.latest
        if latest is None:
            return None
        parts = {"state": abstract._replace(ema=()), "ema": abstract.ema}
        loaded = _load(self._folder, latest.step, parts)
        return loaded["state"]._replace(ema=loaded["ema"])

    def wait(self) -> None:
        """Blocks until everything saved is on disk."""
        with files.explained("the checkpoint", _KEPT):
            self._settle()
            self._checkpointer.wait()

    def close(self) -> None:
        """Waits and releases."""
        with files.explained("the checkpoint", _KEPT):
            try:
                self._settle()
            finally:
                self._checkpointer.close()

    def _settle(self) -> None:
        """Waits for the save under way; orbax (0.12.8) keeps a thread and three descriptors of each that is not."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()


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
    saved = checkpoint_steps(workdir)
    if not saved:
        raise InputError(f"{folder} holds no finished checkpoint: train longer before predicting")
    step = _choose(saved, which, workdir)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)
    with _in_this_process():
        return step, _load(folder, step, {"ema": abstract})["ema"]


def save_variables(workdir: Path, config: Config, step: int, variables: Variables) -> None:
    """Writes a work folder that holds one set of weights: all that `restore_variables` needs, and nothing to train on.

    Args:
      workdir: it is there as a whole, or not at all; one that was there is replaced.
      config: of the run.
      step: of the weights.
      variables: that `restore_variables` gave.

    Raises:
      InputError: it cannot be written.
    """
    partial = workdir.absolute().with_name(f"{workdir.name}.partial")
    with files.explained(workdir, _KEPT), _in_this_process():
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "checkpoints").mkdir(parents=True)
        ocp.save_checkpointables(epath.Path(partial / "checkpoints" / str(step)), {"ema": variables})
        (partial / CONFIG_FILE).write_text(_as_text(config))
        shutil.rmtree(workdir, ignore_errors=True)
        partial.rename(workdir)


def checkpoint_steps(workdir: Path) -> list[int]:
    """Returns the steps of all finished checkpoints, ascending."""
    folder = workdir.absolute() / "checkpoints"
    if not folder.is_dir():
        return []
    with _in_this_process():
        # Half-written ones have other names.
        return sorted(
            int(path.name)
            for path in folder.iterdir()
            if path.name.isdigit() and ocp.is_orbax_checkpoint(epath.Path(path))
        )


def described(workdir: Path, step: int, config: Config) -> str:
    """Returns one line on a checkpoint of a run: its step of how many, and where the run is if that is not the end."""
    steps = config.train.steps
    line = f"{workdir}: step {step} of {steps}"
    # A folder without a history has weights alone, and no run to go on with.
    newest = max(checkpoint_steps(workdir), default=0)
    if newest < steps and progress.read_history(workdir):
        line += f"; the run has come to step {newest}: if it was stopped, launch.train's command goes on"
    return line


def save_config(workdir: Path, config: Config) -> None:
    """Writes `config.json` of a new run.

    Raises:
      InputError: the folder holds a run of another config, or cannot be written.
    """
    path = workdir / CONFIG_FILE
    new = json.loads(config.to_json_best_effort())
    if checkpoint_steps(workdir):
        old = json.loads(load_config(workdir).to_json_best_effort())
        _refuse_other_run(workdir, old, new)
    files.replace_text(path, _as_text(config), "or choose another --workdir")


def save_facts(workdir: Path, facts: Mapping[str, Any]) -> None:
    """Writes `training_data.json`: what the data of a run are like.

    Raises:
      InputError: it cannot be written.
    """
    text = json.dumps(dict(facts), indent=2, sort_keys=True) + "\n"
    files.replace_text(workdir / FACTS_FILE, text, "or choose another --workdir")


def load_facts(workdir: Path) -> dict[str, Any] | None:
    """Reads `training_data.json`; None where there is none.

    Raises:
      InputError: it is not JSON.
    """
    path = workdir / FACTS_FILE
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} ({error}): train again into a new --workdir") from error


def check_shared(workdir: Path, config: Config) -> None:
    """Waits until the config that process 0 saved is visible to this process.

    Raises:
      InputError: it is not, or it is another one.
    """
    path = workdir / CONFIG_FILE
    text = _as_text(config)
    if not files.wait_until(lambda: path.is_file() and path.read_text() == text):
        raise InputError(
            f"{path} is not here as process 0 wrote it: give all processes the same flags, and a --workdir that all "
            "hosts share"
        )


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


def _as_text(config: Config) -> str:
    return json.dumps(json.loads(config.to_json_best_effort()), indent=2, sort_keys=True) + "\n"


def _in_this_process() -> contextlib.AbstractContextManager[Any]:
    """A context in which orbax does not wait for the other processes of a run: each may read something else."""
    if jax.process_count() == 1:
        return contextlib.nullcontext()
    context = ocp.Context()
    own = context.multiprocessing
    own.primary_host, own.active_processes = jax.process_index(), {jax.process_index()}
    own.barrier_sync_key_prefix = f"process_{jax.process_index()}"
    return context


def _refuse_other_run(workdir: Path, old: Any, new: Any) -> None:
    others = [key for key in differing(old, new) if not any(re.fullmatch(name, key) for name in _MAY_CHANGE)]
    if others:
        raise InputError(
            f"{workdir} holds a run with another config ({', '.join(others[:4])} differ): "
            "choose another --workdir, or remove this one"
        )


def _scores(workdir: Path, metric: str) -> dict[int, float]:
    """Returns the score of each evaluated step, as the run's log has them."""
    rows = [row for row in progress.read_history(workdir) if row["kind"] == "eval"]
    return {row["step"]: row[metric] for row in rows if row.get(metric) is not None}


def _best(steps: Sequence[int], scores: Mapping[int, float]) -> int | None:
    """Returns the step of the highest score; the last of equal ones, which has learned more."""
    return max(
        (step for step in steps if step in scores), key=lambda step: (scores[step], step), default=None
    )


class _Best:
    """Orbax's policy to keep the checkpoint of the best score."""

    def __init__(self, scores: Mapping[int, float]):
        self._scores = scores

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        best = _best([checkpoint.step for checkpoint in checkpoints], self._scores)
        return [checkpoint.step == best for checkpoint in checkpoints]


def _choose(saved: Sequence[int], which: str | int, workdir: Path) -> int:
    if which == _LATEST:
        return max(saved)
    if which == _BEST:
        best = _best(saved, _scores(workdir, load_config(workdir).train.best_metric))
        return max(saved) if best is None else best
    if str(which).isdigit() and int(which) in saved:
        return int(which)
    raise InputError(f"no checkpoint {which!r} in {workdir}: there are {sorted(saved)}, 'best' and 'latest'")


def _load(folder: Path, step: int, parts: dict[str, Any]) -> dict[str, Any]:
    try:
        return ocp.load_checkpointables(epath.Path(folder) / str(step), parts)
    except Exception as error:  # orbax raises a different type for every kind of mismatch
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise InputError(
            f"checkpoint {step} in {folder} does not fit this config's model ({reason}): "
            "use the config it was trained with, or a new --workdir"
        ) from error
