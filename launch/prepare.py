"""Turns a data set into a store, which training reads: OME-Zarr images and labels, GEFF tracks.

    python -m launch.prepare --source=<data set folder> --store=<folder>
        [--format=ctc|dsb|bursts|kinetochores|sartorius|livecell] [--spacing=z,y,x] [--crop=z:z,y:y,x:x] [--allow_gaps]

The same command finishes a store that was interrupted.
"""

import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from celltrack_jax.data import prepare, sources, store
from launch import cli

_SOURCE = flags.DEFINE_string("source", None, "folder of the data set", required=True)
_STORE = flags.DEFINE_string("store", None, "folder of the store", required=True)
_FORMAT = flags.DEFINE_enum("format", "ctc", sorted(sources.LAYOUTS), "layout of the data set")
_SPACING = flags.DEFINE_list(
    "spacing", None, "voxel size z,y,x in micrometers (y,x in 2D); unknown if left out"
)
_CROP = flags.DEFINE_list(
    "crop", None, "z:z,y:y,x:x, first voxel and the one behind the last; all if left out"
)
_ALLOW_GAPS = flags.DEFINE_boolean(
    "allow_gaps",
    False,
    "go on where frames lack their image or their markers; tracks are not linked over them",
)
_SEQUENCES = flags.DEFINE_list("sequences", None, "sequences to take, such as 01,02; all if left out")


def main(argv: Sequence[str]) -> None:
    """Prepares, and prints one line about it."""
    del argv
    sizes = None if _SPACING.value is None else cli.spacing(_SPACING.value)
    start = time.monotonic()
    folder = Path(_STORE.value)
    # The store remembers files by the last parts of their path, so they must not depend on the working folder.
    dataset = Path(_SOURCE.value).resolve()
    found = sources.open_sources(dataset, _FORMAT.value, _SEQUENCES.value, allow_gaps=bool(_ALLOW_GAPS.value))
    crop = None if _CROP.value is None else _window(_CROP.value)
    found = found if crop is None else [sources.cropped(source, crop) for source in found]
    spacing = None if sizes is None else _spacing_zyx(sizes, found)
    if spacing is None and _FORMAT.value == "kinetochores":
        print(
            "note: HDF5 volumes do not say how large a voxel is, and these configs count in µm: give --spacing=z,y,x"
        )
    for text in (text for source in found for text in source.notes):
        _note(text)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("preparing", total=sum(len(source.files) for source in found))
        written = prepare.prepare(
            folder,
            found,
            layout=_FORMAT.value,
            origin=dataset.name,
            spacing_um=spacing,
            crop=crop,
            advance=lambda name, frames: bar.update(task, advance=frames, description=name[:12]),
            note=_note,
        )
    frames = sum(len(source.files) for source in found)
    size = sum(path.stat().st_size for path in store.files_below(folder)) / 1e6
    print(
        f"{folder}: {len(found)} sequences, {frames} frames, {written} sequences written, "
        f"store {size:.1f} MB, {time.monotonic() - start:.1f} s"
    )


def _window(words: Sequence[str]) -> list[tuple[int, int]]:
    """Reads --crop."""
    ends = [re.fullmatch(r"(\d+):(\d+)", word.strip()) for word in words]
    window = [(int(found[1]), int(found[2])) for found in ends if found]
    if len(window) != 3 or any(first >= end for first, end in window):
        raise flags.ValidationError(
            f"--crop={','.join(words)}: give three ranges z:z,y:y,x:x, as in 12:60,426:554,426:554"
        )
    return window


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def _spacing_zyx(sizes: list[float], found: list[sources.Source]) -> list[float]:
    """Returns z, y, x; reads a frame of each sequence where it matters whether that is a stack."""
    if len(sizes) == 2:
        for source in found:
            number, (path, *_) = next(iter(source.files.items()))
            cli.spacing_zyx(sizes, source.read(number).image.shape[1], path)
    return cli.spacing_zyx(sizes, 1, "")


if __name__ == "__main__":
    cli.run(main)
