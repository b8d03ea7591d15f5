"""Label maps of single images, each with what is known of it and of its cells, and the table of all cells.

    <name>.tif     (Y, X) 16 bit, 32 bit where there are more than 65,535 cells; the description is JSON: how it was
                   made (made_by), and of its cells 1..n what is known (cells)
    cells.csv      a row per cell: image, id, area in pixels, and what else is known of each, such as score and class

Shapes: Y X space, n cells of an image.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile

from celltrack_jax.errors import InputError
from celltrack_jax.io import files
from celltrack_jax.io.tif import read_tif

TABLE = "cells.csv"
_MARK = "celltrack_jax"
_KEPT = "then run the same command again to continue with what was done, or change --output"


class LabelMap(NamedTuple):
    """The cells of an image."""

    labels: np.ndarray
    """(Y, X) unsigned integers, 1..n, 0 background."""
    cells: dict[str, list]
    """Columns of n entries."""
    facts: dict[str, Any]
    """What is known of the image."""


def write(
    path: Path, labels: np.ndarray, made_by: str, cells: Mapping[str, Sequence], facts: Mapping[str, Any]
) -> None:
    """Writes a label map that is there whole or not at all.

    Args:
      path: of the file.
      labels: (Y, X) integers, 1..n, 0 background.
      made_by: that `made_by` gives back.
      cells: columns of n entries, which JSON can hold.
      facts: of the image, which JSON can hold.

    Raises:
      InputError: it cannot be written.
    """
    dtype = np.uint16 if labels.max(initial=0) < 2**16 else np.uint32
    told = {"program": _MARK, "made_by": made_by, **facts, "cells": {k: list(v) for k, v in cells.items()}}
    with files.replacing(path, _KEPT) as partial:
        tifffile.imwrite(
            partial,
            labels.astype(dtype),
            compression="zlib",
            photometric="minisblack",
            metadata=None,
            description=json.dumps(told),
        )


def made_by(path: Path) -> str | None:
    """Returns how a label map was made, None where there is no file.

    Raises:
      InputError: the file is not one that `write` wrote.
    """
    try:
        return str(_told(path)["made_by"])
    except FileNotFoundError:
        return None


def read(path: Path) -> LabelMap:
    """Reads a label map; errors as of `made_by` and `read_tif`."""
    labels, told = read_tif(path), _told(path)
    cells = told.pop("cells")
    return LabelMap(labels, cells, told)


def _told(path: Path) -> dict[str, Any]:
    try:
        with tifffile.TiffFile(path) as tif:
            told = json.loads(tif.pages[0].aspage().description)
        if told["program"] == _MARK:
            return told
    except FileNotFoundError:
        raise
    except Exception:  # what is no tif, or a damaged one, makes the reader raise anything
        pass
    raise InputError(
        f"{path} is not a label map that this command wrote: move it, or give another folder as --output"
    )


def write_table(path: Path, maps: Iterable[tuple[str, LabelMap]]) -> tuple[int, int]:
    """Writes the table of all cells.

    Args:
      path: of the file.
      maps: label maps by the image's name, all with the same columns.

    Returns:
      How many images and cells it has.

    Raises:
      InputError: it cannot be written.
    """
    text, columns, images, count = io.StringIO(), None, 0, 0
    writer = csv.writer(text, lineterminator="\n")
    for name, one in maps:
        if columns is None:
            columns = list(one.cells)
            writer.writerow(["image", "id", "area", *columns])
        area = np.bincount(one.labels.reshape(-1), minlength=1)[1:].tolist()
        known = zip(*(one.cells[column] for column in columns), strict=True) if columns else [()] * len(area)
        writer.writerows(
            (name, k, pixels, *row) for k, (pixels, row) in enumerate(zip(area, known, strict=True), 1)
        )
        images, count = images + 1, count + len(area)
    files.replace_text(path, text.getvalue(), _KEPT)
    return images, count
