"""Found points beside the true ones, for viewing: a volume of what was found, missed and false, and a table of matches.

    match<frame>.tif    uint8, as large as the image: `FOUND`, `MISSED` and `FALSE` balls
    matches.csv         one row per match, missed cell and false point, see `COLUMNS`

Shapes: *S a frame's spatial axes, D of them; N cells of a frame, M points found in it, R rows.
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from celltrack_jax.io import files
from celltrack_jax.io.tif import write_tif
from celltrack_jax.metrics.points import Matched, match
from celltrack_jax.ops.balls import draw_balls

FOUND, MISSED, FALSE = 1, 2, 3
KINDS = {FOUND: "found", MISSED: "missed", FALSE: "false"}
TABLE_NAME = "matches.csv"
COLUMNS = (
    *("frame", "kind", "label", "point"),
    *("z", "y", "x", "z_found", "y_found", "x_found"),
    *("distance", "distance_z", "distance_xy"),
)
"""frame; found, missed or false; the cell's label, and the found point's place in its frame from 0, empty where there is
none; voxel index of each; distances in the unit of the radius."""


class MatchedFrame(NamedTuple):
    """A frame whose found points are compared with its cells."""

    frame: int
    label: np.ndarray
    """(N,) integers."""
    truth: np.ndarray
    """(N, D) index."""
    found: np.ndarray
    """(M, D) index."""


def match_volume(
    truth: np.ndarray,
    found: np.ndarray,
    matched: Matched,
    shape: tuple[int, ...],
    pixel: np.ndarray,
    ball_radius: float,
) -> np.ndarray:
    """Draws cells where they truly are, and false points where they were found.

    Args:
      truth: (N, D) index.
      found: (M, D) index.
      matched: of these.
      shape: *S.
      pixel: (D,) size of a voxel.
      ball_radius: in the unit of `pixel`. Where balls meet, each voxel is of the nearest point.

    Returns:
      (*S) uint8: 0, `FOUND`, `MISSED` or `FALSE`.
    """
    kind = np.full(len(truth) + len(found), FALSE, np.uint8)
    kind[: len(truth)] = MISSED
    kind[matched.ref] = FOUND
    drawn = np.ones(len(kind), bool)
    drawn[len(truth) + matched.found] = False
    position = np.concatenate([truth, found])[drawn]
    balls = draw_balls(position, shape, np.asarray(pixel, np.float64), ball_radius)
    return np.concatenate([[0], kind[drawn]]).astype(np.uint8)[balls]


def match_rows(one: MatchedFrame, matched: Matched, pixel: np.ndarray) -> list[tuple]:
    """Returns the table's rows of a frame: matches by their cells, then missed cells, then false points."""
    pixel = np.asarray(pixel, np.float64)
    nothing = ("", "", "")
    rows: list[tuple] = []
    for i, j in zip(matched.ref.tolist(), matched.found.tolist(), strict=True):
        error = (one.found[j] - one.truth[i]) * pixel
        along, plane = abs(float(error[0])) if len(error) == 3 else 0.0, np.linalg.norm(error[-2:])
        far = (f"{value:.6g}" for value in (np.linalg.norm(error), along, plane))
        here = *_place(one.truth[i]), *_place(one.found[j])
        rows.append((one.frame, KINDS[FOUND], int(one.label[i]), j, *here, *far))
    for i in np.setdiff1d(np.arange(len(one.truth)), matched.ref).tolist():
        here = *_place(one.truth[i]), *nothing
        rows.append((one.frame, KINDS[MISSED], int(one.label[i]), "", *here, *nothing))
    for j in np.setdiff1d(np.arange(len(one.found)), matched.found).tolist():
        rows.append((one.frame, KINDS[FALSE], "", j, *nothing, *_place(one.found[j]), *nothing))
    return rows


def _place(position: np.ndarray) -> tuple[str, ...]:
    """Index z, y, x; z is 0 in 2D."""
    return tuple(f"{value:.7g}" for value in (*(0.0,) * (3 - len(position)), *position.tolist()))


def write(
    folder: Path,
    frames: Iterable[MatchedFrame],
    shape: tuple[int, ...],
    pixel: np.ndarray | Sequence[float],
    *,
    radius: float,
    ball_radius: float,
) -> None:
    """Matches the points of a movie one to one and writes the volumes and the table.

    Args:
      folder: is made; files of these names are replaced.
      frames: of the movie.
      shape: *S.
      pixel: (D,) size of a voxel in the unit of the radii.
      radius: of a match, at most.
      ball_radius: of what is drawn.

    Raises:
      InputError: a file cannot be written.
    """
    size = np.asarray(pixel, np.float64)
    kept = "then score again"
    rows = []
    for one in frames:
        matched = match(one.truth * size, one.found * size, radius)
        rows += match_rows(one, matched, size)
        volume = match_volume(one.truth, one.found, matched, shape, size, ball_radius)
        with files.replacing(folder / f"match{one.frame:03d}.tif", kept) as partial:
            write_tif(partial, volume)
    with (
        files.replacing(folder / TABLE_NAME, kept) as partial,
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
