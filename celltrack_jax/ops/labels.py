"""Reductions over the cells of a label map, with a static number of cells.

Shapes: S spatial axes, K cells. Label maps hold dense ids 1..K-1, 0 for background and -1 for unknown; row 0
of a result is the background's, and unknown pixels are counted nowhere.
"""

import jax
import jax.numpy as jnp
from jax import lax


def maxima(values: jax.Array, labels: jax.Array, max_cells: int) -> jax.Array:
    """Largest value of each cell.

    Args:
      values: (*S) float32.
      labels: (*S) int32, dense.
      max_cells: K; ids >= K are counted nowhere.

    Returns:
      (K,) float32, -inf for ids without a pixel.
    """
    return jax.ops.segment_max(values.reshape(-1), _segments(labels, max_cells), max_cells)


def sizes(labels: jax.Array, max_cells: int) -> jax.Array:
    """Pixels of each cell: (K,) int32 from labels (*S) int32."""
    ones = jnp.ones(labels.size, jnp.int32)
    return jax.ops.segment_sum(ones, _segments(labels, max_cells), max_cells)


def centroids(labels: jax.Array, max_cells: int) -> jax.Array:
    """Mean pixel index of each cell.

    Summed in int32, which is exact for cells of up to a million pixels in maps 4000 pixels wide; summed in float32,
    the centroid of a cell of 39,000 pixels was 0.29 pixels off.

    Args:
      labels: (*S) int32, dense.
      max_cells: K.

    Returns:
      (K, ndim) float32, NaN for the background and for ids without a pixel.
    """
    middle = [size // 2 for size in labels.shape]
    index = [lax.broadcasted_iota(jnp.int32, labels.shape, axis) - m for axis, m in enumerate(middle)]
    rows = jnp.stack([jnp.ones_like(labels), *index], -1).reshape(-1, labels.ndim + 1)
    cells = jnp.where(labels == 0, -1, labels)
    total = jax.ops.segment_sum(rows, _segments(cells, max_cells), max_cells)
    count = jnp.where(total[:, :1] > 0, total[:, :1], jnp.nan)
    return total[:, 1:] / count + jnp.array(middle, jnp.float32)


def variances(labels: jax.Array, centres: jax.Array) -> jax.Array:
    """Variance of each cell's pixels along each axis, that of the pixel's own width included: 1 / 12 for one pixel.

    Args:
      labels: (*S) int32, dense.
      centres: (K, ndim) float32, from `centroids`.

    Returns:
      (K, ndim) float32 pixels squared, NaN for the background and for ids without a pixel.
    """
    count = len(centres)
    cells = jnp.where(labels == 0, -1, labels)
    segments = _segments(cells, count)
    index = jnp.stack([lax.broadcasted_iota(jnp.float32, labels.shape, a) for a in range(labels.ndim)], -1)
    # From the own centre: squares of large indices would swamp the difference.
    off = index.reshape(-1, labels.ndim) - centres.at[segments].get(mode="clip")
    total = jax.ops.segment_sum(jnp.square(off), segments, count)
    return total / sizes(cells, count)[:, None] + 1 / 12


def boxes(labels: jax.Array, max_cells: int) -> tuple[jax.Array, jax.Array]:
    """Bounding box of each cell.

    Args:
      labels: (*S) int32, dense.
      max_cells: K.

    Returns:
      (K, ndim) int32 each: the first pixel, and behind the last one; 0 for ids without a pixel.
    """
    index = jnp.stack(
        [lax.broadcasted_iota(jnp.int32, labels.shape, axis) for axis in range(labels.ndim)], -1
    )
    rows = jnp.concatenate([-index, index + 1], -1).reshape(-1, 2 * labels.ndim)
    reach = jax.ops.segment_max(rows, _segments(labels, max_cells), max_cells)
    reach = jnp.where(reach[:, -1:] > 0, reach, 0)
    return -reach[:, : labels.ndim], reach[:, labels.ndim :]


def _segments(labels: jax.Array, max_cells: int) -> jax.Array:
    # Scatters drop what lies behind the last segment, but would wrap negative ids around.
    return jnp.where(labels < 0, max_cells, labels).reshape(-1)
