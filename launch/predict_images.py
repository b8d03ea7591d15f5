"""The part of launch.predict that segments folders of single images, by runs of tasks that learn from such.

    <output>/<name>.tif     a label map of each image, under its name; celltrack_jax/io/label_maps.py describes it
    <output>/cells.csv      a row per cell: image, id, area, and score and class where the network tells them
    --submission=<file>     a row per cell as the Sartorius competition wants it: id, predicted (run lengths)

A label map that is there, whole and newer than its image is not made again. Names such as t000.tif stay what they are,
so that label maps of a movie's frames are tracked by launch.track --masks=<output>.
"""

import contextlib
import functools
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from celltrack_jax.errors import InputError
from celltrack_jax.io import files, label_maps, sartorius
from launch import cli, linking, overrides

if TYPE_CHECKING:  # a bad --images or --output is reported without waiting for jax to load
    from celltrack_jax.inference.images import LabelFolder
    from celltrack_jax.ops.diameters import SizeModel
    from launch.processes import Processes
    from launch.segmenter import ImageSegmenter

TASKS = ("images", "mask_rcnn")
"""Whose runs segment single images (`tasks.ImageSegmentationTask`)."""
SUBMISSION = flags.DEFINE_string(
    "submission",
    None,
    "of images: csv file with a row of run lengths per cell, as the Sartorius competition has it",
)
DIAMETER_PX = flags.DEFINE_float(
    "diameter_px",
    None,
    "of images: diameter of their cells in pixels; default: what the run's size model says of each, or else the median "
    "of the images that it was trained on",
    lower_bound=1.0,
)
_DIAMETERS = "evaluation.diameters"
"""Of a config: where the diameter of cells is from, if --config.<this>=<source> says so."""
_MOVIE_FLAGS = (
    *(linking.LINKER, linking.FRAMES, linking.ALLOW_GAPS, linking.SPACING, linking.FILL_GAPS),
    *(linking.MIN_LENGTH, linking.MAX_GAP, linking.MAX_DISTANCE, linking.DIVISION_DISTANCE, linking.DIAMETER),
)


def takes(workdir: Path) -> bool:
    """Returns whether a run segments single images; also where there is no such run, which is said later."""
    try:
        return json.loads((workdir / "config.json").read_text()).get("task") in TASKS
    except (OSError, ValueError, AttributeError):
        return False


def refuse_image_flags(workdir: Path) -> None:
    """Refuses flags that a run which segments movies would ignore.

    Raises:
      flags.ValidationError: naming the first of them.
    """
    for flag in (SUBMISSION, DIAMETER_PX):
        if flag.present:
            raise flags.ValidationError(
                f"--{flag.name} goes with runs that segment single images (tasks {' and '.join(TASKS)}), and {workdir} "
                "segments movies"
            )


def main(workdir: Path, which: str, movie_flags: Sequence[flags.FlagHolder]) -> int:
    """Segments a folder of images; the exit status.

    Args:
      workdir: of the run.
      which: checkpoint.
      movie_flags: of launch.predict, beside those of linking, that say nothing of images.

    Raises:
      flags.ValidationError: one of them is given, or flags exclude each other.
    """
    for flag in (*_MOVIE_FLAGS, *movie_flags):
        if flag.present:
            raise flags.ValidationError(
                f"--{flag.name} goes with runs that segment movies, and {workdir} segments single images; to track what "
                "it finds, give its --output to launch.track --masks"
            )
    if DIAMETER_PX.value is not None and _source():
        raise flags.ValidationError(f"--diameter_px and --config.{_DIAMETERS} exclude each other: give one")
    from celltrack_jax.inference import images as collection

    images, output = Path(str(linking.IMAGES.value)), Path(str(linking.OUTPUT.value))
    found, others = collection.find(images)
    if output.resolve() == images.resolve():
        raise InputError(f"--output={output} holds the images: give a folder of its own")
    if output.exists() and not output.is_dir():
        raise InputError(f"--output={output} is a file: give a folder for the label maps")
    with contextlib.ExitStack() as context:
        from launch import segmenter as segmenters
        from launch.processes import Processes

        processes = context.enter_context(Processes())
        if processes.index > 0:
            nowhere = context.enter_context(Path(os.devnull).open("w"))
            context.enter_context(contextlib.redirect_stdout(nowhere))
        if others:
            print(f"note: neither PNG nor TIFF, left out: {_listed(others)}")
        segmenter = segmenters.restore_for_images(workdir, which)
        diameter = _diameter(segmenter, workdir)
        if processes.index == 0:
            context.enter_context(files.locked(output, "launch.predict"))
        folder = collection.LabelFolder(output, found, _made_by(segmenter, diameter))
        _segment(segmenter, diameter, folder, processes)
        if processes.index == 0 and not processes.asked():
            _write_tables(folder, output)
            processes.finish()
        processes.meet("written")
        if not processes.finished():
            print("stopped; the same command continues")
            return cli.STOPPED
    return 0


def _diameter(segmenter: "ImageSegmenter", workdir: Path) -> "float | SizeModel | None":
    """Chooses where the diameter of cells is from, and says so."""
    from celltrack_jax.training import size_models

    given, source, step = DIAMETER_PX.value, _source(), segmenter.step
    if not segmenter.task.diameter_px:
        if given is not None or source:
            word = f"--config.{_DIAMETERS}={source}" if source else f"--diameter_px={given:g}"
            raise InputError(f"{word}: the network of {workdir} sees images as they are: leave it out")
        return None
    if source == "known":
        raise InputError(
            f"--config.{_DIAMETERS}=known: nothing says how large the cells of {linking.IMAGES.value} are: give "
            "--diameter_px=<pixels>, or leave it out"
        )
    if given is not None:
        print(f"diameter of cells: {given:g} pixels, as given")
        return float(given)
    sizes = None if source == "median" else size_models.load(workdir, step)
    if sizes is not None:
        print(f"diameter of cells: what the size model of step {step} says of each image")
        return sizes
    if source == "size model":
        raise InputError(
            f"--config.{_DIAMETERS}=size model: there is no size model of step {step} in {workdir}: run launch.train's "
            "command again, which fits those of the best and the latest step, or give --diameter_px=<pixels>"
        )
    median = _median(workdir)
    why = "as asked for" if source else f"step {step} has no size model"
    print(f"diameter of cells: {median:.1f} pixels, the median of the images it was trained on ({why})")
    return median


def _source() -> str:
    """Where the diameter of cells is to be from, "" where that is not said."""
    return overrides.given().get(_DIAMETERS, "")


def _median(workdir: Path) -> float:
    """Diameter of the cells of the images that a run was trained on, pixels."""
    from celltrack_jax.training import checkpoint

    median = (checkpoint.load_facts(workdir) or {}).get("median_diameter_px")
    if median is None:
        raise InputError(
            f"{workdir} knows no diameter of cells: give --diameter_px, or run launch.train's command again, which notes "
            "it"
        )
    return float(median)


def _made_by(segmenter: "ImageSegmenter", diameter: "float | SizeModel | None") -> str:
    """Returns what tells label maps apart that were made otherwise."""
    sizes = diameter
    if isinstance(diameter, tuple):
        sizes = [np.asarray(part).tolist() for part in diameter]
    told = json.dumps({**segmenter.identity, "diameter": sizes}, sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def _segment(
    segmenter: "ImageSegmenter",
    diameter: "float | SizeModel | None",
    folder: "LabelFolder",
    processes: "Processes",
) -> None:
    """Segments this process's images that have no label map yet, until told to stop."""
    from celltrack_jax import tasks
    from celltrack_jax.inference import images as collection

    task, most_px = segmenter.task, collection.WHOLE_PX
    wrap = lambda apply: apply  # noqa: E731
    if isinstance(task, tasks.SegmentationTask):
        wrap, most_px = functools.partial(collection.in_parts, halo=task.halo, stride=task.stride), None
    reader = task.image_reader(segmenter.model, segmenter.variables, diameter, wrap)
    if len(folder.missing) < len(folder):
        print(f"continuing: {len(folder) - len(folder.missing)} of {len(folder)} images are done")

    def until(names: Iterable[str]) -> Iterator[str]:
        for name in names:
            if processes.asked():
                return
            yield name

    own = folder.missing[processes.index :: processes.count]
    watch = linking.watch if processes.index == 0 else lambda what, names: names
    done = collection.segment(
        folder,
        until(watch("segmenting", own)),
        reader,
        channels=task.channels,
        classes=task.classes,
        most_px=most_px,
    )
    for _ in done:
        pass
    processes.meet("segmented")


def _write_tables(folder: "LabelFolder", output: Path) -> None:
    """Writes what is said of all images together."""
    paths = [folder.path(name) for name in folder]
    if not files.wait_until(lambda: all(path.is_file() for path in paths)):
        raise InputError(
            f"{output} lacks label maps that another process wrote: give an --output that all hosts share"
        )
    lost: dict[str, int] = {}

    def noted() -> Iterator[tuple[str, label_maps.LabelMap]]:
        for name, one in folder.maps():
            lost[name] = int(one.facts["lost"])
            yield name, one

    images, cells = label_maps.write_table(output / label_maps.TABLE, noted())
    if any(lost.values()):
        worst = max(lost, key=lambda name: lost[name])
        print(
            f"note: {sum(lost.values())} detections were more than detection.count has room for, those with the lowest "
            f"scores, {lost[worst]} of them in {worst}: cut such images into parts"
        )
    if SUBMISSION.value:
        sartorius.write_submission(Path(SUBMISSION.value), folder)
    print(f"{output}: {images} images, {cells} cells" + (f"; {SUBMISSION.value}" if SUBMISSION.value else ""))
    if not cells:
        print("note: no cell was found: was the network trained on images like these?", file=sys.stderr)


def _listed(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
