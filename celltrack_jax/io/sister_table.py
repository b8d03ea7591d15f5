"""Tracks that belong in pairs, such as the sister kinetochores of a chromosome, as a table: one row per pair.

    track_id sister_id   as in the masks and tracks.csv, the smaller one first
    frames               in which both are seen
    distance_um          median over these
    spread_um            standard deviation of the distance over them, robust
    weight               nats for being sisters, against both being alone

Rows are sorted by track_id. The header does not change with the data. Shapes: P pairs.
"""

import csv
from pathlib import Path

import numpy as np

from celltrack_jax.io import files

NAME = "sisters.csv"
COLUMNS = ("track_id", "sister_id", "frames", "distance_um", "spread_um", "weight")


def write(path: Path, whole: np.ndarray, real: np.ndarray, kept: str) -> None:
    """Writes the table; the file is there whole or as it was before.

    Args:
      path: of the CSV file.
      whole: (P, 3) int64, the first three columns.
      real: (P, 3) float64, the others.
      kept: as of `files.explained`.

    Raises:
      InputError: it cannot be written.
    """
    with files.replacing(path, kept) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for numbers, values in zip(whole.tolist(), real.tolist(), strict=True):
            writer.writerow([*numbers, *(f"{value:.7g}" for value in values)])
