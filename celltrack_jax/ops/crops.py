"""Crops of all cells of a frame at once: one gather, however many cells there are.

Shapes: F axes of a frame and S of a crop, both (Y, X) or (Z, Y, X), D of them; n cells.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Crops(NamedTuple):
    """What each crop shows."""

    values: jax.Array
    """(n, *S) float32, the image: of neighbours too, and 0 outside the frame."""
    inside: jax.Array
    """(n, *S) bool, which of it is the cell; in crops around a point, what lies in the frame."""


def of_cells(
    image: jax.Array, labels: jax.Array, ids: jax.Array, low: jax.Array, high: jax.Array, size: Sequence[int]
) -> Crops:
    """Cuts out each cell with its bounding box in the middle; the odd voxel is at the bottom, right and back.

    A cell larger than the crop is shrunk until it fits, by one factor for all axes, taking the nearest voxels: its
    whole outline is seen, and no other crop changes (the original shrinks all cells of a movie by the largest one).

    Args:
      image: (*F) of any real dtype.
      labels: (*F) integers.
      ids: (n,) integers, the label of each cell; 0 makes an empty crop.
      low: (n, D) integers, the bounding box's first voxel.
      high: (n, D) integers, behind its last voxel.
      size: *S.

    Returns:
      The crops.
    """
    room, extent = jnp.array(size), high - low
    # Shrunk by the fraction most / fits: whole numbers, so that no rounding decides which voxel is taken.
    tightest = jnp.argmax(extent / room, 1)
    fits = room[tightest][:, None]
    most = jnp.maximum(jnp.take_along_axis(extent, tightest[:, None], 1), fits)
    seen = -(-extent * fits // most)
    before = (room - seen) // 2
    places, valid = [], []
    for axis, length in enumerate(size):
        offset = jnp.arange(length) - before[:, axis, None]
        step = (2 * offset + 1) * most // (2 * fits)
        places.append(low[:, axis, None] + jnp.clip(step, 0, extent[:, axis, None] - 1))
        valid.append((offset >= 0) & (offset < seen[:, axis, None]))
    at, shown = _flat_index(places, labels.shape), _all(valid)
    found = labels.reshape(-1).at[at].get(mode="clip")
    own = ids.reshape(-1, *[1] * len(size))
    return Crops(_read(image, at, shown), shown & (found == own) & (own != 0))


def around(image: jax.Array, centre: jax.Array, size: Sequence[int]) -> Crops:
    """Cuts out a window around each point, moved into the frame where it would reach beyond.

    Args:
      image: (*F) of any real dtype; an axis shorter than the crop is followed by zeros.
      centre: (n, D) integers, the voxel at index size // 2 of the crop.
      size: *S.

    Returns:
      The crops.
    """
    places, valid = [], []
    for axis, (length, limit) in enumerate(zip(size, image.shape, strict=True)):
        start = jnp.clip(centre[:, axis] - length // 2, 0, max(limit - length, 0))
        places.append(start[:, None] + jnp.arange(length))
        valid.append(places[-1] < limit)
    at, shown = _flat_index(places, image.shape), _all(valid)
    return Crops(_read(image, at, shown), shown)


def chunks(count: int, sizes: Sequence[int]) -> list[tuple[slice, int]]:
    """Divides the cells of a frame among a few static sizes, largest first; only the last chunk has padding.

    Args:
      count: cells.
      sizes: ascending.

    Returns:
      (the cells, the size) of each chunk.
    """
    found, start = [], 0
    while start < count:
        fitting = [size for size in sizes if size <= count - start]
        size = fitting[-1] if fitting else sizes[0]
        found.append((slice(start, min(start + size, count)), size))
        start += size
    return found


def _flat_index(places: Sequence[jax.Array], shape: Sequence[int]) -> jax.Array:
    """(n, *S) int32 from D rows (n, S_axis) of voxel numbers."""
    at = _along(places[0], 0, len(places))
    for axis in range(1, len(places)):
        at = at * shape[axis] + _along(places[axis], axis, len(places))
    return at


def _all(valid: Sequence[jax.Array]) -> jax.Array:
    """(n, *S) bool from D rows (n, S_axis)."""
    whole = _along(valid[0], 0, len(valid))
    for axis in range(1, len(valid)):
        whole = whole & _along(valid[axis], axis, len(valid))
    return whole


def _along(row: jax.Array, axis: int, ndim: int) -> jax.Array:
    return row.reshape(len(row), *(-1 if i == axis else 1 for i in range(ndim)))


def _read(image: jax.Array, at: jax.Array, shown: jax.Array) -> jax.Array:
    values = image.reshape(-1).at[at].get(mode="clip")
    return jnp.where(shown, values.astype(jnp.float32), 0)
