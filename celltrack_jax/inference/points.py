"""Points that a network found, between pixels: beside the masks in which they are drawn, for linkers and for users.

Shapes: n points of a frame, D spatial axes, N detections of a movie.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from celltrack_jax.io import point_table
from celltrack_jax.tracking import features
from celltrack_jax.tracking.cells import Cells

TABLE_NAME = "points.csv"


class Points(NamedTuple):
    """The points of a frame; in its mask the one at place k is the cell k + 1, unless others cover it."""

    position: np.ndarray
    """(n, D) float32, index."""
    heat: np.ndarray
    """(n,) float32, descending."""
    step: np.ndarray | None
    """(n, D) float32 voxels to the cell's place in the next frame, None where it is not predicted."""


def save(path: Path, points: Points) -> None:
    """Writes the points of a frame to an .npz file."""
    known = {name: part for name, part in points._asdict().items() if part is not None}
    with path.open("wb") as file:
        np.savez(file, **known)


def load(path: Path) -> Points:
    """Reads what `save` wrote."""
    with np.load(path) as file:
        return Points(file["position"], file["heat"], file.get("step"))


def placed(cells: Cells, read: Callable[[int], Points]) -> tuple[Cells, np.ndarray | None]:
    """Puts each cell where its point is, and says where it is expected to go.

    Args:
      cells: measured in masks of points, with their labels.
      read: frame number -> its points.

    Returns:
      The cells, as large as they were drawn, and their steps (N, 3) float64 in µm, None where none is predicted.
    """
    position = cells.detections.position_um.copy()
    way = np.zeros_like(position)
    stepped = False
    for frame, rows in features.frame_slices(cells.detections.frame).items():
        points = read(frame)
        place = cells.detections.label[rows] - 1
        first = 3 - points.position.shape[1]
        scale = cells.spacing_um[first:]
        position[rows, first:] = points.position[place] * scale
        if points.step is not None:
            stepped = True
            way[rows, first:] = points.step[place] * scale
    moved = cells._replace(detections=cells.detections._replace(position_um=position))
    return moved, way if stepped else None


def table(
    frames: Iterable[int], read: Callable[[int], Points], track_of: dict[tuple[int, int], int]
) -> point_table.PointRows:
    """Lists the points of a movie.

    Args:
      frames: their numbers, ascending.
      read: frame number -> its points.
      track_of: (frame, label in its mask) -> track; others have none.
    """
    parts = [point_table.PointRows(*(np.zeros((0, 3)[:axes]) for axes in (1, 1, 2, 1, 2)))]
    for frame in frames:
        points = read(frame)
        count, axes = points.position.shape
        position, step = np.zeros((count, 3)), np.full((count, 3), np.nan)
        position[:, 3 - axes :] = points.position
        if points.step is not None:
            step[:, : 3 - axes], step[:, 3 - axes :] = 0, points.step
        track = np.array([track_of.get((frame, k + 1), 0) for k in range(count)], np.int64)
        parts.append(
            point_table.PointRows(np.full(count, frame, np.int64), track, position, points.heat, step)
        )
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    frame, track, position, heat, step = columns
    return point_table.PointRows(frame.astype(np.int64), track.astype(np.int64), position, heat, step)
