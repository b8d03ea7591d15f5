"""Collections of single images of one cell type each as sequences: one per type, whose frames are the images.

Shapes: Y X space.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from celltrack_jax.data.sources.pixels import read_image
from celltrack_jax.data.sources.source import Frame, Source
from celltrack_jax.errors import InputError

OVERWRITTEN = "pixels lie in several annotated cells and are given to the last one"
HIDDEN = "annotated cells lie below later ones as a whole and are left out"
EMPTY = "annotated cells have no pixel and are left out"


class Cells(NamedTuple):
    """The cells of an image."""

    labels: np.ndarray
    """(Y, X) integers."""
    odd: dict[str, int]
    """As of `Frame.odd`."""


class Item(NamedTuple):
    """An image of a collection."""

    name: str
    path: Path
    sequence: str
    """It belongs to, if it is of the sequence's shape."""
    category: str | None
    shape: tuple[int, int]
    """Y, X that the table gives."""
    paint: Callable[[], Cells] | None
    """Returns the cells; None where the image is not annotated."""


def sequences(items: Iterable[Item]) -> dict[str, list[Item]]:
    """Sorts images into sequences of one shape; those of rarer shapes go to "<sequence>_<height>x<width>".

    Raises:
      InputError: a sequence's name could not be that of a folder.
    """
    items = sorted(items, key=lambda item: item.name)
    shapes: dict[str, Counter] = {}
    for item in items:
        if not re.fullmatch(r"\w[\w.+-]*", item.sequence):
            raise InputError(
                f"image {item.name} is of the cell type {item.sequence!r}, which cannot name a folder: use letters, "
                "digits, - and _"
            )
        shapes.setdefault(item.sequence, Counter())[item.shape] += 1
    found: dict[str, list[Item]] = {}
    for item in items:
        usual = max(shapes[item.sequence].items(), key=lambda pair: (pair[1], pair[0]))[0]
        size = "" if item.shape == usual else f"_{item.shape[0]}x{item.shape[1]}"
        found.setdefault(item.sequence + size, []).append(item)
    return dict(sorted(found.items()))


def painted(labels: np.ndarray, *, cells: int, overwritten: int, empty: int) -> Cells:
    """Counts what is odd about painted cells, of which there were so many, some of them without a pixel."""
    left = len(np.unique(labels[labels > 0]))
    odd = {OVERWRITTEN: overwritten, HIDDEN: cells - empty - left, EMPTY: empty}
    return Cells(labels, {what: count for what, count in odd.items() if count})


def open_collection(name: str, items: Sequence[Item], tables: Sequence[Path], notes: Sequence[str]) -> Source:
    """Makes a sequence of images, numbered in the order of their names.

    Args:
      name: of the sequence.
      items: its images.
      tables: files that hold their annotation.
      notes: for the user.
    """
    annotated = [item for item in items if item.paint is not None]

    def read(frame: int) -> Frame:
        item = items[frame]
        image = read_image(item.path, frame)
        if image.shape[1:] != (1, *item.shape):
            raise InputError(
                f"{item.path} (frame {frame}) has {' x '.join(map(str, image.shape[-2:]))} pixels, its annotation is for "
                f"{item.shape[0]} x {item.shape[1]}: correct width and height in {tables[0]}, or copy the image again"
            )
        if item.paint is None:
            return Frame(image, {}, None)
        cells = item.paint()
        return Frame(image, {"segmentation": cells.labels[None]}, None, odd=cells.odd)

    return Source(
        name=name,
        files={frame: (item.path,) for frame, item in enumerate(items)},
        tracks_file=None,
        lineage=None,
        kinds=("segmentation",) if annotated else (),
        complete=True,
        read=read,
        notes=tuple(notes),
        tables=tuple(tables) if annotated else (),
        category=items[0].category,
        frame_names=tuple(item.name for item in items),
    )


def listed(names: Sequence[str], most: int = 3) -> str:
    """Returns the first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def by_category(lacking: Mapping[str, str | None], what: str) -> dict[str | None, str]:
    """Returns a note for each category of these names."""
    names: dict[str | None, list[str]] = {}
    for name, category in sorted(lacking.items()):
        names.setdefault(category, []).append(name)
    return {category: f"{listed(found)}: {what}" for category, found in names.items()}
