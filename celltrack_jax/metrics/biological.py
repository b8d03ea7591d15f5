"""Biologically inspired measures of the Cell Tracking Challenge: CT, TF, BC(i), CCA.

Ulman et al. 2017, An objective comparison of cell-tracking algorithms, as implemented in py-ctcmetrics 1.3.3.
All of them take a reference cell as found only where its match covers no other reference cell
(`Matching.assigned`).

Shapes: V reference vertices, K tracks, D divisions.
"""

from typing import NamedTuple

import numpy as np

from celltrack_jax.lineage import Lineage
from celltrack_jax.metrics.matching import Matching, Vertices, find_tracks

TOLERANCES = (0, 1, 2, 3)
"""Frames by which a division may be early or late: the i of BC(i)."""


class Divisions(NamedTuple):
    """Tracks with two or more children."""

    label: np.ndarray
    """(D,) int64 ascending."""
    end: np.ndarray
    """(D,) int64, last frame of the parent."""
    children: list[np.ndarray]
    """Of each, rows of the children in the lineage."""


def complete_tracks(matching: Matching, truth: Lineage, result: Lineage) -> float | None:
    """CT: F1 of reference tracks that one computed track of the same begin and end follows all the way."""
    if len(truth.label) + len(result.label) == 0:
        return None
    order = np.argsort(matching.ref.label, kind="stable")
    label, first = np.unique(matching.ref.label[order], return_index=True)
    complete = 0
    if len(label):
        assigned = matching.assigned[order]
        lowest, highest = np.minimum.reduceat(assigned, first), np.maximum.reduceat(assigned, first)
        followed = (lowest == highest) & (lowest > 0)
        track, follower = find_tracks(truth, label[followed]), find_tracks(result, lowest[followed])
        same = (truth.begin[track] == result.begin[follower]) & (truth.end[track] == result.end[follower])
        complete = int(same.sum())
    return 2 * complete / (len(truth.label) + len(result.label))


def track_fractions(matching: Matching, truth: Lineage) -> float | None:
    """TF: mean over detected reference tracks of the longest part that one computed track follows in one go.

    Where reference frames are missing, the remaining ones count as consecutive. As in the challenge's code, a
    computed track that follows a whole reference track does not count for the reference tracks of greater
    labels, so that TF depends on the order of the reference labels.
    """
    if len(truth.label) == 0:
        return None
    order = np.argsort(matching.ref.label, kind="stable")
    label, assigned = matching.ref.label[order], matching.assigned[order]
    # Stretches of frames with one reference label and one computed label.
    changes = (label[1:] != label[:-1]) | (assigned[1:] != assigned[:-1])
    start = np.flatnonzero(np.append(len(label) > 0, changes)[: len(label)])
    length = np.diff(start, append=len(label))
    found = assigned[start] > 0
    follower, track, length = assigned[start][found], find_tracks(truth, label[start][found]), length[found]
    fraction = length / np.bincount(find_tracks(truth, label), minlength=len(truth.label))[track]

    names, index = np.unique(follower, return_inverse=True)
    last = np.full(len(names), len(truth.label), np.int64)
    np.minimum.at(last, index[fraction == 1], track[fraction == 1])
    counts = track <= last[index]
    best = np.zeros(len(truth.label))
    np.maximum.at(best, track[counts], fraction[counts])
    return float(best[best > 0].mean()) if best.any() else 0.0


def divisions(lineage: Lineage) -> Divisions:
    """Finds the divisions of a lineage."""
    order = np.argsort(lineage.parent, kind="stable")
    label, first, count = np.unique(lineage.parent[order], return_index=True, return_counts=True)
    row = find_tracks(lineage, label)
    splits = np.flatnonzero((label > 0) & (count > 1) & (row >= 0))
    return Divisions(
        label=label[splits],
        end=lineage.end[row[splits]],
        children=[order[first[split] : first[split] + count[split]] for split in splits],
    )


def branching_correctness(matching: Matching, truth: Lineage, result: Lineage) -> list[float | None]:
    """BC(i) for each tolerance: F1 of divisions, None where the reference has none.

    A division is found where both parents end, and all children begin, within i frames of each other, parents
    match in the last frame that both have and each child matches a child of its own in the first frame that
    both have.
    """
    ref, comp = divisions(truth), divisions(result)
    if len(ref.label) == 0:
        return [None] * len(TOLERANCES)
    assigned = matching.assigned
    gaps = [
        _children_gap(matching.ref, assigned, truth, result, ref.children[i], comp.children[j], abs(gap))
        for i, j, gap in _parent_pairs(matching, assigned, ref, comp)
    ]
    total = len(ref.label) + len(comp.label)
    return [2 * sum(tolerance in found for found in gaps) / total for tolerance in TOLERANCES]


def _parent_pairs(
    matching: Matching, assigned: np.ndarray, ref: Divisions, comp: Divisions
) -> list[tuple[int, int, int]]:
    """Lists (reference division, computed division, frames between them) whose parents match."""
    parents = np.flatnonzero(np.isin(matching.ref.label, ref.label) & np.isin(assigned, comp.label))
    i = np.searchsorted(ref.label, matching.ref.label[parents])
    j = np.searchsorted(comp.label, assigned[parents])
    last = matching.ref.frame[parents] == np.minimum(ref.end[i], comp.end[j])
    gap = comp.end[j] - ref.end[i]
    near = last & (np.abs(gap) <= max(TOLERANCES))
    return list(zip(i[near].tolist(), j[near].tolist(), gap[near].tolist(), strict=True))


def _children_gap(
    vertices: Vertices,
    assigned: np.ndarray,
    truth: Lineage,
    result: Lineage,
    ref: np.ndarray,
    comp: np.ndarray,
    parent_gap: int,
) -> set[int]:
    """Returns the tolerances at which the children of two matched parents match one to one."""
    if len(ref) != len(comp):
        return set()
    begin = np.maximum(truth.begin[ref][:, None], result.begin[comp][None, :])
    place = vertices.find(begin, np.broadcast_to(truth.label[ref][:, None], begin.shape))
    matched = (place >= 0) & (assigned[place] == result.label[comp])
    gap = np.abs(truth.begin[ref][:, None] - result.begin[comp][None, :])
    found = set()
    for tolerance in TOLERANCES:
        pairs = matched & (gap <= tolerance)
        partners = set(pairs.argmax(axis=1).tolist())
        if tolerance >= parent_gap and pairs.any(axis=1).all() and len(partners) == len(ref):
            found.add(tolerance)
    return found


def cell_cycle_accuracy(truth: Lineage, result: Lineage) -> float | None:
    """CCA: 1 - the largest distance between the distributions of cell-cycle lengths.

    Cycles are tracks that begin and end with a division. None where the reference has no cycle, 0 where only the
    result has none.
    """
    ref, comp = np.sort(_cycle_lengths(truth)), np.sort(_cycle_lengths(result))
    if len(ref) == 0:
        return None
    if len(comp) == 0:
        return 0.0
    length = np.concatenate([ref, comp])
    below = [np.searchsorted(cycles, length, side="right") / len(cycles) for cycles in (ref, comp)]
    return float(1 - np.abs(below[0] - below[1]).max())


def _cycle_lengths(lineage: Lineage) -> np.ndarray:
    parents = divisions(lineage).label
    cycles = np.isin(lineage.label, parents) & np.isin(lineage.parent, parents)
    return (lineage.end - lineage.begin)[cycles]
