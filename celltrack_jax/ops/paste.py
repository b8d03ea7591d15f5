"""Soft masks of boxes put back into the image, and painted into one label map.

Shapes: K detections, m pixels of a soft mask along each axis, Y, X the image.
"""

import jax
import jax.numpy as jnp
from jax import lax

from celltrack_jax.ops import boxes as box_maths
from celltrack_jax.ops.distance import largest_of_batch

_CHUNK = 32
"""Detections whose masks lie in memory as whole images: 49 MB at 544x704."""


def soft_masks(masks: jax.Array, boxes: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resamples masks to the image: bilinear, the outermost values going on up to the edge of the box, 0 outside.

    Args:
      masks: (K, m, m) float32.
      boxes: (K, 4) float32.
      size: Y, X.

    Returns:
      (K, Y, X) float32; zeros for boxes without area.
    """
    real = box_maths.areas(boxes) > 0
    rows, columns = (
        _weights(boxes[:, axis], boxes[:, axis + 2], masks.shape[1 + axis], size[axis]) for axis in range(2)
    )
    rows = jnp.where(real[:, None, None], rows, 0.0)
    # Not in bfloat16, which matrix units would take by default: a threshold follows.
    wide = jnp.einsum("kim,kmn->kin", rows, masks, precision="highest")
    return jnp.einsum("kjn,kin->kij", columns, wide, precision="highest")


def paint(
    masks: jax.Array,
    boxes: jax.Array,
    thresholds: jax.Array,
    areas: jax.Array,
    valid: jax.Array,
    size: tuple[int, int],
) -> tuple[jax.Array, jax.Array]:
    """Paints detections in their order, each where no other one was painted before.

    The work goes with the number of valid detections, the program does not.

    Args:
      masks: (K, m, m) float32 probabilities.
      boxes: (K, 4) float32.
      thresholds: (K,) float32; a pixel belongs to a detection above its threshold.
      areas: (K, 2) float32, the least and the largest sum of the soft mask over the image; others are not painted.
      valid: (K,) bool; the last valid row ends the work.
      size: Y, X.

    Returns:
      (Y, X) int32, k + 1 where detection k is, 0 elsewhere, and (K,) float32 the sums of the soft masks.
    """
    count = len(valid)
    padding = -count % _CHUNK
    masks, boxes, thresholds, areas, valid = (
        jnp.pad(each, ((0, padding), *((0, 0),) * (each.ndim - 1)))
        for each in (masks, boxes, thresholds, areas, valid)
    )

    def chunk_of(array: jax.Array, number: jax.Array) -> jax.Array:
        return lax.dynamic_slice_in_dim(array, number * _CHUNK, _CHUNK)

    def add(number: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        painted, sums = state
        soft = soft_masks(chunk_of(masks, number), chunk_of(boxes, number), size)
        total = soft.sum((1, 2))
        low, high = chunk_of(areas, number).T
        shown = chunk_of(valid, number) & (total >= low) & (total <= high)
        here = (soft > chunk_of(thresholds, number)[:, None, None]) & shown[:, None, None]
        first = jnp.argmax(here, 0).astype(jnp.int32) + number * _CHUNK + 1
        painted = jnp.where((painted == 0) & here.any(0), first, painted)
        return painted, lax.dynamic_update_slice_in_dim(sums, total, number * _CHUNK, 0)

    last = jnp.max(jnp.where(valid, jnp.arange(len(valid)) + 1, 0))
    chunks = largest_of_batch((last + _CHUNK - 1) // _CHUNK)
    nothing = jnp.zeros(size, jnp.int32), jnp.zeros(len(valid), jnp.float32)
    painted, sums = lax.fori_loop(0, chunks, add, nothing)
    return painted, sums[:count]


def _weights(low: jax.Array, high: jax.Array, count: int, length: int) -> jax.Array:
    """(K, length, count) float32: the share of each of the mask's pixels in each pixel of an axis."""
    centre = jnp.arange(length, dtype=jnp.float32) + 0.5
    extent = jnp.maximum(high - low, 1e-6)[:, None]
    inside = (centre >= low[:, None]) & (centre <= high[:, None])
    place = jnp.clip((centre - low[:, None]) / extent * count - 0.5, 0, count - 1)
    tent = jnp.maximum(1 - jnp.abs(place[..., None] - jnp.arange(count, dtype=jnp.float32)), 0)
    return jnp.where(inside[..., None], tent, 0.0)
