"""Measures of the cells in label masks. Shapes: N detections, Z Y X space."""

from collections.abc import Iterable

import numpy as np

from celltrack_jax.lineage import Detections

_BLOCK = 1 << 22
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
    columns: list[tuple[np.ndarray, ...]] = []
    last = None
    for frame, labels in frames:
        if last is not None and frame <= last:
            raise ValueError(f"frame {frame} comes after frame {last}: give the frames in ascending order")
        last = frame
        label, voxels, centre = label_moments(labels)
        scale = np.asarray(spacing, np.float64)[-labels.ndim :]
        position = np.zeros((len(label), 3))
        position[:, 3 - labels.ndim :] = centre * scale
        columns.append((np.full(len(label), frame), label, position, voxels * np.prod(scale)))
    if not columns:
        columns.append((np.zeros(0), np.zeros(0), np.zeros((0, 3)), np.zeros(0)))
    frame_, label, position, volume = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    return Detections(frame_.astype(np.int64), label.astype(np.int64), position, volume)


def label_moments(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts and locates the labels of one mask.

    Args:
      labels: (*S) integers, 0 background.

    Returns:
      (n,) int64 labels ascending, (n,) int64 voxels, (n, S axes) float64 centroid in voxel indices.

    Raises:
      ValueError: a negative label.
    """
    if labels.size == 0 or labels.max() == 0:
        labels = np.zeros((1,) * labels.ndim, np.int64)
    if labels.dtype.kind != "u" and labels.min() < 0:
        raise ValueError(f"a mask holds the label {labels.min()}: labels are positive, 0 is the background")
    names = None
    if int(labels.max()) > labels.size:
        # Ids far beyond the number of voxels would make bincount allocate for all the absent ones.
        names, labels = np.unique(labels, return_inverse=True)
        if names[0] != 0:
            names, labels = np.concatenate([[0], names]), labels + 1
    length = int(labels.max()) + 1
    voxels = np.zeros(length, np.int64)
    sums = np.zeros((labels.ndim, length))
    rows = max(1, _BLOCK * len(labels) // labels.size)
    for start in range(0, len(labels), rows):
        block = labels[start : start + rows]
        coordinates = np.nonzero(block)
        label = block[coordinates].astype(np.int64)
        voxels += np.bincount(label, minlength=length)
        for axis, coordinate in enumerate(coordinates):
            offset = start if axis == 0 else 0
            sums[axis] += np.bincount(label, weights=coordinate + offset, minlength=length)
    present = np.flatnonzero(voxels)
    centre = (sums[:, present] / voxels[present]).T
    return (present if names is None else names[present].astype(np.int64)), voxels[present], centre
