"""Blobs of a map in scale space: maxima of the Laplacian of Gaussian over place and width.

Lindeberg 1998, Feature detection with automatic scale selection; the constants are those of scikit-image's
`blob_log`, with which a later version of the centroid maps was decoded (docs/originals.md, 1.5).

Shapes: S spatial axes (Y, X) or (Z, Y, X), W widths, K blobs (static).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from celltrack_jax.ops.peaks import highest, is_full, is_local_maximum, keep_first, pairwise_square, sub_pixel

MIN_SIGMA = 1.0
"""Pixels; narrower blobs are hardly told from single pixels."""
TRUNCATE = 4.0
"""Reach of a filter in standard deviations."""


class Blobs(NamedTuple):
    """The best K candidates, from the strongest down."""

    position: jax.Array
    """(K, ndim) float32, sub-pixel index."""
    sigma: jax.Array
    """(K,) float32 pixels, one of the widths tried; a Gaussian's own standard deviation responds most."""
    score: jax.Array
    """(K,) float32, the response: 1/2 in 2D for a Gaussian of height 1, 0.56 in 3D."""
    valid: jax.Array
    """(K,) bool; the other rows are padding."""
    full: jax.Array
    """() bool, whether there were K candidates or more, of which weaker ones are lost."""


def find_blobs(
    heat: jax.Array,
    *,
    max_sigma: float,
    num_sigma: int,
    threshold: float | jax.Array,
    overlap: float | jax.Array,
    count: int,
) -> Blobs:
    """Finds maxima over place and width and drops those that overlap with a wider one.

    scikit-image drops blobs pair by pair in no particular order; here the widest is settled first, of equally
    wide ones the strongest, so that a blob that was dropped drops none.

    Args:
      heat: (*S) float32, 2D or 3D, edges are mirrored.
      max_sigma: pixels, static. Widths go from 1 to it in equal steps.
      num_sigma: W, static.
      threshold: responses must exceed it.
      overlap: largest share of the smaller ball, of radius sqrt(ndim) sigma, that may lie in another.
      count: K, static. Candidates beyond the K strongest are lost.

    Returns:
      Blobs.

    Raises:
      ValueError: heat has neither two nor three axes.
    """
    heat = jnp.asarray(heat, jnp.float32)
    if heat.ndim not in (2, 3):
        raise ValueError(f"blobs are found in 2 or 3 axes, not in {heat.ndim}")
    widths = np.linspace(MIN_SIGMA, max_sigma, num_sigma)
    response = jnp.stack([-(width**2) * laplacian_of_gaussian(heat, width) for width in widths])
    candidate = is_local_maximum(response) & (response > threshold)
    score, index = highest(jnp.where(candidate, response, -jnp.inf).reshape(-1), count)
    place = jnp.stack(jnp.unravel_index(index, response.shape), -1)
    sigma = jnp.asarray(widths, jnp.float32)[place[:, 0]]

    pixel = place[:, 1:]
    order = jnp.argsort(-sigma)
    rivals = _shared(pixel[order].astype(jnp.float32), sigma[order]) > overlap
    kept = keep_first(rivals, jnp.isfinite(score)[order])
    valid = jnp.zeros_like(kept).at[order].set(kept)
    position = pixel + sub_pixel(response, place)[:, 1:]
    full = is_full(score, response.size)
    return Blobs(position, sigma, jnp.where(valid, score, 0.0), valid, full)


def laplacian_of_gaussian(heat: jax.Array, sigma: float) -> jax.Array:
    """(*S) float32: sum of the second derivatives of the smoothed map; sigma is static, in pixels."""
    reach = int(TRUNCATE * sigma + 0.5)
    offset = np.arange(-reach, reach + 1)
    smooth = np.exp(-0.5 * (offset / sigma) ** 2)
    smooth /= smooth.sum()
    second = smooth * (offset**2 / sigma**4 - 1 / sigma**2)
    smoothed, curved = heat, jnp.zeros_like(heat)
    for axis in range(heat.ndim):
        smoothed, curved = _along(smoothed, curved, smooth, second, axis)
    return curved


def _along(
    smoothed: jax.Array, curved: jax.Array, smooth: np.ndarray, second: np.ndarray, axis: int
) -> tuple[jax.Array, jax.Array]:
    """Filters an axis: smoothed by `smooth`, and what is curved along it or along the axes before.

    One loop of shifted sums for both, which compiles faster than four.
    """
    reach, size = len(smooth) // 2, smoothed.shape[axis]
    pad = [(0, 0)] * smoothed.ndim
    pad[axis] = (reach, reach)
    padded = [jnp.pad(x, pad, mode="symmetric") for x in (smoothed, curved)]
    taps = jnp.asarray(smooth, jnp.float32), jnp.asarray(second, jnp.float32)

    def add(k: jax.Array, total: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        g, d = taps[0][k], taps[1][k]
        x, y = (lax.dynamic_slice_in_dim(whole, k, size, axis) for whole in padded)
        return total[0] + g * x, total[1] + g * y + d * x

    return lax.fori_loop(0, len(smooth), add, (jnp.zeros_like(smoothed), jnp.zeros_like(curved)))


def _shared(position: jax.Array, sigma: jax.Array) -> jax.Array:
    """(K, K): share of the smaller one of two balls that lies in the other."""
    ndim = position.shape[1]
    radius = math.sqrt(ndim) * sigma
    distance = jnp.sqrt(pairwise_square(position))
    large, small = jnp.maximum(radius[:, None], radius), jnp.minimum(radius[:, None], radius)
    inside, apart = distance <= large - small, distance >= large + small
    distance = jnp.where(inside | apart, large, distance)  # keeps the branch not taken finite
    lens = (_disc_lens if ndim == 2 else _ball_lens)(distance, large, small)
    return jnp.where(inside, 1.0, jnp.where(apart, 0.0, lens))


def _disc_lens(d: jax.Array, large: jax.Array, small: jax.Array) -> jax.Array:
    """Area that two circles at distance d share, in areas of the small one."""
    angles = [
        jnp.arccos(jnp.clip((d**2 + a**2 - b**2) / (2 * d * a), -1, 1))
        for a, b in ((large, small), (small, large))
    ]
    product = (small + large - d) * (d + small - large) * (d + large - small) * (d + small + large)
    area = large**2 * angles[0] + small**2 * angles[1] - 0.5 * jnp.sqrt(jnp.maximum(product, 0))
    return area / (math.pi * small**2)


def _ball_lens(d: jax.Array, large: jax.Array, small: jax.Array) -> jax.Array:
    """Volume that two spheres at distance d share, in volumes of the small one."""
    square = d**2 + 2 * d * (large + small) - 3 * (large - small) ** 2
    return (large + small - d) ** 2 * square / (16 * d * small**3)
