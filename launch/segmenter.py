"""A trained run, ready to be applied to images."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from celltrack_jax import tasks
from celltrack_jax.config import from_mapping
from celltrack_jax.errors import InputError
from celltrack_jax.models.functional import FunctionalModel, Variables, digest
from celltrack_jax.ops import lowering
from celltrack_jax.tracking.sisters import Sisters
from celltrack_jax.training import checkpoint, mesh
from launch import readings


@dataclass(frozen=True)
class Inference:
    """A config's `inference`: how its network is applied where no flag says otherwise."""

    tile: tuple[int, ...]
    """[Z,] Y, X whose product is the most voxels of a tile on one device."""
    batch: int
    """Tiles per device."""
    average: str
    """One of `launch.predict.AVERAGES`."""


class Segmenter(NamedTuple):
    """A network on all devices of this process."""

    task: tasks.SegmentationTask
    inference: Inference
    tracking: dict[str, Any]
    """A config's `tracking`: settings of the linker."""
    apply: Callable[[np.ndarray], jax.Array]
    """(B, *T, C) normalised float32 -> (B, *T, representation.channels); with `clips` T has time as its first axis."""
    sharding: jax.sharding.NamedSharding
    """Of a batch: tiles over the mesh's `data`, the first axis of space of a tile over its `space`."""
    identity: dict[str, Any]
    """What its masks depend on."""
    clips: tasks.Clips | None = None
    """The blocks of frames that a network over time takes; None where it sees single frames."""
    whole_size: tuple[int, ...] = ()
    """As of `tasks.ClipSegmentationTask`."""
    sisters: Sisters | None = None
    """A config's `evaluation.sisters`: what pairs of tracks are like, where there are any."""


class ImageSegmenter(NamedTuple):
    """A network for single images."""

    task: tasks.ImageSegmentationTask
    model: FunctionalModel
    variables: Variables
    step: int
    """Of the checkpoint."""
    identity: dict[str, Any]
    """What its label maps depend on, beside the diameter of cells."""


_READ_BY = ("representation", "proposals", "regions", "detection", "inference")
"""Parts of a config that change what is read from an image."""


def restore(workdir: Path, which: str, space: int) -> Segmenter:
    """Restores a run on all devices of this process, and says which step of it.

    Args:
      workdir: of the run.
      which: checkpoint, as of `checkpoint.restore_variables`.
      space: devices that share a tile.

    Raises:
      InputError: there is no such run or checkpoint, it does not segment, or the devices cannot be shared so.
    """
    logging.set_verbosity(logging.WARNING)  # orbax reports every step of a restore
    config = readings.load_config(workdir)
    with _of_this_version(workdir):
        task = tasks.build(config)
        if not isinstance(task, tasks.SegmentationTask):
            raise InputError(
                f"{workdir} is a run of task {config.task!r}, which does not segment: give another one"
            )
        if config.data.get("diameter_px", 0.0):
            raise InputError(
                f"{workdir} learned from cells of {config.data.diameter_px} pixels (data.diameter_px), and movies "
                "are not scaled to that: train with --config.data.diameter_px=0"
            )
        tracking = config.tracking.to_dict()
        where = f"inference ({workdir}/config.json)"
        inference = from_mapping(Inference, config.inference.to_dict(), where)
        paired = config.evaluation.get("sisters")
        sisters = from_mapping(Sisters, paired.to_dict(), "evaluation.sisters") if paired else None
    devices = jax.local_devices()
    if len(devices) % space:
        raise InputError(
            f"--space={space}: {len(devices)} devices of this process do not divide into groups of {space}; "
            "choose a divisor"
        )
    model = FunctionalModel(task.model)
    step, variables = checkpoint.restore_variables(workdir, which, model)
    print(checkpoint.described(workdir, step, config))
    grid = jax.sharding.Mesh(np.array(devices).reshape(-1, space), (mesh.DATA, mesh.SPACE))
    clips, whole_size = None, ()
    if isinstance(task, tasks.ClipSegmentationTask):
        clips, whole_size = task.clips, task.whole_size
    time = (None,) if clips else ()
    split = jax.sharding.PartitionSpec(mesh.DATA, *time, mesh.SPACE if space > 1 else None)
    identity = {
        "step": step,
        "weights": digest(variables),
        "representation": config.representation.to_dict(),
    }
    apply = task.predictor(model, jax.device_put(variables, mesh.replicated(grid)))
    if space > 1:
        apply = _split(apply)
    sharding = jax.sharding.NamedSharding(grid, split)
    return Segmenter(task, inference, tracking, apply, sharding, identity, clips, whole_size, sisters)


def restore_for_images(workdir: Path, which: str) -> ImageSegmenter:
    """Restores a run that segments single images, on the first device of this process, and says which step of it.

    Args:
      workdir: of the run.
      which: checkpoint, as of `checkpoint.restore_variables`.

    Raises:
      InputError: there is no such run or checkpoint, or it segments no images.
    """
    logging.set_verbosity(logging.WARNING)
    config = readings.load_config(workdir)
    with _of_this_version(workdir):
        task = tasks.build(config)
    if not isinstance(task, tasks.ImageSegmentationTask):
        raise InputError(
            f"{workdir} is a run of task {config.task!r}, which segments no single images: give another one"
        )
    model = FunctionalModel(task.model)
    step, variables = checkpoint.restore_variables(workdir, which, model)
    print(checkpoint.described(workdir, step, config))
    parts = {name: config[name].to_dict() for name in _READ_BY if name in config}
    identity = {"step": step, "weights": digest(variables), **parts}
    return ImageSegmenter(task, model, variables, step, identity)


@contextlib.contextmanager
def _of_this_version(workdir: Path) -> Iterator[None]:
    """Says what to do about a config that the program cannot read."""
    try:
        yield
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"{workdir}/config.json does not fit this version of the program ({error}): train again, or use the "
            "version that trained it"
        ) from error


def _split(apply: Callable[[Any], jax.Array]) -> Callable[[Any], jax.Array]:
    """Keeps each device to its part of a tile."""

    def apply_to_parts(image: Any) -> jax.Array:
        with lowering.lowered_plainly():
            return apply(image)

    return apply_to_parts
