"""How points that were found are judged. numpy only.

Shapes: n cells of a frame, m points found in it, D axes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from celltrack_jax.lineage import Detections, Lineage, lineage_from_links
from celltrack_jax.metrics import ctc, localisation, points
from celltrack_jax.metrics.original_kinetochores import original_measures
from celltrack_jax.metrics.pairs import PairedFrame, pair_measures_of_points
from celltrack_jax.tasks.frames import seen
from celltrack_jax.tracking import features, links, tracks
from celltrack_jax.tracking.sisters import Sisters, sisters

LINKERS = ("hungarian", "nearest", "steps")


class PointFrame(NamedTuple):
    """One frame, judged."""

    frame: int
    truth: np.ndarray
    """(n, D) index."""
    label: np.ndarray
    """(n,) int64."""
    found: np.ndarray
    """(m, D) index."""
    step: np.ndarray | None
    """(m, D) predicted voxels to the place in the next frame."""
    pixel: np.ndarray
    """(D,) voxel size in the unit in which radii count."""
    markers: np.ndarray | None
    """(*S) labels, where cells are marked by areas."""
    lineage: Lineage | None
    """Of the sequence."""


def f1(frames: Sequence[PointFrame], radius: float) -> float:
    """F1 of all frames together."""
    pairs = [(one.truth * one.pixel, one.found * one.pixel) for one in frames]
    return points.detection_measures(pairs, (radius,))[f"F1_{radius:g}"] or 0.0


def measures(
    movies: Sequence[Sequence[PointFrame]], evaluation: Mapping[str, Any], tracking: Mapping[str, Any]
) -> dict[str, float | None]:
    """Scores movies together; measures of lineages are means over movies.

    Args:
      movies: frames of each, ascending.
      evaluation: of a config: radii, radius, localisation, density_edges, original_rules, linkers, sisters, helalab_cost.
      tracking: settings of `links.hungarian`.

    Returns:
      What `points.detection_measures` gives for all frames, and where wanted `localisation.error_measures`,
      `localisation.density_measures` within the one `radius`, and `original_measures`; marker_F1 and its kin where
      there are markers; helalab_cost; DET, TRA, LNK, AOGM, and where wanted pairs_F1 and its kin, of the Hungarian
      linker, and of others with their name as prefix.
    """
    every = [one for frames in movies for one in frames]
    pairs = [(one.truth * one.pixel, one.found * one.pixel) for one in every]
    scores: dict[str, float | None] = dict(points.detection_measures(pairs, evaluation["radii"]))
    if evaluation["localisation"]:
        scores |= localisation.error_measures(pairs, evaluation["radii"])
    if evaluation["density_edges"]:
        scores |= localisation.density_measures(pairs, (evaluation["radius"],), evaluation["density_edges"])
    if evaluation["original_rules"]:
        scores |= original_measures([(one.truth, one.found) for one in every])
    marked = [(one.markers, one.found) for one in every if one.markers is not None]
    if marked:
        inside = points.inside_marker_measures(marked)
        scores |= {f"marker_{key}": value for key, value in inside.items()}
    rows = [_lineage_measures(frames, evaluation, tracking) for frames in movies]
    for key in rows[0] if rows else ():
        values = [value for row in rows if (value := row[key]) is not None]
        scores[key] = float(np.mean(values)) if values else None
    return scores


def _lineage_measures(
    frames: Sequence[PointFrame], evaluation: Mapping[str, Any], tracking: Mapping[str, Any]
) -> dict[str, float | None]:
    scores: dict[str, float | None] = {}
    if evaluation["helalab_cost"]:
        scores["helalab_cost"] = _helalab_cost(frames)
    for name in evaluation["linkers"]:
        if name == "steps" and any(one.step is None for one in frames):
            continue
        settings = dict(tracking) | (dict(links.NEAREST) if name == "nearest" else {})
        found = _linked(frames, settings, moved=name == "steps")
        measured = _ctc(frames, *found, radius=evaluation["radius"])
        prefix = "" if name == "hungarian" else f"{name}/"
        scores |= {prefix + key: measured[key] for key in ("DET", "TRA", "LNK", "AOGM")}
        if evaluation["sisters"]:
            paired = _pairs(frames, *found[:2], Sisters(**evaluation["sisters"]), evaluation["radius"])
            scores |= {prefix + key: value for key, value in paired.items()}
    return scores


def _linked(
    frames: Sequence[PointFrame], settings: Mapping[str, Any], *, moved: bool
) -> tuple[Detections, np.ndarray, Lineage]:
    """Links the points of a movie and fills gaps: the cells, the track of each, and the tracks."""
    parts, way = [], []
    for one in frames:
        count, axes = one.found.shape
        position, step = np.zeros((count, 3)), np.zeros((count, 3))
        position[:, 3 - axes :] = one.found * one.pixel
        if moved and one.step is not None:
            step[:, 3 - axes :] = one.step * one.pixel
        label = np.arange(1, count + 1)
        parts.append(Detections(np.full(count, one.frame, np.int64), label, position, np.ones(count)))
        way.append(step)
    cells = features.joined(parts)
    parent = links.hungarian(cells, **settings, step_um=np.concatenate(way) if moved and way else None)
    whole = tracks.complete(cells, parent, [one.frame for one in frames], fill_gaps=True)
    lineage, track = lineage_from_links(whole.cells.frame, whole.parent)
    return whole.cells, track, lineage


def _ctc(
    frames: Sequence[PointFrame], cells: Detections, track: np.ndarray, lineage: Lineage, *, radius: float
) -> dict[str, Any]:
    overlaps = []
    for one in frames:
        here = np.flatnonzero(cells.frame == one.frame)
        here = here[np.argsort(track[here])]
        order = np.argsort(one.label)
        position = cells.position_um[here][:, 3 - one.truth.shape[1] :]
        truth = one.truth[order] * one.pixel
        overlaps.append(
            points.point_overlap(one.frame, one.label[order], truth, track[here], position, radius)
        )
    return ctc.ctc_measures(overlaps, seen(overlaps, frames[0].lineage), lineage, None)


def _pairs(
    frames: Sequence[PointFrame], cells: Detections, track: np.ndarray, model: Sisters, radius: float
) -> dict[str, float | None]:
    """Pairs the tracks of a movie; true sisters are the cells 2 n - 1 and 2 n, as `io.kinetochores` reads them."""
    seen_frames = []
    for one in frames:
        here = cells.frame == one.frame
        place = cells.position_um[here][:, 3 - one.truth.shape[1] :]
        seen_frames.append(PairedFrame(one.label, one.truth * one.pixel, track[here], place))
    odd = np.arange(1, max((int(one.label.max(initial=0)) for one in frames), default=0) + 1, 2)
    found = sisters(cells.frame, track, cells.position_um, model)
    return pair_measures_of_points(seen_frames, np.stack([odd, odd + 1], axis=1), found, radius)


def _helalab_cost(frames: Sequence[PointFrame]) -> float | None:
    """The original's score: truth with edges to the same cell in the frame before, points without edges."""
    truth, found, edges = [], [], []
    last: dict[int, int] = {}
    count = 0
    for one in frames:
        now = {label: count + i for i, label in enumerate(one.label.tolist())}
        edges += [(last[label], node) for label, node in now.items() if label in last]
        truth.append(np.column_stack([np.full(len(one.truth), one.frame), one.truth[:, ::-1]]))
        found.append(np.column_stack([np.full(len(one.found), one.frame), one.found[:, ::-1]]))
        last, count = now, count + len(one.label)
    if not frames or not count:
        return None
    return points.helalab_cost(
        points.PointGraph(np.concatenate(truth), np.array(edges, np.int64).reshape(-1, 2)),
        points.PointGraph(np.concatenate(found), np.zeros((0, 2), np.int64)),
    )
