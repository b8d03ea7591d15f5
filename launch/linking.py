"""Flags that launch.predict and launch.track share, and what they mean."""

import functools
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from absl import flags

from celltrack_jax.errors import InputError
from celltrack_jax.inference import track
from celltrack_jax.lineage import Lineage
from celltrack_jax.tracking import links
from launch import cli

_Item = TypeVar("_Item")
HUNGARIAN, NEAREST, STEPS = "hungarian", "nearest", "steps"
ASSIGNMENTS = (HUNGARIAN, NEAREST, STEPS)
LINKER = flags.DEFINE_string(
    "linker",
    HUNGARIAN,
    "hungarian; nearest: the same without divisions and gaps; steps: from where the segmenter expects each cell to go; "
    "or work folder of a launch.train run that links",
)
IMAGES = flags.DEFINE_string(
    "images",
    None,
    "folder of t*.tif, of a folder of HDF5 volumes per channel, or an OME-Zarr image; or of single images, where the run "
    "segments such",
)
OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "result folder (01_RES): masks, res_track.txt, tracks.geff, tracks.csv; of images: label maps, cells.csv",
)
FRAMES = flags.DEFINE_string("frames", "", "frame numbers first:end, without the end; empty: all")
ALLOW_GAPS = flags.DEFINE_boolean("allow_gaps", False, "go on where frame numbers are missing")
SPACING = flags.DEFINE_list(
    "spacing", None, "voxel size in µm, z,y,x (y,x in 2D); default: what the images say, else 1"
)
FILL_GAPS = flags.DEFINE_boolean(
    "fill_gaps", True, "draw a cell in the frames in which it was missed; else its track ends there"
)
MIN_LENGTH = flags.DEFINE_integer(
    "min_length", 1, "leave out tracks of fewer frames that have neither parent nor daughters", lower_bound=1
)
MAX_GAP = flags.DEFINE_integer("max_gap", None, "frames in which a cell may be missed", lower_bound=0)
MAX_DISTANCE = flags.DEFINE_float(
    "max_distance", None, "a cell's farthest step between two frames, in cell diameters", lower_bound=0
)
DIVISION_DISTANCE = flags.DEFINE_float(
    "division_distance",
    None,
    "a daughter's farthest distance from its mother, in cell diameters",
    lower_bound=0,
)
DIAMETER = flags.DEFINE_float("diameter", None, "a cell's diameter in µm; default: measured", lower_bound=0)


def check_linker() -> None:
    """Refuses a linker that does not exist.

    Raises:
      InputError: there is no such linker, or it takes no such flags.
    """
    if LINKER.value in ASSIGNMENTS:
        refused = [flag.name for flag in (MAX_GAP, DIVISION_DISTANCE) if flag.present]
        if LINKER.value == NEAREST and refused:
            raise flags.ValidationError(
                f"--{refused[0]} goes with --linker=hungarian: the nearest one links over no gaps and has no divisions"
            )
        return
    if not (Path(str(LINKER.value)) / "config.json").is_file():
        raise InputError(
            f"no linker {LINKER.value!r}: give --linker=hungarian, nearest or steps, or the --workdir of a run of "
            "configs/ctc/link.py"
        )
    given = [flag.name for flag in (MAX_GAP, MAX_DISTANCE, DIVISION_DISTANCE, DIAMETER) if flag.present]
    if given:
        raise flags.ValidationError(
            f"--{given[0]} goes with --linker=hungarian: a trained one has learned it"
        )


def refuse_steps(reason: str) -> None:
    """Refuses --linker=steps where nothing predicts them.

    Raises:
      InputError: with the reason, if it was given.
    """
    if LINKER.value == STEPS:
        raise InputError(f"--linker=steps links from where each cell's predicted step leads; {reason}")


def looks_at_images() -> bool:
    """Returns whether the linker can use images."""
    return LINKER.value not in ASSIGNMENTS


def linker(settings: Mapping[str, Any], where: str) -> track.Linker:
    """Returns the linker that --linker names.

    Args:
      settings: all of them, as `links.HUNGARIAN`; flags that were given go first.
      where: they come from, which the error names.

    Raises:
      InputError: there is no such linker, or its settings are others.
    """
    check_linker()
    if LINKER.value not in ASSIGNMENTS:
        from launch import linkers  # assignment does without jax

        return linkers.restore(Path(str(LINKER.value)))
    if set(settings) != set(links.HUNGARIAN):
        raise InputError(
            f"{where} has {', '.join(sorted(settings)) or 'nothing'}; the linker takes "
            f"{', '.join(sorted(links.HUNGARIAN))}: correct it there"
        )
    given = {
        "max_gap": MAX_GAP.value,
        "max_distance": MAX_DISTANCE.value,
        "division_distance": DIVISION_DISTANCE.value,
        "diameter_um": DIAMETER.value,
    }
    chosen = dict(settings) | {name: value for name, value in given.items() if value is not None}
    chosen |= links.NEAREST if LINKER.value == NEAREST else {}
    return track.by_assignment(functools.partial(links.hungarian, **chosen), steps=LINKER.value == STEPS)


def drawing() -> track.Drawing:
    """Returns how links become tracks."""
    return track.Drawing(fill_gaps=bool(FILL_GAPS.value), min_length=int(MIN_LENGTH.value or 1))


def spacing(own: np.ndarray, known: bool, planes: int, movie: Path) -> tuple[np.ndarray, bool]:
    """Returns (3,) voxel sizes and whether they are physical; says so where a stack has to be taken as cubes.

    Args:
      own: what the images say.
      known: whether they say it.
      planes: Z of the movie, 1 in 2D.
      movie: that messages name.

    Raises:
      InputError: --spacing is something else, or lacks the z of a stack.
    """
    if SPACING.value is not None:
        return np.array(cli.spacing_zyx(cli.spacing(SPACING.value), planes, movie)), True
    if planes > 1 and not known:
        print(f"note: {movie} does not say its voxel size: taken as cubes; give --spacing=z,y,x")
    return own, known


def check_output(output: Path, source: Path) -> None:
    """Refuses an output folder that would mix with what is read.

    Raises:
      InputError: it is the source, or holds images.
    """
    if output.resolve() == source.resolve() or any(output.glob("t[0-9]*.tif")):
        raise InputError(f"--output={output} holds the input: give a folder of its own, such as 01_RES")
    if output.exists() and not output.is_dir():
        raise InputError(f"--output={output} is a file: give a folder, such as 01_RES")


def watch(what: str, frames: Iterable[_Item]) -> Iterator[_Item]:
    """Yields frames, or names of images, and shows progress on a terminal; quiet in a log."""
    if not sys.stderr.isatty():
        yield from frames
        return
    from rich.console import Console
    from rich.progress import track as progress

    numbers = list(frames)
    yield from progress(numbers, f"{what:12s}", console=Console(stderr=True), transient=True)


def summary(output: Path, frames: int, lineage: Lineage) -> str:
    """Says in one line what was written."""
    cells = int((lineage.end - lineage.begin + 1).sum())
    mothers, daughters = np.unique(lineage.parent[lineage.parent > 0], return_counts=True)
    divisions = int((daughters > 1).sum()) if len(mothers) else 0
    return f"{output}: {frames} frames, {cells} cells, {len(lineage.label)} tracks, {divisions} divisions"
