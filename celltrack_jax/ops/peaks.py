"""Peaks of a map: local maxima, the best K of them, sub-pixel positions, suppression by physical distance.

Shapes: S spatial axes (Y, X) or (Z, Y, X), K candidates (static).
"""

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


def find_peaks(
    heat: jax.Array,
    spacing: jax.Array,
    *,
    count: int,
    threshold: float | jax.Array,
    min_distance: float | jax.Array,
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

    Returns:
      Peaks.
    """
    heat = jnp.asarray(heat)
    flat = jnp.where(_is_local_maximum(heat) & (heat > threshold), heat, -jnp.inf).reshape(-1)
    count = min(count, flat.size)
    score, index = lax.top_k(flat, count)
    pixel = jnp.stack(jnp.unravel_index(index, heat.shape), -1)
    position = pixel + _sub_pixel(heat, pixel)
    valid = _suppress(position * spacing, jnp.isfinite(score), min_distance)
    return Peaks(position, jnp.where(valid, score, 0.0), valid)


def _is_local_maximum(heat: jax.Array) -> jax.Array:
    """(*S) bool: no pixel among the 3^ndim around is higher."""
    highest = heat
    for axis in range(heat.ndim):
        pad = [(0, 0)] * heat.ndim
        pad[axis] = (1, 1)
        around = jnp.pad(highest, pad, mode="edge")
        size = heat.shape[axis]
        before, after = (lax.slice_in_dim(around, k, k + size, axis=axis) for k in (0, 2))
        highest = jnp.maximum(highest, jnp.maximum(before, after))
    return heat >= highest


def _sub_pixel(heat: jax.Array, pixel: jax.Array) -> jax.Array:
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


def _suppress(position: jax.Array, candidate: jax.Array, min_distance: float | jax.Array) -> jax.Array:
    """(K,) bool: candidates that lie at least `min_distance` from every kept one before them."""
    square = jnp.square(position[:, None] - position[None]).sum(-1)
    near = square < min_distance**2

    def visit(k: jax.Array, kept: jax.Array) -> jax.Array:
        earlier = jnp.arange(kept.size) < k
        return kept.at[k].set(candidate[k] & ~jnp.any(kept & earlier & near[k]))

    return lax.fori_loop(0, candidate.size, visit, jnp.zeros_like(candidate))
