"""Measures of embeddings: whether the nearest neighbours of a cell, by cosine similarity, are of its class.

Every member of a class asks in turn, and all other embeddings are ranked. A class of one member has nothing to find: it
does not ask, but is found by others. A measure is the mean over classes of each class's mean, None where no class has
two members. What ties is ranked arbitrarily.

Shapes: N embeddings, K channels, Q of them that ask together.
"""

from collections.abc import Iterator

import numpy as np

_BLOCK = 2**23
"""Similarities at a time: 100 MB with their ranking."""


def map_at_r(embeddings: np.ndarray, classes: np.ndarray) -> float | None:
    """Mean average precision at R (Musgrave et al. 2020, arXiv:2003.08505).

    A query's average precision is the mean over ranks k = 1..R of P(k), the share of its class among the first k, or 0
    where rank k is of another class; R is the number of other members of its class.

    Args:
      embeddings: (N, K) floats, of any norm but 0.
      classes: (N,) ints.

    Raises:
      ValueError: an embedding is not finite, or zero.
    """
    _, of, sizes = np.unique(classes, return_inverse=True, return_counts=True)
    others = sizes[of] - 1
    # Classes of one size together: the ranks that a block needs are those of its largest class.
    queries = np.flatnonzero(others)
    queries = queries[np.argsort(others[queries], kind="stable")]
    precision = np.zeros(len(of))
    for rows, apart in _distances(embeddings, queries):
        ranks = np.arange(1, others[rows].max() + 1)
        nearest = _nearest(apart, len(ranks))
        found = (of[nearest] == of[rows, None]) & (ranks <= others[rows, None])
        precision[rows] = (found * np.cumsum(found, 1) / ranks).sum(1) / others[rows]
    return _mean_over_classes(precision[queries], of[queries])


def precision_at_1(embeddings: np.ndarray, classes: np.ndarray) -> float | None:
    """Share of queries whose nearest neighbour is of their class; arguments and errors as of `map_at_r`."""
    _, of, sizes = np.unique(classes, return_inverse=True, return_counts=True)
    queries = np.flatnonzero(sizes[of] > 1)
    found = np.zeros(len(of))
    for rows, apart in _distances(embeddings, queries):
        found[rows] = of[apart.argmin(1)] == of[rows]
    return _mean_over_classes(found[queries], of[queries])


def _distances(embeddings: np.ndarray, queries: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields (Q,) queries and (Q, N) minus their similarities to all embeddings, infinite to themselves."""
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(norms)} embeddings are zero or not finite, the first is {bad[0]}"
        )
    units = (embeddings / norms).astype(np.float32)
    for start in range(0, len(queries), max(1, _BLOCK // max(1, len(units)))):
        rows = queries[start : start + max(1, _BLOCK // len(units))]
        apart = -units[rows] @ units.T
        apart[np.arange(len(rows)), rows] = np.inf
        yield rows, apart


def _nearest(apart: np.ndarray, count: int) -> np.ndarray:
    """(Q, count) indices of the smallest of (Q, N), ascending."""
    nearest = np.argpartition(apart, count - 1, axis=1)[:, :count]
    order = np.argsort(np.take_along_axis(apart, nearest, 1), 1)
    return np.take_along_axis(nearest, order, 1)


def _mean_over_classes(values: np.ndarray, of: np.ndarray) -> float | None:
    if len(values) == 0:
        return None
    _, of, sizes = np.unique(of, return_inverse=True, return_counts=True)
    return float(np.mean(np.bincount(of, values) / sizes))
