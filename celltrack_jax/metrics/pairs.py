"""How well pairs agree with the true ones: pairs of the same labels, or of points that are matched frame by frame.

Undefined measures are None.

Shapes: N reference points of a frame, M found points, D axes, P pairs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from celltrack_jax.metrics.points import match


class PairedFrame(NamedTuple):
    """Points of a frame, by the labels that pairs name."""

    ref_label: np.ndarray
    """(N,) integers, each once."""
    ref: np.ndarray
    """(N, D) positions."""
    found_label: np.ndarray
    """(M,) integers, each once."""
    found: np.ndarray
    """(M, D) positions."""


def pair_measures(true: np.ndarray, found: np.ndarray) -> dict[str, float | None]:
    """Scores pairs of the same labels.

    Args:
      true: (P, 2) integers, in any order.
      found: (P, 2) integers, in any order.

    Returns:
      pairs_precision, pairs_recall and pairs_F1.
    """
    wanted, given = _sets(true), _sets(found)
    return _scores(len(wanted & given), len(wanted), len(given))


def pair_measures_of_points(
    frames: Sequence[PairedFrame], true: np.ndarray, found: np.ndarray, radius: float
) -> dict[str, float | None]:
    """Scores pairs by the points of each frame, so that a track that is lost or swapped costs the frames it lacks.

    A pair counts in the frames in which both of its members are. It is right where these match two true sisters.

    Args:
      frames: all of them.
      true: (P, 2) labels of reference points.
      found: (P, 2) labels of found points.
      radius: of a match, at most.

    Returns:
      As `pair_measures`, over all frames together.
    """
    wanted, given = _sets(true), _sets(found)
    hit = total = said = 0
    for one in frames:
        pair = match(one.ref, one.found, radius)
        labels = zip(one.found_label[pair.found].tolist(), one.ref_label[pair.ref].tolist(), strict=True)
        name = dict(labels)
        here = [each for each in given if each <= set(one.found_label.tolist())]
        said += len(here)
        total += sum(each <= set(one.ref_label.tolist()) for each in wanted)
        hit += sum(frozenset(name.get(member) for member in each) in wanted for each in here)
    return _scores(hit, total, said)


def _sets(pairs: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(pair) for pair in np.reshape(pairs, (-1, 2)).astype(np.int64).tolist()}


def _scores(hit: int, true: int, found: int) -> dict[str, float | None]:
    return {
        "pairs_precision": hit / found if found else None,
        "pairs_recall": hit / true if true else None,
        "pairs_F1": 2 * hit / (true + found) if true + found else None,
    }
