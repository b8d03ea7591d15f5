"""Acyclic oriented graph matching: what it takes to turn the computed lineage into the reference.

Matula et al. 2015, Cell tracking accuracy measurement based on comparison of acyclic oriented graphs. Vertices are
cells in frames. Edges are track links (a label from one frame to the next) and parent links (from the last frame
of a parent to the first frame of a child; frames may lie between them).

A link to an only child is a parent link, as in the official software: where the reference continues the track, its
semantics are wrong (EC). traccuracy 0.4.3 calls an edge a parent link only where a cell has several children, and
so counts otherwise in both directions.

Shapes: V reference vertices, W computed vertices, E edges.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from celltrack_jax.lineage import Lineage
from celltrack_jax.metrics.matching import Matching, Vertices, find_tracks, match_frames
from celltrack_jax.metrics.overlap import Overlap

WEIGHTS = {"NS": 5.0, "FN": 10.0, "FP": 1.0, "ED": 1.0, "EA": 1.5, "EC": 1.0}
"""Cost of an operation in the Cell Tracking Challenge: split a vertex, add one, delete one; delete an edge, add
one, change its semantics."""

TITLES = {
    "NS": "Splitting Operations (Penalty=5)",
    "FN": "False Negative Vertices (Penalty=10)",
    "FP": "False Positive Vertices (Penalty=1)",
    "ED": "Redundant Edges To Be Deleted (Penalty=1)",
    "EA": "Edges To Be Added (Penalty=1.5)",
    "EC": "Edges with Wrong Semantics (Penalty=1)",
}
"""Headings of the official log."""


class Operation(NamedTuple):
    """One correction. Its text is the line of the official log."""

    kind: str
    """NS, FN, FP, ED, EA or EC."""
    frame: tuple[int, ...]
    """The vertex's frame, or the frames of the edge's two ends."""
    label: tuple[int, ...]
    """Labels in the same order: of the reference for FN and EA, else of the result."""

    def __str__(self) -> str:
        name = "GT_label" if self.kind in ("FN", "EA") else "Label"
        ends = [f"T={frame} {name}={label}" for frame, label in zip(self.frame, self.label, strict=True)]
        return ends[0] if len(ends) == 1 else " -> ".join(f"[{end}]" for end in ends)


class Edges(NamedTuple):
    """Links of a lineage between vertices that exist, sorted by label and frame of their targets."""

    source: np.ndarray
    """(E,) int64, vertex."""
    target: np.ndarray
    """(E,) int64, vertex."""
    parent: np.ndarray
    """(E,) bool, whether it is a parent link."""


class Corrections(NamedTuple):
    """Vertices and edges that the operations of each kind touch, as indices of vertices."""

    NS: np.ndarray
    """(n,) computed vertices, each once less than it covers reference vertices."""
    FN: np.ndarray
    """(n,) reference vertices."""
    FP: np.ndarray
    """(n,) computed vertices."""
    ED: np.ndarray
    """(n, 2) ends in the result."""
    EA: np.ndarray
    """(n, 2) ends in the reference."""
    EC: np.ndarray
    """(n, 2) ends in the result."""

    def counts(self) -> dict[str, int]:
        """Returns the number of operations of each kind."""
        return {kind: len(places) for kind, places in zip(self._fields, self, strict=True)}


def aogm_operations(
    overlaps: Sequence[Overlap], truth: Lineage | None, result: Lineage | None
) -> list[Operation]:
    """Lists every correction in the order of the official log.

    That is by kind, vertices by (frame, label), edges by (label, frame) of their targets.

    Args:
      overlaps: one per frame with tracking truth.
      truth: the reference tracks; without both lineages only vertices are compared.
      result: the computed tracks.
    """
    matching = match_frames(overlaps)
    corrections = correct_vertices(matching)
    if truth is not None and result is not None:
        truth_edges = edges(matching.ref, truth)
        corrections = correct_edges(corrections, matching, truth_edges, edges(matching.comp, result))
    operations = []
    for kind, places in zip(corrections._fields, corrections, strict=True):
        vertices = matching.ref if kind in ("FN", "EA") else matching.comp
        ends = places if places.ndim == 2 else places[:, None]
        for frame, label in zip(vertices.frame[ends].tolist(), vertices.label[ends].tolist(), strict=True):
            operations.append(Operation(kind, tuple(frame), tuple(label)))
    return operations


def correct_vertices(matching: Matching) -> Corrections:
    """Finds NS, FN and FP; a vertex that covers m reference vertices needs m - 1 splits."""
    covered = matching.covered
    none = np.zeros((0, 2), np.int64)
    return Corrections(
        NS=np.repeat(np.arange(len(covered)), np.maximum(covered - 1, 0)),
        FN=np.flatnonzero(matching.match < 0),
        FP=np.flatnonzero(covered == 0),
        ED=none,
        EA=none,
        EC=none,
    )


def correct_edges(corrections: Corrections, matching: Matching, truth: Edges, result: Edges) -> Corrections:
    """Adds ED, EA and EC: only edges between vertices that cover one reference vertex each can be right."""
    count = len(matching.match)
    partner = np.full(len(matching.covered), -1, np.int64)
    partner[matching.match[matching.alone]] = np.flatnonzero(matching.alone)

    ends = np.stack([partner[result.source], partner[result.target]], axis=-1)
    seen = np.flatnonzero((ends >= 0).all(axis=-1))
    result_key = ends[seen, 0] * count + ends[seen, 1]
    truth_key = truth.source * count + truth.target
    order = np.argsort(truth_key)
    place = np.searchsorted(truth_key[order], result_key)
    here = np.append(order, -1)[place]
    exists = np.append(truth_key, -1)[here] == result_key
    wrong = exists & (np.append(truth.parent, False)[here] != result.parent[seen])

    result_ends = np.stack([result.source, result.target], axis=-1)
    truth_ends = np.stack([truth.source, truth.target], axis=-1)
    return corrections._replace(
        ED=result_ends[seen[~exists]],
        EA=truth_ends[~np.isin(truth_key, result_key)],
        EC=result_ends[seen[wrong]],
    )


def edges(vertices: Vertices, lineage: Lineage) -> Edges:
    """Finds the links between the vertices of a lineage.

    Track links join the vertices of a label in consecutive frame numbers, so frames that are missing on disk break
    them. A parent link whose ends are not among the vertices is left out.
    """
    order = np.lexsort((vertices.frame, vertices.label))
    source, target = order[:-1], order[1:]
    same = vertices.label[source] == vertices.label[target]
    follows = same & (vertices.frame[target] == vertices.frame[source] + 1)

    parent = find_tracks(lineage, lineage.parent)
    child = np.flatnonzero((lineage.parent > 0) & (parent >= 0))
    parent = parent[child]
    parent_end = vertices.find(lineage.end[parent], lineage.label[parent])
    child_begin = vertices.find(lineage.begin[child], lineage.label[child])
    exists = (parent_end >= 0) & (child_begin >= 0)

    source = np.concatenate([source[follows], parent_end[exists]])
    target = np.concatenate([target[follows], child_begin[exists]])
    is_parent = np.repeat([False, True], [follows.sum(), exists.sum()])
    order = np.lexsort((vertices.frame[target], vertices.label[target]))
    return Edges(source[order], target[order], is_parent[order])


def score(counts: dict[str, int], vertices: int, links: int, kinds: Sequence[str]) -> float | None:
    """Returns 1 - min(AOGM, AOGM_0) / AOGM_0 over some kinds of operations, None where AOGM_0 is 0.

    Args:
      counts: operations of each kind.
      vertices: number of reference vertices.
      links: number of reference edges.
      kinds: all six give TRA; NS, FN, FP give DET; ED, EA, EC give LNK.
    """
    cost = sum(WEIGHTS[kind] * counts[kind] for kind in kinds)
    empty = WEIGHTS["FN"] * vertices * ("FN" in kinds) + WEIGHTS["EA"] * links * ("EA" in kinds)
    return None if empty == 0 else 1 - min(cost, empty) / empty
