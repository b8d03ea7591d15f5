"""Measures of cells found as points: one-to-one matches within a radius, and points as vertices of a lineage.

Positions and radii are in one unit, pixels or micrometres. A pair matches at exactly the radius too. Undefined
measures are None.

Shapes: N reference points, M found points, D axes, P pairs, V nodes, E edges.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from celltrack_jax.metrics.overlap import Overlap

UNMATCHED = 1000.0
"""What `helalab_cost` charges for a node without a partner."""


class Matched(NamedTuple):
    """One-to-one matches of a frame."""

    ref: np.ndarray
    """(P,) int64 index of the reference point, ascending."""
    found: np.ndarray
    """(P,) int64 index of the found point."""
    distance: np.ndarray
    """(P,) float64."""


class PointGraph(NamedTuple):
    """Points of all frames of a movie and links between them."""

    node: np.ndarray
    """(V, 3) float64: t, x (column), y (row)."""
    edge: np.ndarray
    """(E, 2) int64 indices of nodes: from, to."""


def match(ref: np.ndarray, found: np.ndarray, radius: float) -> Matched:
    """Matches points one to one: as many pairs as possible and, among those, the least sum of distances.

    What is ambiguous is assigned by the Hungarian method, each cluster of rivals for itself.

    Args:
      ref: (N, D) reference positions.
      found: (M, D) found positions.
      radius: of a pair, at most.
    """
    ref, found = np.asarray(ref, np.float64), np.asarray(found, np.float64)
    none = Matched(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    if not len(ref) or not len(found):
        return none
    near = cKDTree(ref).sparse_distance_matrix(cKDTree(found), radius, output_type="ndarray")
    pairs = Matched(near["i"].astype(np.int64), near["j"].astype(np.int64), near["v"])
    ends = pairs.ref, len(ref) + pairs.found
    graph = sparse.coo_array((np.ones(len(near)), ends), shape=(len(ref) + len(found),) * 2)
    cluster = sparse.csgraph.connected_components(graph, directed=False)[1][pairs.ref]
    order = np.argsort(cluster, kind="stable")
    chosen = [none]
    for members in np.split(order, np.flatnonzero(np.diff(cluster[order])) + 1):
        rivals = Matched(*(column[members] for column in pairs))
        chosen.append(rivals if len(members) == 1 else _assign(rivals, radius))
    joined = [np.concatenate(column) for column in zip(*chosen, strict=True)]
    return Matched(*(column[np.argsort(joined[0])] for column in joined))


def _assign(pairs: Matched, radius: float) -> Matched:
    """Chooses among the pairs of a cluster."""
    rows, row = np.unique(pairs.ref, return_inverse=True)
    columns, column = np.unique(pairs.found, return_inverse=True)
    # A match more is worth more than any sum of distances.
    gain = np.zeros((len(rows), len(columns)))
    gain[row, column] = 1 + (1 - pairs.distance / (radius or 1.0)) / (1 + min(gain.shape))
    assigned = np.zeros(gain.shape, bool)
    assigned[linear_sum_assignment(gain, maximize=True)] = True
    chosen = assigned[row, column]
    return Matched(*(one[chosen] for one in pairs))


def detection_measures(
    frames: Sequence[tuple[np.ndarray, np.ndarray]], radii: Sequence[float]
) -> dict[str, float | None]:
    """Scores the found points of frames against all the reference points there.

    Args:
      frames: (N, D) reference and (M, D) found positions of each.
      radii: of matches.

    Returns:
      precision_<r>, recall_<r> and F1_<r> over the points of all frames together and RMSE_<r>, the root of the mean
      squared distance of matches, for each radius r; count_error and count_bias: mean over frames of the absolute
      and of the signed difference of found and reference points.
    """
    counts = np.array([(len(ref), len(found)) for ref, found in frames], np.int64).reshape(-1, 2)
    measures: dict[str, float | None] = {}
    for radius in radii:
        distances = [match(ref, found, radius).distance for ref, found in frames]
        distance = np.concatenate([np.zeros(0), *distances])
        scores = _scores(len(distance), int(counts[:, 0].sum()), int(counts[:, 1].sum()))
        scores["RMSE"] = float(np.sqrt(np.mean(distance**2))) if len(distance) else None
        measures |= {f"{name}_{radius:g}": score for name, score in scores.items()}
    excess = counts[:, 1] - counts[:, 0]
    measures["count_error"] = float(np.abs(excess).mean()) if len(excess) else None
    measures["count_bias"] = float(excess.mean()) if len(excess) else None
    return measures


def inside_marker_measures(frames: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, float | None]:
    """Scores found points by the marker that contains them; the second point of a marker is a false one.

    Args:
      frames: (*S) integers, labelled markers, 0 background, and (M, ndim) found positions in pixels of each.

    Returns:
      precision, recall and F1 over all frames together.
    """
    matched = markers = points = 0
    for mask, found in frames:
        pixel = np.rint(np.asarray(found, np.float64)).astype(np.int64).reshape(-1, mask.ndim)
        inside = np.all((pixel >= 0) & (pixel < mask.shape), axis=1)
        hit = np.unique(mask[tuple(pixel[inside].T)])
        matched += int(np.count_nonzero(hit))
        markers += int(np.count_nonzero(np.unique(mask)))
        points += len(pixel)
    return _scores(matched, markers, points)


def _scores(matched: int, ref: int, found: int) -> dict[str, float | None]:
    return {
        "precision": matched / found if found else None,
        "recall": matched / ref if ref else None,
        "F1": 2 * matched / (ref + found) if ref + found else None,
    }


def point_overlap(
    frame: int,
    ref_label: np.ndarray,
    ref_position: np.ndarray,
    found_label: np.ndarray,
    found_position: np.ndarray,
    radius: float,
) -> Overlap:
    """Lets points stand for masks, so that `ctc_measures` gives AOGM, DET, TRA and LNK (not SEG).

    Points match one to one first. A reference point that is left over then joins the nearest found point within
    the radius, which so stands for several: a split (NS) corrects it, as it does a mask that covers two cells.
    Were all to join their nearest, a found point that is a little off would turn false beside another.

    Args:
      frame: kept in the result.
      ref_label: (N,) positive integers, each once.
      ref_position: (N, D).
      found_label: (M,) positive integers, each once.
      found_position: (M, D).
      radius: of a match, at most.

    Returns:
      An overlap in which a reference point is one pixel and a found one as many as it stands for, at least one.

    Raises:
      ValueError: a label comes twice or is not positive.
    """
    ref_label, ref_position = _sorted_by_label(ref_label, ref_position, "reference")
    found_label, found_position = _sorted_by_label(found_label, found_position, "found")
    matched = match(ref_position, found_position, radius)
    partner = np.full(len(ref_label), -1, np.int64)
    partner[matched.ref] = matched.found
    left = np.flatnonzero(partner < 0)
    if len(left) and len(found_label):
        distance, nearest = cKDTree(found_position).query(ref_position[left])
        partner[left] = np.where(distance <= radius, nearest, -1)
    ref = np.flatnonzero(partner >= 0)
    claims = np.bincount(partner[ref], minlength=len(found_label))
    return Overlap(
        frame=int(frame),
        ref_label=ref_label,
        ref_size=np.ones(len(ref_label), np.int64),
        comp_label=found_label,
        comp_size=np.maximum(claims, 1),
        ref=ref,
        comp=partner[ref],
        intersection=np.ones(len(ref), np.int64),
    )


def _sorted_by_label(label: np.ndarray, position: np.ndarray, whose: str) -> tuple[np.ndarray, np.ndarray]:
    label = np.asarray(label, np.int64)
    order = np.argsort(label)
    if len(label) and (label[order[0]] <= 0 or np.any(np.diff(label[order]) == 0)):
        raise ValueError(f"labels of {whose} points must be positive and come once each: {np.sort(label)}")
    return label[order], np.asarray(position, np.float64)[order]


def helalab_cost(ref: PointGraph, found: PointGraph) -> float | None:
    """The cost by which the centroid maps were first judged, there called AOGM; for comparison with their numbers.

    An assignment of all nodes that is cheapest in |t| + |x| + |y| and the distance of the rows of the adjacency
    matrices, averaged over the nodes of the larger graph, those left over at 1000 each. It tells hardly more than
    the counts of nodes (docs/originals.md, 1.6, has what it gives for results of known quality). Rows are
    compared by the indices of nodes, which mean nothing across graphs; as their entries are 0 and 1, the distance
    follows from the number of edges of each and of those in common.

    Args:
      ref: an edge leads from a node to the same cell in the frame before.
      found: likewise.
    """
    larger = max(len(ref.node), len(found.node))
    if not larger:
        return None
    a, b = (_adjacency(graph, larger) for graph in (ref, found))
    cost = -2.0 * (a @ b.T).toarray()
    cost += a.sum(axis=1)[:, None] + b.sum(axis=1)
    np.sqrt(cost, out=cost)
    cost += cdist(ref.node, found.node, "cityblock")
    left_over = larger - min(cost.shape)
    return float((cost[linear_sum_assignment(cost)].sum() + UNMATCHED * left_over) / larger)


def _adjacency(graph: PointGraph, columns: int) -> sparse.csr_array:
    """(V, columns) 0 or 1."""
    edge = np.unique(np.asarray(graph.edge, np.int64).reshape(-1, 2), axis=0)
    shape = (len(graph.node), columns)
    return sparse.csr_array((np.ones(len(edge)), (edge[:, 0], edge[:, 1])), shape=shape)
