"""A window of one size around each cell, cut out of whole maps, and what is learned of cells in it.

Shapes: S spatial axes (Y, X) or (Z, Y, X), D of them; K cells; W window; C channels. Cells are dense ids 1..K.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from celltrack_jax.ops.labels import boxes


def starts(labels: jax.Array, max_cells: int, size: Sequence[int]) -> jax.Array:
    """First pixel of the window in whose middle each cell's bounding box lies; moved into the map at its border.

    Args:
      labels: (*S) int32, cells 1..K.
      max_cells: K.
      size: W, along no axis larger than the map.

    Returns:
      (K, D) int32; anything inside for ids without a pixel.
    """
    low, high = boxes(labels, max_cells + 1)
    room = jnp.array([length - window for length, window in zip(labels.shape, size, strict=True)])
    return jnp.clip((low + high - jnp.array(size))[1:] // 2, 0, room)


def cut(values: jax.Array, start: jax.Array, size: Sequence[int]) -> jax.Array:
    """Cuts windows out of a map: (K, *W, ...) from (*S, ...) and (K, D) first pixels."""
    rest = values.ndim - len(size)

    def one(first: jax.Array) -> jax.Array:
        return lax.dynamic_slice(values, (*first, *[0] * rest), (*size, *values.shape[len(size) :]))

    return jax.vmap(one)(start)


def medoids(labels: jax.Array, spacing: jax.Array, max_cells: int, size: Sequence[int]) -> jax.Array:
    """The pixel of each cell whose distances to the cell's other pixels have the least sum.

    The sums are convolutions of each window with the distance, by Fourier transforms: pairs of pixels would take 400
    times the work for a cell of radius 8 in 3D. Of pixels whose sums differ by less than rounding any may be taken.

    Args:
      labels: (*S) int32, cells 1..K.
      spacing: (D,) float32.
      max_cells: K.
      size: W; of a larger cell, what its window shows is taken.

    Returns:
      (K, D) float32 index, NaN for ids without a pixel.
    """
    size = tuple(min(pair) for pair in zip(size, labels.shape, strict=True))
    start = starts(labels, max_cells, size)
    inside = cut(labels, start, size) == jnp.arange(1, max_cells + 1).reshape(-1, *[1] * len(size))
    rows = inside.reshape(max_cells, -1)
    total = _distance_sums(inside.astype(jnp.float32), spacing).reshape(max_cells, -1)
    best = jnp.argmin(jnp.where(rows, total, jnp.inf), 1)
    index = start + jnp.stack(jnp.unravel_index(best, size), -1)
    return jnp.where(rows.any(1)[:, None], index, jnp.nan)


def _distance_sums(inside: jax.Array, spacing: jax.Array) -> jax.Array:
    """(K, *W) sum over the pixels inside of their distance to each pixel of the window."""
    size = inside.shape[1:]
    axes = tuple(range(1, inside.ndim))
    around = tuple(2 * length for length in size)
    squared = jnp.zeros(())
    for axis, length in enumerate(around):
        steps = jnp.arange(length)
        offset = spacing[axis] * jnp.minimum(steps, length - steps)
        squared += jnp.square(offset).reshape([-1 if a == axis else 1 for a in range(len(size))])
    distance = jnp.fft.rfftn(jnp.sqrt(squared))
    spectrum = jnp.fft.rfftn(inside, around, axes) * distance
    total = jnp.fft.irfftn(spectrum, around, axes)
    return total[(slice(None), *(slice(length) for length in size))]
