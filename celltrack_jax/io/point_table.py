"""Points that a network found in a movie, as a table: one row per point.

    frame                           number as in the file names
    track_id                        in the frame's mask and in tracks.csv; 0 for a point that is in no track
    z_voxel y_voxel x_voxel         index, between voxels; z is 0 in 2D
    z_um y_um x_um                  index times spacing; empty where the spacing is unknown
    heat                            of the map at the point: how sure the network is
    z_step_voxel y_step_voxel x_step_voxel
    z_step_um y_step_um x_step_um   to the cell's place in the next frame; empty where the network does not predict it

Rows are sorted by frame, those of a frame by heat from the highest down. The header does not change with the data. Cells
that were missed and drawn are in tracks.csv alone. Shapes: n rows.
"""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

from celltrack_jax.io import files

_AXES = "zyx"
COLUMNS = (
    *("frame", "track_id"),
    *(f"{axis}_{unit}" for unit in ("voxel", "um") for axis in _AXES),
    "heat",
    *(f"{axis}_step_{unit}" for unit in ("voxel", "um") for axis in _AXES),
)


class PointRows(NamedTuple):
    """The points of a movie."""

    frame: np.ndarray
    """(n,) int64."""
    track: np.ndarray
    """(n,) int64."""
    position: np.ndarray
    """(n, 3) float64, voxel index z, y, x."""
    heat: np.ndarray
    """(n,) float32."""
    step: np.ndarray
    """(n, 3) float64 voxels, NaN where it is not predicted."""


def write(path: Path, rows: PointRows, spacing_um: np.ndarray | None, kept: str) -> None:
    """Writes the table; the file is there whole or as it was before.

    Args:
      path: of the CSV file.
      rows: sorted.
      spacing_um: (3,) z, y, x; None where unknown.
      kept: as of `files.explained`.

    Raises:
      InputError: it cannot be written.
    """
    scale = np.full(3, np.nan) if spacing_um is None else np.asarray(spacing_um, np.float64)
    real = np.column_stack(
        [rows.position, rows.position * scale, rows.heat, rows.step, rows.step * scale]
    ).tolist()
    whole = np.column_stack([rows.frame, rows.track]).tolist()
    with files.replacing(path, kept) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for numbers, values in zip(whole, real, strict=True):
            writer.writerow([*numbers, *("" if value != value else f"{value:.7g}" for value in values)])  # noqa: PLR0124
