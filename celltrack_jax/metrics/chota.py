"""CHOTA, the cell-specific higher order tracking accuracy.

Kaiser et al. 2024, CHOTA: a higher order accuracy metric for cell tracking (arXiv 2408.11571). Detections are matched
once, by the detection test of the challenge, without a sweep over thresholds.

Shapes: K tracks, P pairs of a reference and a computed track that share a cell.
"""

import numpy as np
from scipy import sparse

from celltrack_jax.errors import InputError
from celltrack_jax.lineage import Lineage
from celltrack_jax.metrics.matching import Matching, find_tracks

MAX_ENTRIES = 1 << 24
"""Entries of sparse matrices held at once while associations are summed, about 200 MB."""


def chota(matching: Matching, truth: Lineage, result: Lineage) -> float | None:
    """Returns sqrt(sum over matched vertices of their association / (TP + FP + FN)), None where nothing exists.

    The association of a matched vertex is TPA / (TPA + FPA + FNA) of the vertices of the clique of its
    reference track and those of the clique of its computed track, where a clique is a track with all its
    ancestors and descendants. (The paper first makes a track and its only child one track; as both have the
    same clique, that changes nothing.)

    Raises:
      InputError: a track is its own ancestor.
    """
    ref_clique, comp_clique = _cliques(truth, "reference"), _cliques(result, "result")
    ref, comp = find_tracks(truth, matching.ref.label), find_tracks(result, matching.comp.label)
    found = matching.match >= 0
    total = len(ref) + int((matching.covered == 0).sum())
    if total == 0:
        return None

    pair, vertices = np.unique(
        ref[found] * comp_clique.shape[0] + comp[matching.match[found]], return_counts=True
    )
    i, j = np.divmod(pair, comp_clique.shape[0])
    shared = sparse.csr_array((vertices, (i, j)), shape=(ref_clique.shape[0], comp_clique.shape[0]))
    ref_total = ref_clique @ np.bincount(ref, minlength=ref_clique.shape[0])
    # A computed vertex counts once for each reference vertex that it is the match of, or once as a false positive.
    weight = np.maximum(matching.covered, 1)
    comp_total = comp_clique @ np.bincount(comp, weights=weight, minlength=comp_clique.shape[0])
    both = _sum_over_cliques(sparse.csr_array(ref_clique @ shared), comp_clique, i, j)
    association = both / (ref_total[i] + comp_total[j] - both)
    return float(np.sqrt((vertices * association).sum() / total))


def _cliques(lineage: Lineage, whose: str) -> sparse.csr_array:
    """Returns the (K, K) int64 0/1 matrix of which tracks are the same, ancestor or descendant."""
    count = len(lineage.label)
    parent = np.where(lineage.parent > 0, find_tracks(lineage, lineage.parent), -1)
    rows, columns = [np.arange(count)], [np.arange(count)]
    track, ancestor = np.arange(count), parent
    generations = 0
    while len(track):
        track, ancestor = track[ancestor >= 0], ancestor[ancestor >= 0]
        rows += [track, ancestor]
        columns += [ancestor, track]
        ancestor = parent[ancestor]
        generations += 1
        if generations > count:
            raise InputError(
                f"the {whose} track file has a track that is its own ancestor: correct its parents"
            )
    row, column = np.concatenate(rows), np.concatenate(columns)
    return sparse.csr_array((np.ones(len(row), np.int64), (row, column)), shape=(count, count))


def _sum_over_cliques(
    left: sparse.csr_array, right: sparse.csr_array, i: np.ndarray, j: np.ndarray
) -> np.ndarray:
    """Returns (P,) the products of row i of the left matrix and row j of the right one, in bounded memory."""
    entries = np.diff(left.indptr)[i] + np.diff(right.indptr)[j]
    block = np.cumsum(entries) // MAX_ENTRIES
    sums = [np.zeros(0)]
    for places in np.split(np.arange(len(i)), np.flatnonzero(np.diff(block)) + 1):
        product = left[i[places]].multiply(right[j[places]])
        sums.append(np.asarray(product.sum(axis=1), np.float64).ravel())
    return np.concatenate(sums)
