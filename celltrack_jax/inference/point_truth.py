"""Scores of a result against boxes or centres of mass: cells are points, matched within a radius. numpy only.

Shapes: N cells of the result, D axes: 2 for boxes, 3 for centres.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from celltrack_jax.data.sources import unbranched
from celltrack_jax.errors import InputError
from celltrack_jax.inference import match_volumes
from celltrack_jax.inference.ctc_scores import Scores
from celltrack_jax.inference.points import TABLE_NAME
from celltrack_jax.io import ctc, points, threads
from celltrack_jax.io.ctc_masks import present_labels
from celltrack_jax.io.ctc_rules import Mask, Problem, check_result
from celltrack_jax.io.kinetochores import read_centres
from celltrack_jax.lineage import Detections
from celltrack_jax.metrics import localisation, original_kinetochores
from celltrack_jax.metrics import points as point_metrics
from celltrack_jax.metrics.ctc import ctc_measures
from celltrack_jax.tracking import features

_MOST_NODES = 5000
"""Cells of a movie for which helalab_cost is computed: a dense assignment of all to all."""


def score_points(
    truth: Path,
    result: Path,
    radii: Sequence[float],
    radius: float,
    *,
    spacing: np.ndarray | None = None,
    matches: Path | None = None,
) -> Scores:
    """Validates and scores a result folder.

    Args:
      truth: a table of boxes, see `io.points`, or with a spacing of centres of mass, see `io.kinetochores`.
      result: a _RES folder with its track file. Cells lie where its points.csv says, else at their masks' centroids.
      radii: of precision, recall and F1, in pixels, or in µm where there is a spacing.
      radius: of what the lineage is matched by, likewise.
      spacing: (3,) µm along z, y, x; None for pixels of boxes.
      matches: folder for images and a table of what matches within `radius`, see `match_volumes`.

    Returns:
      Scores whose measures are those of `detection_measures`, and DET, TRA, LNK, AOGM with its counts; of boxes also
      helalab_cost (without edges in the result; None beyond `_MOST_NODES`), of centres `localisation.error_measures`
      and `original_measures`.

    Raises:
      InputError: a file cannot be read, or the result lacks a frame of the truth.
    """
    masks, lineage = ctc.read_result(result)
    if not masks or lineage is None:
        raise InputError(
            f"{result} has no {'res_track.txt' if masks else 'mask000.tif'}: give a folder that launch.predict wrote"
        )
    shape = ctc.read_image(next(iter(masks.values()))).shape
    if len(shape) != (2 if spacing is None else 3):
        planes = (
            "stacks: boxes are of single planes"
            if spacing is None
            else "single planes: centres lie in stacks"
        )
        raise InputError(f"{result} holds {planes}; give --truth=<..._GT> with masks")
    cells, notes = points.read_mot(truth, shape) if spacing is None else read_centres(truth, shape)
    pixel = np.ones(2) if spacing is None else spacing
    found, problems = _cells(result, masks)
    if problems:
        return Scores({}, problems, notes)
    missing = sorted(set(cells.frame.tolist()) - set(masks))
    if missing:
        raise InputError(
            f"{result} lacks frame {missing[0]} and {len(missing) - 1} more that {truth} has cells in: predict them too"
        )
    empty = sorted(set(masks) - set(cells.frame.tolist()))
    if spacing is not None and empty:
        shown = f"{', '.join(map(str, empty[:5]))}{', ...' if len(empty) > 5 else ''}"
        notes.append(f"{truth} has no row of frames {shown}: all that is found there counts as wrong")
    frames, overlaps, compared = [], [], []
    for frame in masks:
        true, here = cells.frame == frame, found.frame == frame
        at, where = (each[:, -len(shape) :] for each in (cells.position[true], found.position_um[here]))
        frames.append((at * pixel, where * pixel))
        compared.append(match_volumes.MatchedFrame(frame, cells.label[true], at, where))
        overlaps.append(
            point_metrics.point_overlap(
                frame, cells.label[true], at * pixel, found.label[here], where * pixel, radius
            )
        )
    if matches is not None:
        match_volumes.write(matches, compared, shape, pixel, radius=radius, ball_radius=radius / 2)
    measures = point_metrics.detection_measures(frames, radii)
    if spacing is not None:
        measures |= localisation.error_measures(frames, radii)
        measures |= original_kinetochores.original_measures([(one.truth, one.found) for one in compared])
    else:
        measures |= _helalab(cells, found, notes)
    scored = ctc_measures(overlaps, unbranched(cells.label, cells.frame), lineage, None)
    chosen = ("DET", "TRA", "LNK", "AOGM", *(key for key in scored if key.startswith("AOGM_")))
    return Scores({**measures, **{key: scored[key] for key in chosen}}, [], notes)


def _helalab(cells: points.PointTable, found: Detections, notes: list[str]) -> dict[str, float | None]:
    measures: dict[str, float | None] = {"helalab_cost": None}
    if max(len(cells.frame), len(found.frame)) <= _MOST_NODES:
        measures["helalab_cost"] = point_metrics.helalab_cost(_graph(cells), _nodes(found))
    else:
        notes.append(
            f"helalab_cost is left out: it assigns all cells of a movie at once, at most {_MOST_NODES}"
        )
    return measures


def _cells(result: Path, masks: dict[int, Path]) -> tuple[Detections, list[Problem]]:
    """Cells of a result by (frame, track), in pixels, sub-pixel where points.csv knows them; and breaches of rules."""
    seen: list[Mask] = []

    def read(frame: int) -> tuple[int, np.ndarray]:
        image = ctc.read_image(masks[frame])
        seen.append(Mask(masks[frame], frame, None, image.shape, image.dtype, present_labels(image)))
        return frame, image

    found = features.detections_from_masks(threads.mapped(read, masks), np.ones(3))
    problems = check_result(result, masks, sorted(seen, key=lambda mask: mask.frame), set(masks), None)
    if problems:
        return found, problems
    table = result / TABLE_NAME
    if not table.is_file():
        return found, []
    names = {key: k for k, key in enumerate(zip(found.frame.tolist(), found.label.tolist(), strict=True))}
    position = found.position_um.copy()
    try:
        with table.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                place = names.get((int(row["frame"]), int(row["track_id"])))
                if place is not None:
                    position[place] = [float(row[f"{axis}_voxel"]) for axis in "zyx"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"cannot read {table} ({error}): predict again, or delete it to score the masks"
        ) from error
    return found._replace(position_um=position), []


def _graph(cells: points.PointTable) -> point_metrics.PointGraph:
    """The truth as the original's graph: t, x, y, and edges to the same cell in the frame before."""
    names = {key: k for k, key in enumerate(zip(cells.frame.tolist(), cells.label.tolist(), strict=True))}
    edges = [
        (names[frame - 1, label], node)
        for (frame, label), node in names.items()
        if (frame - 1, label) in names
    ]
    node = np.column_stack([cells.frame, cells.position[:, 2], cells.position[:, 1]])
    return point_metrics.PointGraph(node, np.array(edges, np.int64).reshape(-1, 2))


def _nodes(found: Detections) -> point_metrics.PointGraph:
    node = np.column_stack([found.frame, found.position_um[:, 2], found.position_um[:, 1]])
    return point_metrics.PointGraph(node, np.zeros((0, 2), np.int64))
