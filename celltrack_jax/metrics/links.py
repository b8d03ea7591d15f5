"""How well links agree with the true ones where detections are the same: counts, and F1 of them.

Shapes: N detections.
"""

from collections.abc import Mapping, Sequence

import numpy as np

MEASURES = ("links", "divisions", "false")
"""What is counted: links, whole divisions, and detections that are no cells."""


def agreement(
    parent: np.ndarray, kept: np.ndarray, true_parent: np.ndarray, real: np.ndarray
) -> dict[str, int]:
    """Counts right, missed and wrong links, divisions and rejections.

    Args:
      parent: (N,) integers, the predecessor that was chosen for each detection, -1 for none.
      kept: (N,) bool, False for those judged to be no cells.
      true_parent: (N,) integers, the true predecessor.
      real: (N,) bool, whether it is a cell.

    Returns:
      <measure>_hit, <measure>_missed and <measure>_wrong of each of `MEASURES`. A division is right with its mother
      and all of its daughters.
    """
    linked = parent >= 0
    hit = int((linked & (parent == true_parent)).sum())
    ours, theirs = _divisions(parent), _divisions(true_parent)
    rejected = int((~kept & ~real).sum())
    counts = {
        "links": (hit, int((true_parent >= 0).sum()), int(linked.sum())),
        "divisions": (len(ours & theirs), len(theirs), len(ours)),
        "false": (rejected, int((~real).sum()), int((~kept).sum())),
    }
    row = {}
    for measure, (right, wanted, given) in counts.items():
        row |= {
            f"{measure}_hit": right,
            f"{measure}_missed": wanted - right,
            f"{measure}_wrong": given - right,
        }
    return row


def f1(rows: Sequence[Mapping[str, int]]) -> dict[str, float | None]:
    """Returns the F1 of each of `MEASURES` over all movies, whose counts are `rows`; None where nothing is to count."""
    scores: dict[str, float | None] = {}
    for measure in MEASURES:
        hit, missed, wrong = (
            sum(row[f"{measure}_{part}"] for row in rows) for part in ("hit", "missed", "wrong")
        )
        scores[measure] = 2 * hit / (2 * hit + missed + wrong) if hit + missed + wrong else None
    return scores


def _divisions(parent: np.ndarray) -> set[tuple[int, ...]]:
    """Each division as (mother, daughter, daughter)."""
    daughters: dict[int, list[int]] = {}
    for child in np.flatnonzero(parent >= 0).tolist():
        daughters.setdefault(int(parent[child]), []).append(child)
    return {(mother, *children) for mother, children in daughters.items() if len(children) > 1}
