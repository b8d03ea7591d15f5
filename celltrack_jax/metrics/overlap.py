"""How the labels of two masks of one frame overlap: the only look that the measures take at pixels.

Shapes: R reference objects, S computed objects, P overlapping pairs, M runs of equal pixels.
"""

from typing import NamedTuple

import numpy as np

from celltrack_jax.errors import InputError

MAX_TABLE = 1 << 22
"""Largest table of (reference, computed) pairs that is counted densely; above it the pairs are sorted."""


class Overlap(NamedTuple):
    """Sizes and intersections, in pixels, of the objects of one frame. All arrays are int64."""

    frame: int
    ref_label: np.ndarray
    """(R,) ascending, without the background 0."""
    ref_size: np.ndarray
    """(R,)"""
    comp_label: np.ndarray
    """(S,) ascending, without the background 0."""
    comp_size: np.ndarray
    """(S,)"""
    ref: np.ndarray
    """(P,) index into ref_label of each pair that shares a pixel; pairs are sorted by (ref, comp)."""
    comp: np.ndarray
    """(P,) index into comp_label."""
    intersection: np.ndarray
    """(P,) pixels shared."""


def overlap(ref: np.ndarray, comp: np.ndarray, frame: int) -> Overlap:
    """Counts the pixels of every reference object, every computed object and every pair of them.

    Labels come in runs along the last axis, so that the counting is done on runs instead of pixels: 1.1 ms for
    1024 x 1024 uint16 pixels with 300 cells on one core, where a bincount over foreground pixels took 2.4 ms.
    The passes over pixels release the GIL, so frames may be counted in threads.

    Args:
      ref: (*S) integers, reference labels, 0 background.
      comp: (*S) integers, computed labels, of the same shape; the dtypes may differ.
      frame: kept in the result.

    Raises:
      InputError: the shapes differ, or a label is negative or not an integer.
    """
    ref, comp = np.asarray(ref), np.asarray(comp)
    if ref.shape != comp.shape:
        raise InputError(
            f"frame {frame}: the reference mask has shape {ref.shape} but the result's mask {comp.shape}: "
            "write the result at the size of the images"
        )
    start = _run_starts(ref.ravel(), comp.ravel())
    length = np.diff(start, append=ref.size)
    ref_label, ref_index = _compact(ref.ravel()[start], frame)
    comp_label, comp_index = _compact(comp.ravel()[start], frame)
    pair, pixels = _count(ref_index * len(comp_label) + comp_index, length, len(ref_label) * len(comp_label))
    pair_ref, pair_comp = np.divmod(pair, len(comp_label)) if len(pair) else (pair, pair)

    # Index 0 is the background in both.
    inside = (pair_ref > 0) & (pair_comp > 0)
    return Overlap(
        frame=int(frame),
        ref_label=ref_label[1:],
        ref_size=_sum_at(pair_ref, pixels, len(ref_label))[1:],
        comp_label=comp_label[1:],
        comp_size=_sum_at(pair_comp, pixels, len(comp_label))[1:],
        ref=pair_ref[inside] - 1,
        comp=pair_comp[inside] - 1,
        intersection=pixels[inside],
    )


def _run_starts(ref: np.ndarray, comp: np.ndarray) -> np.ndarray:
    """Returns (M,) the pixels at which either mask changes; runs may continue over the end of a row."""
    if ref.size == 0:
        return np.zeros(0, np.int64)
    changes = np.empty(ref.size, bool)
    changes[0] = True
    np.not_equal(ref[1:], ref[:-1], out=changes[1:])
    changes[1:] |= comp[1:] != comp[:-1]
    return np.flatnonzero(changes)


def _compact(labels: np.ndarray, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distinct labels, 0 always first, and (M,) the index of each run's label among them."""
    if labels.dtype.kind not in "iub":
        raise InputError(f"frame {frame}: a mask has dtype {labels.dtype}: labels are integers")
    labels = labels.astype(np.int64)
    if len(labels) and labels.min() < 0:
        raise InputError(f"frame {frame}: a mask has the negative label {labels.min()}: use 0 for background")
    highest = int(labels.max(initial=0))
    if highest < MAX_TABLE:
        present = np.zeros(highest + 1, bool)
        present[labels] = True
        present[0] = True
        distinct = np.flatnonzero(present)
        lookup = np.empty(highest + 1, np.int64)
        lookup[distinct] = np.arange(len(distinct))
        return distinct, lookup[labels]
    distinct = np.unique(np.append(labels, 0))
    return distinct, np.searchsorted(distinct, labels)


def _count(code: np.ndarray, length: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distinct codes, ascending, and the summed length of each."""
    if size < MAX_TABLE:
        total = _sum_at(code, length, size)
        distinct = np.flatnonzero(total)
        return distinct, total[distinct]
    distinct, index = np.unique(code, return_inverse=True)
    return distinct, _sum_at(index, length, len(distinct))


def _sum_at(index: np.ndarray, count: np.ndarray, size: int) -> np.ndarray:
    # bincount adds in float64, which is exact below 2**53 pixels.
    return np.bincount(index, weights=count, minlength=size).astype(np.int64)


def matches(overlap: Overlap) -> np.ndarray:
    """Returns (R,) int64: the computed object that covers more than half of each reference object, or -1.

    Exactly half is no match (Matula et al. 2015, eq. 1), so that there is at most one; a computed object may be
    the match of several.
    """
    match = np.full(len(overlap.ref_label), -1, np.int64)
    covers = 2 * overlap.intersection > overlap.ref_size[overlap.ref]
    match[overlap.ref[covers]] = overlap.comp[covers]
    return match


def jaccard(overlap: Overlap) -> np.ndarray:
    """Returns (P,) float64: intersection over union of each pair."""
    union = overlap.ref_size[overlap.ref] + overlap.comp_size[overlap.comp] - overlap.intersection
    return overlap.intersection / union
