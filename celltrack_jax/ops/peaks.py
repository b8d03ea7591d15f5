"""Peaks of a map: local maxima, the best K of them, sub-pixel positions, suppression by physical distance.

Shapes: S spatial axes (Y, X) or (Z, Y, X), K candidates (static).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Peaks(NamedTuple):
    """The best K candidates, from the highest down."""

    position: jax.Array
    """(K, ndim) float32, sub-pixel index."""
    score: jax.Array
    """(K,) float32, height of the peak's pixel."""
    valid: jax.Array
    """(K,) bool; the other rows are padding."""
    full: jax.Array
    """() bool, whether there were K candidates or more, of which lower ones are lost."""


def find_peaks(
    heat: jax.Array,
    spacing: jax.Array,
    *,
    count: int,
    threshold: float | jax.Array,
    min_distance: float | jax.Array,
    refine: str = "parabola",
) -> Peaks:
    """Finds local maxima, refines them and drops those too near to a higher one.

    Greedy suppression from the highest peak down, by distance between the refined positions, does not depend
    on the pixel grid, unlike one large maximum filter, and keeps two peaks a little farther apart than
    `min_distance` whatever lies around them.

    Args:
      heat: (*S) float32.
      spacing: (ndim,) float, pixel size along each axis.
      count: K, static. Candidates beyond the K highest are lost.
      threshold: peaks must exceed it.
      min_distance: in the unit of the spacing. Equal neighbouring pixels are all local maxima: a distance of
        two pixels removes such twins.
      refine: between pixels by a "parabola" along each axis, or by the "centroid" of the pixels around: of flat tops.

    Returns:
      Peaks.
    """
    heat = jnp.asarray(heat)
    candidate = is_local_maximum(heat) & (heat > threshold)
    score, index = highest(jnp.where(candidate, heat, -jnp.inf).reshape(-1), count)
    pixel = jnp.stack(jnp.unravel_index(index, heat.shape), -1)
    position = pixel + (sub_pixel if refine == "parabola" else centroid_offset)(heat, pixel)
    valid = _suppress(position * spacing, jnp.isfinite(score), min_distance)
    return Peaks(position, jnp.where(valid, score, 0.0), valid, is_full(score, heat.size))


def is_local_maximum(heat: jax.Array) -> jax.Array:
    """(*S) bool: no pixel among the 3^ndim around is higher."""
    top = heat
    for axis in range(heat.ndim):
        pad = [(0, 0)] * heat.ndim
        pad[axis] = (1, 1)
        around = jnp.pad(top, pad, mode="edge")
        size = heat.shape[axis]
        before, after = (lax.slice_in_dim(around, k, k + size, axis=axis) for k in (0, 2))
        top = jnp.maximum(top, jnp.maximum(before, after))
    return heat >= top


def highest(flat: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """`lax.top_k` of (N,), in two steps: the K blocks with the highest maxima hold the K highest values.

    Equal values come in the order of their indices, as in top_k: equal blocks do, and the blocks chosen stay in
    their order. Beside a CPU's sort of a million values the rest of `find_peaks` is little.
    """
    count = min(count, flat.size)
    block = 1 << max(round(math.log2(max(flat.size / max(count, 1), 1)) / 2), 0)
    blocks = jnp.pad(flat, (0, -flat.size % block), constant_values=-jnp.inf).reshape(-1, block)
    if blocks.shape[0] <= count or block == 1:
        return lax.top_k(flat, count)
    _, chosen = lax.top_k(blocks.max(-1), count)
    chosen = jnp.sort(chosen)
    score, place = lax.top_k(blocks[chosen].reshape(-1), count)
    return score, chosen[place // block] * block + place % block


def is_full(score: jax.Array, size: int) -> jax.Array:
    """() bool: all of the K highest of so many values are candidates, -inf being none, so that others may be left."""
    return jnp.isfinite(score[-1]) & (len(score) < size)


def sub_pixel(heat: jax.Array, pixel: jax.Array) -> jax.Array:
    """(K, ndim) offsets of a parabola's top along each axis, within half a pixel; 0 at the border."""
    offsets = []
    for axis, size in enumerate(heat.shape):
        step = jnp.zeros(heat.ndim, pixel.dtype).at[axis].set(1)
        low, middle, high = (heat[tuple((pixel + k * step).T)] for k in (-1, 0, 1))
        curvature = low - 2 * middle + high
        offset = 0.5 * (low - high) / jnp.where(curvature < 0, curvature, 1.0)
        inside = (pixel[:, axis] > 0) & (pixel[:, axis] < size - 1) & (curvature < 0)
        offsets.append(jnp.where(inside, jnp.clip(offset, -0.5, 0.5), 0.0))
    return jnp.stack(offsets, -1)


def centroid_offset(heat: jax.Array, pixel: jax.Array) -> jax.Array:
    """(K, ndim) offsets to the centroid of the 3^ndim pixels around, weighted by what their heat exceeds their least."""
    around = jnp.stack(jnp.meshgrid(*[jnp.arange(-1, 2)] * heat.ndim, indexing="ij"), -1).reshape(
        -1, heat.ndim
    )
    read = jnp.clip(pixel[:, None] + around, 0, jnp.array(heat.shape) - 1)
    values = heat[tuple(jnp.moveaxis(read, -1, 0))]
    weight = values - values.min(1, keepdims=True)
    total = weight.sum(1, keepdims=True)
    # What is read again at the border pulls towards the middle, not outwards.
    moved = (weight[..., None] * (read - pixel[:, None])).sum(1)
    return jnp.where(total > 0, moved / jnp.where(total > 0, total, 1.0), 0.0)


def _suppress(position: jax.Array, candidate: jax.Array, min_distance: float | jax.Array) -> jax.Array:
    """(K,) bool: candidates that lie at least `min_distance` from every kept one before them."""
    return keep_first(pairwise_square(position) < min_distance**2, candidate)


def pairwise_square(position: jax.Array) -> jax.Array:
    """(K, K): squared distances between (K, ndim) positions."""
    square = jnp.zeros((len(position),) * 2)
    for along in position.T:
        square += jnp.square(along[:, None] - along)
    return square


def keep_first(rivals: jax.Array, candidate: jax.Array) -> jax.Array:
    """Keeps the first candidate, drops its rivals, keeps the first of the rest, and so on.

    In rounds: what has no undecided rival before it is kept, and its rivals are dropped. There are as many rounds
    as the longest chain of rivals has links, few for peaks.

    Args:
      rivals: (K, K) bool, symmetric; the diagonal does not matter.
      candidate: (K,) bool.

    Returns:
      (K,) bool.
    """
    place = jnp.arange(len(candidate))
    before = rivals & (place[:, None] < place)

    def decide(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        undecided, kept = state
        kept = kept | (undecided & ~jnp.any(before & undecided[:, None], 0))
        return undecided & ~kept & ~jnp.any(before & kept[:, None], 0), kept

    start = (candidate, jnp.zeros_like(candidate))
    return lax.while_loop(lambda state: state[0].any(), decide, start)[1]
