"""Measures of the cells in label masks. Shapes: N detections, Z Y X space."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from celltrack_jax.lineage import Detections

_Frame = TypeVar("_Frame", bound=tuple[Any, ...])
BLOCK = 1 << 22
"""Voxels measured at a time, which bounds the memory for a large volume."""


def detections_from_masks(frames: Iterable[tuple[int, np.ndarray]], spacing: np.ndarray) -> Detections:
    """Measures every cell of a movie; one mask is in memory at a time.

    Args:
      frames: (frame number, labels (Y, X) or (Z, Y, X) integers with 0 the background), ascending.
      spacing: voxel size in µm, z y x or y x; the last entries belong to the mask's axes.

    Returns:
      The detections; none is fine.

    Raises:
      ValueError: a negative label, or frame numbers that do not ascend.
    """
    return joined(
        [frame_detections(frame, Foreground(labels), spacing) for frame, labels in in_order(frames)]
    )


def in_order(frames: Iterable[_Frame]) -> Iterator[_Frame]:
    """Passes on frames, each a tuple that begins with its number.

    Raises:
      ValueError: the numbers do not ascend.
    """
    last = None
    for one in frames:
        frame = one[0]
        if last is not None and frame <= last:
            raise ValueError(f"frame {frame} comes after frame {last}: give the frames in ascending order")
        last = frame
        yield one


def frame_detections(frame: int, inside: "Foreground", spacing: np.ndarray) -> Detections:
    """Measures the cells of one mask as `detections_from_masks` does."""
    voxels, centre = inside.moments()
    axes = centre.shape[1]
    scale = np.asarray(spacing, np.float64)[-axes:]
    position = np.zeros((len(voxels), 3))
    position[:, 3 - axes :] = centre * scale
    return Detections(np.full(len(voxels), frame, np.int64), inside.names, position, voxels * np.prod(scale))


def joined(parts: Sequence[Detections]) -> Detections:
    """Returns the detections of all parts, one part after the other; of none it has none."""
    nothing = Detections(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 3)), np.zeros(0))
    return Detections(*(np.concatenate(columns) for columns in zip(nothing, *parts, strict=True)))


def frame_slices(frame: np.ndarray) -> dict[int, slice]:
    """Returns the entries of each frame, in order, from the sorted (N,) frame numbers."""
    numbers, first = np.unique(frame, return_index=True)
    last = np.append(first[1:], len(frame))
    return {n: slice(a, b) for n, a, b in zip(numbers.tolist(), first.tolist(), last.tolist(), strict=False)}


def label_moments(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts and locates the labels of one mask.

    Args:
      labels: (*S) integers, 0 background.

    Returns:
      (n,) int64 labels ascending, (n,) int64 voxels, (n, S axes) float64 centroid in voxel indices.

    Raises:
      ValueError: a negative label.
    """
    inside = Foreground(labels)
    return inside.names, *inside.moments()


class Foreground:
    """The voxels of the n cells of one mask, a block at a time; those of a small mask are found once.

    Raises:
      ValueError: a negative label.
    """

    names: np.ndarray
    """(n,) int64, the labels, ascending."""

    def __init__(self, labels: np.ndarray):
        if labels.size and labels.dtype.kind != "u" and labels.min() < 0:
            raise ValueError(
                f"a mask holds the label {labels.min()}: labels are positive, 0 is the background"
            )
        self._labels = labels
        self._found = list(self._search()) if labels.size <= BLOCK else None
        # Ids far beyond the number of voxels would make tables allocate for all the absent ones.
        most = int(labels.max(initial=0))
        self._place = np.zeros(most + 1, np.int64) if most <= labels.size else None
        if self._place is not None:
            for _, label in self._searched():
                self._place[label] = 1
            self.names = np.flatnonzero(self._place)
            self._place[self.names] = np.arange(len(self.names))
        else:
            self.names = np.unique(np.concatenate([np.unique(label) for _, label in self._searched()]))

    def blocks(self) -> Iterator[tuple[tuple[np.ndarray, ...], np.ndarray]]:
        """Yields (coordinates, one (M,) int64 for each axis; (M,) int64, the place of each one's label in names)."""
        for coordinates, label in self._searched():
            placed = np.searchsorted(self.names, label) if self._place is None else self._place[label]
            yield coordinates, placed

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns (n,) int64 voxels and (n, S axes) float64 centroid in voxel indices."""
        count, axes = len(self.names), self._labels.ndim
        voxels, sums = np.zeros(count, np.int64), np.zeros((count, axes))
        for coordinates, cell in self.blocks():
            voxels += np.bincount(cell, minlength=count)
            for axis, coordinate in enumerate(coordinates):
                sums[:, axis] += np.bincount(cell, coordinate, count)
        return voxels, sums / voxels[:, None]

    def _searched(self) -> Iterable[tuple[tuple[np.ndarray, ...], np.ndarray]]:
        return self._search() if self._found is None else self._found

    def _search(self) -> Iterator[tuple[tuple[np.ndarray, ...], np.ndarray]]:
        rows = max(1, BLOCK * len(self._labels) // max(self._labels.size, 1))
        for start in range(0, len(self._labels), rows):
            block = self._labels[start : start + rows]
            # In 2D half the time of np.nonzero(block).
            flat = np.flatnonzero(block != 0)
            first, *others = np.unravel_index(flat, block.shape)
            yield (first + start, *others), block.reshape(-1)[flat].astype(np.int64)
