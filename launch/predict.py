"""Segments and tracks a movie with a trained network, and writes a CTC result; or segments a folder of single images.

    python -m launch.predict --segmenter=runs/sim --images=Fluo-N2DH-SIM+/02 --output=02_RES
    python -m launch.predict --segmenter=runs/dsb --images=<folder of PNGs or TIFFs> --output=labels

The task of the run says which of them: launch/predict_images.py describes the second, and the rest here is of movies.

--config.<key>=<value> reads the network's output by another setting than its run's own, such as those that launch.tune
prints (launch/readings.py). For images, --config.evaluation.diameters=median or "size model" chooses where the diameter
of their cells is from; --diameter_px gives it outright.

The movie streams through the devices in tiles, so neither its length nor the size of its frames has to fit their
memory; --space=N spreads each tile over N of them. Segmented frames, and tiles of a frame that takes long, are kept
in <output>.segmentation until the result is written: the same command continues a run that was stopped.

A network that finds points has them drawn as discs or balls; points.csv says where they are between pixels
(celltrack_jax/io/point_table.py describes its columns), and linkers take them from there. Tracks of a run whose config
has `evaluation.sisters`, such as those of kinetochores, are paired in sisters.csv (celltrack_jax/io/sister_table.py).

Started as several processes, as launch.train is, each segments every N-th frame into that folder, which all hosts
have to share, and the first one tracks. Networks that see several frames at a time (config.clips) take the movie in
blocks of frames: what is said here of a frame holds for a block then.
"""

import contextlib
import os
import sys
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
from launch import cli, cluster, linking, overrides, predict_images

if TYPE_CHECKING:  # a bad --images or --output is reported without waiting for jax to load
    from celltrack_jax.inference.segment import Settings
    from launch.processes import Processes
    from launch.segmenter import Segmenter

flags.adopt_module_key_flags(linking)
flags.adopt_module_key_flags(cluster)
flags.adopt_module_key_flags(predict_images)
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
    workdir = Path(str(SEGMENTER.value))
    if predict_images.takes(workdir):
        return predict_images.main(workdir, str(CHECKPOINT.value), (TILE, BATCH, SPACE, AVERAGE, MEMORY_GB))
    predict_images.refuse_image_flags(workdir)
    output = Path(str(linking.OUTPUT.value))
    movie = movies.open_movie(Path(str(linking.IMAGES.value)))
    linking.check_output(output, movie.path)
    allow_gaps = bool(linking.ALLOW_GAPS.value)
    frames = movies.chosen_frames(movie.frames, str(linking.FRAMES.value), allow_gaps, movie.path)
    linking.check_linker()
    return _predict(movie._replace(frames=frames, every=movie.frames), output)


def _predict(movie: movies.Movie, output: Path) -> int:
    from celltrack_jax.inference import decode
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
        if not decode.gives_steps(segmenter.task.representation):
            linking.refuse_steps(
                f"{workdir} predicts none: take a run with representation.step_weight > 0, such as "
                "configs/hela/centroids.py:direction"
            )
        linker = linking.linker(segmenter.tracking, f"config.tracking ({workdir}/config.json)")
        if segmenter.task.needs_spacing and not known:
            raise InputError(
                f"the network of {workdir} was trained in µm, and {movie.path} does not say how large a voxel is: give "
                "--spacing=z,y,x"
            )
        movie = movies.in_model_axes(movie, segmenter.task.ndim, segmenter.task.channels)
        if segmenter.clips and movie.frames[-1] - movie.frames[0] >= len(movie.frames):
            print(
                f"note: {movie.path} lacks frames: the network, which sees several at a time, takes those before and "
                "behind a gap for neighbours"
            )
        settings = _settings(segmenter, movie)
        folder = output.with_name(output.name + ".segmentation")
        if processes.index == 0:
            context.enter_context(files.locked(folder, "launch.predict"))
        masks = segment(segmenter, movie, settings, folder, processes, watch)
        lineage = None
        if processes.index == 0 and not processes.asked():
            masks.wait_for(movie.frames)
            found = track.Masks(movie.frames, masks.read, movie.spacing_um, movie.spacing_known, movie.digits)
            if masks.pointed:
                found = found._replace(points=masks.read_points)
            if linking.looks_at_images():
                shape = movie.shape[1:] if movie.shape[1] > 1 else movie.shape[2:]
                found = found._replace(image=movies.images_of_masks(movie, movie.frames, shape))
            with contextlib.suppress(_StoppedError):
                stoppable = _stoppable(watch, processes)
                lineage = track.track_movie(
                    found, linker, linking.drawing(), output, movie.path, stoppable, segmenter.sisters
                )
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
        if not len(lineage.label):
            print("note: no cell was found: was the network trained on images like these?", file=sys.stderr)
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
    from celltrack_jax.inference import clips, decode
    from celltrack_jax.inference import segment as segmentation

    task = segmenter.task
    lengths = task.lengths(movie.spacing_um[-task.ndim :])
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
    # As the network sees it; in blocks it sees all channels of each frame.
    seen = movies.with_inputs(movie, task.inputs)
    if any(one.frame for one in task.inputs):
        made_by["frames"] = " ".join(map(str, movie.every or movie.frames))
    pieces = clips.single(seen)
    if segmenter.clips:
        pieces = clips.in_blocks(movie, segmenter.clips)
        # Neighbours count: other frames make other blocks.
        made_by |= {"blocks": list(segmenter.clips), "frames": " ".join(map(str, movie.frames))}
    masks = _shared_folder(folder, made_by, processes, pointed=decode.gives_points(task.representation))
    todo = {
        piece: frames
        for piece, frames in pieces.frames.items()
        if not all(masks.has(frame, pieces.changed_ns(piece)) for frame in frames)
    }
    missing = sum(map(len, todo.values()))
    if missing < len(movie.frames):
        print(f"continuing: {len(movie.frames) - missing} of {len(movie.frames)} frames are segmented")
    start = time.perf_counter()
    own = sorted(set(todo).intersection(list(pieces.frames)[processes.index :: processes.count]))
    with contextlib.closing(TileFolder(folder / TILES, pieces.changed_ns)) as kept:

        def write(piece: int, prediction: np.ndarray) -> None:
            for frame, of_frame in pieces.split(piece, prediction):
                masks.write(frame, *decode.read(task.representation, of_frame, lengths))
            kept.remove(piece)

        for _ in segmentation.segment_movie(
            pieces.read,
            watch("segmenting", own),
            segmenter.apply,
            write,
            settings=settings,
            measure=pieces.measure,
            sharding=segmenter.sharding,
            scratch=folder,
            kept=kept,
            stop=processes.asked,
        ):
            pass
    processes.meet("segmented")
    if not processes.asked():
        seconds = time.perf_counter() - start
        speed = missing * float(np.prod(movie.shape[1:])) / seconds / 1e6
        print(f"segmented {missing} frames in {seconds:.1f} s, {speed:.1f} million voxels per second")
    return masks


def _shared_folder(folder: Path, made_by: dict, processes: "Processes", *, pointed: bool) -> MaskFolder:
    """Makes the folder in the first process and opens it in the others."""
    if processes.index == 0:
        masks = MaskFolder(folder, made_by, pointed=pointed)
        processes.meet("made")
        return masks
    processes.meet("made")
    return MaskFolder(folder, made_by, made=True, pointed=pointed)


def _settings(segmenter: "Segmenter", movie: movies.Movie) -> "Settings":
    from celltrack_jax.inference.clips import over_time
    from celltrack_jax.inference.decode import gives_vectors, vector
    from celltrack_jax.inference.segment import Settings
    from celltrack_jax.inference.tiles import fit_tile
    from celltrack_jax.ops.symmetry import symmetries
    from celltrack_jax.training import mesh

    task, inference = segmenter.task, segmenter.inference
    average = str(AVERAGE.value or inference.average)
    if average not in AVERAGES:
        raise InputError(f"config.inference.average is {average!r}: give --average=<{'|'.join(AVERAGES)}>")
    if average != "none" and gives_vectors(task.representation):
        raise InputError(
            f"--average={average}: this network predicts offsets or steps, which would have to be turned with the "
            "image: give --average=none"
        )
    memory = int(float(MEMORY_GB.value or 0) * 2**30)
    size = movie.shape[1:][-task.ndim :]
    clips = segmenter.clips
    prediction = 4 * task.representation.channels * int(np.prod(size)) * (sum(clips) if clips else 1)
    processors = threads.cores()
    groups, space = (segmenter.sharding.mesh.shape[axis] for axis in (mesh.DATA, mesh.SPACE))
    stride = (task.stride[0] * space, *task.stride[1:])
    tile, voxels = size, space * int(np.prod(_tile(task.ndim) or inference.tile))
    if segmenter.whole_size:
        _refuse_parts(segmenter.whole_size)
    else:
        tile = fit_tile(size, voxels, task.halo, stride)
        if np.prod(tile) > voxels:
            print(
                f"note: tiles of {voxels} voxels hold little but the halo {task.halo} of this network: using {tile}"
            )
    settings = Settings(
        tile=tile,
        halo=task.halo,
        stride=stride,
        batch=(BATCH.value or inference.batch) * groups,
        symmetries=symmetries(flips=average != "none", rotations=average == "all"),
        threads=max(1, min(threads.MOST_THREADS, processors, memory // prediction - _HELD)),
        memory_bytes=memory // (1 + _HELD),
        vector=vector(task.representation),
    )
    return over_time(settings, clips) if clips else settings


def _refuse_parts(whole_size: tuple[int, ...]) -> None:
    flag = "tile" if TILE.value else "space" if SPACE.value != 1 else ""
    if flag:
        shape = "x".join(map(str, whole_size))
        raise InputError(
            f"--{flag}: this network was trained on whole frames resized to {shape}, and takes no parts of one: leave "
            f"--{flag} out, or use a run with data.whole_frames=False"
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
    overrides.define(sys.argv)
    cli.run(main)
