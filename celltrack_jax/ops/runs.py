"""Label images as runs of equal pixels in row-major order. numpy only.

A run may go on over the end of a row. Shapes: R runs, Y X space.
"""

from typing import NamedTuple

import numpy as np


class Runs(NamedTuple):
    """Runs of labelled pixels."""

    label: np.ndarray
    """(R,) int64, positive."""
    start: np.ndarray
    """(R,) int64, index of the first pixel, from 0."""
    length: np.ndarray
    """(R,) int64, positive."""


def find(labels: np.ndarray) -> Runs:
    """Returns the runs of an image of labels >= 0, or of a mask, sorted by label and then by start."""
    flat = np.ascontiguousarray(labels).ravel()
    starts = np.ones(flat.size, bool)
    np.not_equal(flat[1:], flat[:-1], out=starts[1:])
    start = np.flatnonzero(starts)
    length = np.diff(start, append=flat.size)
    label = flat[start].astype(np.int64)
    kept = np.flatnonzero(label)
    order = kept[np.argsort(label[kept], kind="stable")]
    return Runs(label[order], start[order], length[order])


def draw(runs: Runs, shape: tuple[int, ...]) -> tuple[np.ndarray, int]:
    """Draws runs, later ones over earlier ones.

    Args:
      runs: in any order, within the image.
      shape: of the image.

    Returns:
      Labels of this shape, int32, and the number of pixels that were drawn over.
    """
    labels = np.zeros(int(np.prod(shape)), np.int32)
    before = np.cumsum(runs.length) - runs.length
    pixel = np.repeat(runs.start - before, runs.length) + np.arange(runs.length.sum())
    # Of equal indices the last one counts.
    labels[pixel] = np.repeat(runs.label, runs.length)
    return labels.reshape(shape), len(pixel) - int(np.count_nonzero(labels))
