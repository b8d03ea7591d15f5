"""Segments and tracks a movie with a trained network, and writes a CTC result.

    python -m launch.predict --segmenter=runs/sim --images=Fluo-N2DH-SIM+/02 --output=02_RES

The movie streams through the devices in tiles, so neither its length nor the size of its frames has to fit their
memory. Segmented frames are kept in <output>.segmentation until the result is written: the same command continues
a run that was stopped.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from absl import flags, logging

from celltrack_jax.config import from_mapping
from celltrack_jax.errors import InputError
from celltrack_jax.inference import movies, track
from celltrack_jax.inference.mask_folder import MaskFolder
from celltrack_jax.io import threads
from launch import cli, linking

if TYPE_CHECKING:  # a bad --images or --output is reported without waiting for jax to load
    import jax

    from celltrack_jax.inference.segment import Settings
    from celltrack_jax.tasks import SegmentationTask

flags.adopt_module_key_flags(linking)
SEGMENTER = flags.DEFINE_string("segmenter", None, "work folder of a launch.train run")
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "best, latest, or a step")
TILE = flags.DEFINE_list(
    "tile", None, "[z,]y,x: a tile has at most so many voxels, in a shape that fits; default: the config's"
)
BATCH = flags.DEFINE_integer("batch", None, "tiles per device; default: the config's", lower_bound=1)
AVERAGES = ("none", "flips", "all")
AVERAGE = flags.DEFINE_enum("average", None, AVERAGES, "symmetries to average over; default: the config's")
MEMORY_GB = flags.DEFINE_float(
    "memory_gb", 8.0, "host memory for predictions; a frame that needs more goes to a temporary file", 0.0
)
flags.mark_flags_as_required(["segmenter", "images", "output"])

_HELD = 3
"""Predictions of frames that exist beside those that threads decode."""


@dataclass(frozen=True)
class Inference:
    """A config's `inference`: how its network is applied where no flag says otherwise."""

    tile: tuple[int, ...]
    """[Z,] Y, X whose product is the most voxels of a tile."""
    batch: int
    """Tiles per device."""
    average: str
    """One of `AVERAGES`."""


class Segmenter(NamedTuple):
    """A trained run, ready to be applied."""

    task: "SegmentationTask"
    inference: Inference
    tracking: dict[str, Any]
    """A config's `tracking`: settings of the linker."""
    apply: "Callable[[np.ndarray], jax.Array]"
    """(B, *T, C) normalised float32 -> (B, *T, representation.channels)."""
    sharding: "jax.sharding.Sharding"
    devices: int
    identity: dict[str, Any]
    """What its masks depend on."""


def main(_: Sequence[str]) -> int:
    """Segments, links and writes; the exit status."""
    output = Path(str(linking.OUTPUT.value))
    movie = movies.open_movie(Path(str(linking.IMAGES.value)))
    linking.check_output(output, movie.path)
    allow_gaps = bool(linking.ALLOW_GAPS.value)
    frames = movies.chosen_frames(movie.frames, str(linking.FRAMES.value), allow_gaps, movie.path)
    spacing, known = linking.spacing(movie.spacing_um, movie.spacing_known, movie.shape[1], movie.path)
    linking.check_linker()
    workdir = Path(str(SEGMENTER.value))
    segmenter = restore(workdir, str(CHECKPOINT.value))
    linker = linking.linker(segmenter.tracking, f"config.tracking ({workdir}/config.json)")
    movie = movies.in_model_axes(movie, segmenter.task.ndim, segmenter.task.channels)
    movie = movie._replace(frames=frames, spacing_um=spacing, spacing_known=known)

    masks = segment(segmenter, movie, output.with_name(output.name + ".segmentation"))
    found = track.Masks(frames, masks.read, spacing, known, movie.digits)
    lineage = track.track_movie(found, linker, linking.drawing(), output, movie.path, linking.watch)
    masks.remove()
    print(linking.summary(output, len(frames), lineage))
    return 0


def restore(workdir: Path, which: str) -> Segmenter:
    """Restores a run on all devices of this process.

    Raises:
      InputError: there is no such run or checkpoint, or it does not segment.
    """
    import jax

    from celltrack_jax import tasks
    from celltrack_jax.models.functional import FunctionalModel
    from celltrack_jax.training import checkpoint

    logging.set_verbosity(logging.WARNING)  # orbax reports every step of a restore
    config = checkpoint.load_config(workdir)
    try:
        task = tasks.build(config)
        if not isinstance(task, tasks.SegmentationTask):
            raise InputError(
                f"{workdir} is a run of task {config.task!r}, which does not segment: give another one"
            )
        tracking = config.tracking.to_dict()
        where = f"inference ({workdir}/config.json)"
        inference = from_mapping(Inference, config.inference.to_dict(), where)
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"{workdir}/config.json does not fit this version of the program ({error}): train again, or use the "
            "version that trained it"
        ) from error
    model = FunctionalModel(task.model)
    step, variables = checkpoint.restore_variables(workdir, which, model)
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(variables):
        digest.update(np.asarray(leaf).tobytes())
    devices = jax.local_devices()
    mesh = jax.sharding.Mesh(np.array(devices), ("data",))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    identity = {
        "step": step,
        "weights": digest.hexdigest(),
        "representation": config.representation.to_dict(),
    }
    apply = task.predictor(model, jax.device_put(variables, everywhere))
    return Segmenter(task, inference, tracking, apply, split, len(devices), identity)


def segment(segmenter: Segmenter, movie: movies.Movie, folder: Path) -> MaskFolder:
    """Segments all frames whose masks are not there yet; returns the folder with all masks."""
    from celltrack_jax.inference import segment as segmentation

    settings = _settings(segmenter, movie)
    lengths = segmenter.task.lengths(movie.spacing_um[-segmenter.task.ndim :])
    made_by = {
        **segmenter.identity,
        "images": str(movie.path.resolve()),
        "spacing": lengths.tolist(),
        "symmetries": [list(one) for one in settings.symmetries],
        # Group and instance norm take statistics of a tile, so masks of two tilings are not of one kind.
        "tile": list(settings.tile),
    }
    masks = MaskFolder(folder, made_by)
    todo = [frame for frame in movie.frames if not masks.has(frame, movie.changed_ns(frame))]
    if len(todo) < len(movie.frames):
        print(f"continuing: {len(movie.frames) - len(todo)} of {len(movie.frames)} frames are segmented")
    start = time.perf_counter()
    labelled = segmentation.segment_movie(
        movie.read,
        linking.watch("segmenting", todo),
        segmenter.apply,
        segmenter.task.representation,
        spacing=lengths,
        settings=settings,
        sharding=segmenter.sharding,
        scratch=folder,
    )
    for _ in threads.mapped(lambda one: masks.write(*one), labelled, settings.threads):
        pass
    seconds = time.perf_counter() - start
    voxels = len(todo) * float(np.prod(movie.shape[1:]))
    print(
        f"segmented {len(todo)} frames in {seconds:.1f} s, {voxels / seconds / 1e6:.1f} million voxels per second"
    )
    return masks


def _settings(segmenter: Segmenter, movie: movies.Movie) -> "Settings":
    from celltrack_jax.inference.segment import Settings
    from celltrack_jax.inference.symmetry import symmetries
    from celltrack_jax.inference.tiles import fit_tile

    task, inference = segmenter.task, segmenter.inference
    average = str(AVERAGE.value or inference.average)
    if average not in AVERAGES:
        raise InputError(f"config.inference.average is {average!r}: give --average=<{'|'.join(AVERAGES)}>")
    memory = int(float(MEMORY_GB.value or 0) * 2**30)
    size = movie.shape[1:][-task.ndim :]
    prediction = 4 * task.representation.channels * int(np.prod(size))
    processors = threads.cores()
    voxels = int(np.prod(_tile(task.ndim) or inference.tile))
    tile = fit_tile(size, voxels, task.halo, task.stride)
    if np.prod(tile) > voxels:
        print(
            f"note: tiles of {voxels} voxels hold little but the halo {task.halo} of this network: using {tile}"
        )
    return Settings(
        tile=tile,
        halo=task.halo,
        stride=task.stride,
        batch=(BATCH.value or inference.batch) * segmenter.devices,
        symmetries=symmetries(flips=average != "none", rotations=average == "all"),
        threads=max(1, min(threads.MOST_THREADS, processors, memory // prediction - _HELD)),
        memory_bytes=memory // (1 + _HELD),
    )


def _tile(ndim: int) -> tuple[int, ...] | None:
    if not TILE.value:
        return None
    if len(TILE.value) != ndim or not all(size.isdigit() and int(size) > 0 for size in TILE.value):
        raise InputError(f"--tile={','.join(TILE.value)} is not {ndim} positive numbers, as the model needs")
    return tuple(int(size) for size in TILE.value)


if __name__ == "__main__":
    cli.run(main)
