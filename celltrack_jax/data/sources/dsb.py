"""Data Science Bowl 2018: images/<id>.tif, masks/<id>.tif, index.csv with a column id; all cells outlined."""

import csv
from collections.abc import Callable
from pathlib import Path

from celltrack_jax.data.sources.pixels import read_image, read_masks
from celltrack_jax.data.sources.source import Frame, Source
from celltrack_jax.errors import InputError


def find(dataset: Path, allow_gaps: bool) -> tuple[list[str], Callable[[str], Source]]:
    """Lists the images, each of which is a sequence."""
    del allow_gaps  # a single image has none
    index = dataset / "index.csv"
    try:
        with index.open(newline="") as file:
            names = [row["id"] for row in csv.DictReader(file)]
    except FileNotFoundError:
        raise InputError(f"{index} does not exist: it lists the images in a column id") from None
    except (KeyError, ValueError) as error:
        raise InputError(f"{index} has no column id: it lists the images, <id>.tif, there") from error
    return sorted(set(names)), lambda name: _open(dataset, name)


def _open(dataset: Path, name: str) -> Source:
    image, mask = (dataset / folder / f"{name}.tif" for folder in ("images", "masks"))

    def read(frame: int) -> Frame:
        pixels = read_image(image, frame)
        return Frame(pixels, {"segmentation": read_masks([(None, mask)], frame, pixels.shape[1:])}, None)

    return Source(name, {0: (image, mask)}, None, None, ("segmentation",), True, read)
