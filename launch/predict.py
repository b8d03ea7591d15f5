"""Segments and tracks a movie with a trained network, and writes a CTC result.

    python -m launch.predict --segmenter=runs/sim --images=Fluo-N2DH-SIM+/02 --output=02_RES

The movie streams through the devices in tiles, so neither its length nor the size of its frames has to fit their
memory; --space=N spreads each tile over N of them. Segmented frames, and tiles of a frame that takes long, are kept
in <output>.segmentation until the result is written: the same command continues a run that was stopped.

Started as several processes, as launch.train is, each segments every N-th frame into that folder, which all hosts
have to share, and the first one tracks.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from celltrack_jax.errors import InputError
from celltrack_jax.inference import movies, track
from celltrack_jax.inference.mask_folder import TILES, MaskFolder
from celltrack_jax.inference.tile_folder import TileFolder
from celltrack_jax.io import files, threads
from launch import cli, cluster, linking

if TYPE_CHECKING:  # a bad --images or --output is reported without waiting for jax to load
    from celltrack_jax.inference.segment import Settings
    from launch.processes import Processes
    from launch.segmenter import Segmenter

flags.adopt_module_key_flags(linking)
flags.adopt_module_key_flags(cluster)
SEGMENTER = flags.DEFINE_string("segmenter", None, "work folder of a launch.train run")
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "best, latest, or a step")
TILE = flags.DEFINE_list(
    "tile",
    None,
    "[z,]y,x: a tile has at most so many voxels per device, in a shape that fits; default: the config's",
)
BATCH = flags.DEFINE_integer("batch", None, "tiles per device; default: the config's", lower_bound=1)
SPACE = flags.DEFINE_integer("space", 1, "devices that share each tile, along its first axis", lower_bound=1)
AVERAGES = ("none", "flips", "all")
AVERAGE = flags.DEFINE_enum("average", None, AVERAGES, "symmetries to average over; default: the config's")
MEMORY_GB = flags.DEFINE_float(
    "memory_gb", 8.0, "host memory for predictions; a frame that needs more goes to a temporary file", 0.0
)
flags.mark_flags_as_required(["segmenter", "images", "output"])

_HELD = 3
"""Predictions of frames that exist beside those that threads decode."""

Watch = Callable[[str, Iterable[int]], Iterable[int]]
"""(what, frame numbers) -> the same numbers; shows progress."""


class _StoppedError(Exception):
    """The result is not written because this run was told to stop."""


def main(_: Sequence[str]) -> int:
    """Segments, links and writes; the exit status."""
    output = Path(str(linking.OUTPUT.value))
    movie = movies.open_movie(Path(str(linking.IMAGES.value)))
    linking.check_output(output, movie.path)
    allow_gaps = bool(linking.ALLOW_GAPS.value)
    frames = movies.chosen_frames(movie.frames, str(linking.FRAMES.value), allow_gaps, movie.path)
    linking.check_linker()
    return _predict(movie._replace(frames=frames), output)


def _predict(movie: movies.Movie, output: Path) -> int:
    from launch import segmenter as segmenters
    from launch.processes import Processes

    workdir = Path(str(SEGMENTER.value))
    with contextlib.ExitStack() as context:
        processes = context.enter_context(Processes())
        watch = linking.watch
        if processes.index > 0:
            nowhere = context.enter_context(Path(os.devnull).open("w"))
            context.enter_context(contextlib.redirect_stdout(nowhere))
            watch = _silent
        spacing, known = linking.spacing(movie.spacing_um, movie.spacing_known, movie.shape[1], movie.path)
        movie = movie._replace(spacing_um=spacing, spacing_known=known)
        segmenter = segmenters.restore(workdir, str(CHECKPOINT.value), int(SPACE.value or 1))
        linker = linking.linker(segmenter.tracking, f"config.tracking ({workdir}/config.json)")
        movie = movies.in_model_axes(movie, segmenter.task.ndim, segmenter.task.channels)
        settings = _settings(segmenter, movie)
        folder = output.with_name(output.name + ".segmentation")
        if processes.index == 0:
            context.enter_context(files.locked(folder, "launch.predict"))
        masks = segment(segmenter, movie, settings, folder, processes, watch)
        lineage = None
        if processes.index == 0 and not processes.asked():
            masks.wait_for(movie.frames)
            found = track.Masks(movie.frames, masks.read, movie.spacing_um, movie.spacing_known, movie.digits)
            if linking.looks_at_images():
                shape = movie.shape[1:] if movie.shape[1] > 1 else movie.shape[2:]
                found = found._replace(image=movies.images_of_masks(movie, movie.frames, shape))
            with contextlib.suppress(_StoppedError):
                stoppable = _stoppable(watch, processes)
                lineage = track.track_movie(found, linker, linking.drawing(), output, movie.path, stoppable)
                processes.finish()
        processes.meet("written")
        if not processes.finished():
            missing = [frame for frame in movie.frames if not masks.has(frame, movie.changed_ns(frame))]
            where = f"at frame {missing[0]}" if missing else "before the result was written"
            print(f"stopped {where}; the same command continues")
            return cli.STOPPED
    if lineage is not None:
        masks.remove()
        print(linking.summary(output, len(movie.frames), lineage))
    return 0


def segment(
    segmenter: "Segmenter",
    movie: movies.Movie,
    settings: "Settings",
    folder: Path,
    processes: "Processes",
    watch: Watch,
) -> MaskFolder:
    """Segments this process's frames whose masks are not there yet, until told to stop.

    Returns:
      The folder with the masks of all processes, which are there unless they were told to stop.
    """
    from celltrack_jax.inference import segment as segmentation

    lengths = segmenter.task.lengths(movie.spacing_um[-segmenter.task.ndim :])
    made_by = {
        **segmenter.identity,
        "images": str(movie.path.resolve()),
        "spacing": lengths.tolist(),
        "symmetries": [list(one) for one in settings.symmetries],
        # Group and instance norm take statistics of a tile, so masks of two tilings are not of one kind.
        "tile": list(settings.tile),
        # Frames are mirrored up to a multiple of it.
        "stride": list(settings.stride),
    }
    masks = _shared_folder(folder, made_by, processes)
    todo = [frame for frame in movie.frames if not masks.has(frame, movie.changed_ns(frame))]
    if len(todo) < len(movie.frames):
        print(f"continuing: {len(movie.frames) - len(todo)} of {len(movie.frames)} frames are segmented")
    start = time.perf_counter()
    own = sorted(set(todo).intersection(movie.frames[processes.index :: processes.count]))
    with contextlib.closing(TileFolder(folder / TILES, movie.changed_ns)) as kept:

        def write(frame: int, labels: np.ndarray) -> None:
            masks.write(frame, labels)
            kept.remove(frame)

        for _ in segmentation.segment_movie(
            movie.read,
            watch("segmenting", own),
            segmenter.apply,
            segmenter.task.representation,
            spacing=lengths,
            settings=settings,
            sharding=segmenter.sharding,
            scratch=folder,
            kept=kept,
            done=write,
            stop=processes.asked,
        ):
            pass
    processes.meet("segmented")
    if not processes.asked():
        seconds = time.perf_counter() - start
        speed = len(todo) * float(np.prod(movie.shape[1:])) / seconds / 1e6
        print(f"segmented {len(todo)} frames in {seconds:.1f} s, {speed:.1f} million voxels per second")
    return masks


def _shared_folder(folder: Path, made_by: dict, processes: "Processes") -> MaskFolder:
    """Makes the folder in the first process and opens it in the others."""
    if processes.index == 0:
        masks = MaskFolder(folder, made_by)
        processes.meet("made")
        return masks
    processes.meet("made")
    return MaskFolder(folder, made_by, made=True)


def _settings(segmenter: "Segmenter", movie: movies.Movie) -> "Settings":
    from celltrack_jax.inference.segment import Settings
    from celltrack_jax.inference.symmetry import symmetries
    from celltrack_jax.inference.tiles import fit_tile
    from celltrack_jax.training import mesh

    task, inference = segmenter.task, segmenter.inference
    average = str(AVERAGE.value or inference.average)
    if average not in AVERAGES:
        raise InputError(f"config.inference.average is {average!r}: give --average=<{'|'.join(AVERAGES)}>")
    memory = int(float(MEMORY_GB.value or 0) * 2**30)
    size = movie.shape[1:][-task.ndim :]
    prediction = 4 * task.representation.channels * int(np.prod(size))
    processors = threads.cores()
    groups, space = (segmenter.sharding.mesh.shape[axis] for axis in (mesh.DATA, mesh.SPACE))
    stride = (task.stride[0] * space, *task.stride[1:])
    voxels = space * int(np.prod(_tile(task.ndim) or inference.tile))
    tile = fit_tile(size, voxels, task.halo, stride)
    if np.prod(tile) > voxels:
        print(
            f"note: tiles of {voxels} voxels hold little but the halo {task.halo} of this network: using {tile}"
        )
    return Settings(
        tile=tile,
        halo=task.halo,
        stride=stride,
        batch=(BATCH.value or inference.batch) * groups,
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


def _silent(_: str, frames: Iterable[int]) -> Iterable[int]:
    return frames


def _stoppable(watch: Watch, processes: "Processes") -> Watch:
    """Adds to a watch that it ends the work when the run was told to stop."""

    def stopping(what: str, frames: Iterable[int]) -> Iterable[int]:
        for frame in watch(what, frames):
            if processes.asked():
                raise _StoppedError
            yield frame

    return stopping


if __name__ == "__main__":
    cli.run(main)
