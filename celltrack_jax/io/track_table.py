"""Tracks as a table for spreadsheets, pandas and R: one row per cell and frame.

    frame                number as in the file names
    track_id             id in the frame's mask
    parent_track_id      of the mother, 0 for none
    root_track_id        of the first ancestor, the track itself where it has no mother
    generation           divisions, or breaks over missing frames, since the root; 0 for the root
    z_um y_um x_um       centroid: voxel index times spacing, which is 1 where it is unknown
    z_voxel y_voxel x_voxel
    area_or_volume_um    µm² in 2D, µm³ in 3D
    filled               1 where the cell was missed and drawn between its places before and after, else 0
    mean_intensity       of the image in the cell; empty where it was not measured, and where the cell was filled
    link_probability     that a trained linker gave the link to the cell before, over the whole gap where that was
                         filled; empty where there is no link, or another linker

Rows are sorted by frame and track. The header does not change with the data. Shapes: n rows, K tracks.
"""

import csv
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from celltrack_jax.io import files
from celltrack_jax.lineage import Detections, Lineage

COLUMNS = (
    "frame", "track_id", "parent_track_id", "root_track_id", "generation", "z_um", "y_um", "x_um", "z_voxel",
    "y_voxel", "x_voxel", "area_or_volume_um", "filled", "mean_intensity", "link_probability",
)  # fmt: skip
_CHUNK = 1 << 16
"""Rows that are texts at a time."""


class TrackedCells(NamedTuple):
    """The cells of a result, sorted by frame and track."""

    cells: Detections
    """n, with the track as label."""
    filled: np.ndarray
    """(n,) bool."""
    mean_intensity: np.ndarray
    """(n,) float32, NaN where unknown."""
    link_probability: np.ndarray
    """(n,) float32, NaN where unknown."""


def write(path: Path, tracked: TrackedCells, lineage: Lineage, spacing_um: np.ndarray, kept: str) -> None:
    """Writes the table; the file is there whole or as it was before.

    Args:
      path: of the CSV file.
      tracked: the rows.
      lineage: that has all their tracks.
      spacing_um: (3,) z, y, x.
      kept: as of `files.explained`.

    Raises:
      InputError: it cannot be written.
    """
    frame, track, position, size = tracked.cells
    place = np.searchsorted(lineage.label, track)
    root, generation = families(lineage)
    whole = [frame, track, lineage.parent[place], root[place], generation[place]]
    real = [*position.T, *(position / spacing_um).T, size]
    partly_known = [tracked.mean_intensity, tracked.link_probability]
    with files.replacing(path, kept) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for start in range(0, len(frame), _CHUNK):
            rows = slice(start, start + _CHUNK)
            texts = [column[rows].tolist() for column in whole]
            texts += [_texts(column[rows], "%.9g") for column in real]
            texts.append(tracked.filled[rows].astype(int).tolist())
            texts += [_texts(column[rows], "%.7g") for column in partly_known]
            writer.writerows(zip(*texts, strict=True))


def families(lineage: Lineage) -> tuple[np.ndarray, np.ndarray]:
    """Finds the first ancestor of each track.

    Args:
      lineage: in which parents end before their daughters begin.

    Returns:
      (K,) int64 labels of the roots, and (K,) int64 steps from there.
    """
    index = {label: i for i, label in enumerate(lineage.label.tolist())}
    root, generation = lineage.label.copy(), np.zeros(len(lineage.label), np.int64)
    for i in np.argsort(lineage.begin, kind="stable").tolist():
        mother = index.get(int(lineage.parent[i]))
        if mother is not None:
            root[i], generation[i] = root[mother], generation[mother] + 1
    return root, generation


def _texts(values: np.ndarray, style: str) -> list[str]:
    return ["" if math.isnan(value) else style % value for value in values.tolist()]
