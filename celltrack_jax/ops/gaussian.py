"""Gaussian smoothing by shifted sums: the width may be traced, the reach is static.

A shifted sum fuses into one loop on every platform; a convolution whose kernel differs per sample of a
`vmap` becomes a grouped convolution, which XLA runs slowly on CPUs.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax


def weights(sigma: jax.Array | float, radius: int) -> jax.Array:
    """Sampled Gaussian that sums to 1; sigma 0 gives exactly the identity.

    Args:
      sigma: () standard deviation in pixels, may be traced.
      radius: pixels on each side of the centre.

    Returns:
      (2 * radius + 1,) float32.
    """
    offset = jnp.arange(-radius, radius + 1, dtype=jnp.float32)
    # Clamped: 0 / 0 at the centre would be NaN, and every other tap underflows to 0.
    sampled = jnp.exp(-0.5 * jnp.square(offset / jnp.maximum(sigma, 1e-6)))
    return sampled / sampled.sum()


def blur(x: jax.Array, sigma: Sequence[jax.Array | float], radius: Sequence[int]) -> jax.Array:
    """Smooths the first axes of x; edge pixels are repeated outwards.

    Args:
      x: (*S, ...) float32.
      sigma: standard deviation in pixels of each of the first `len(sigma)` axes, may be traced.
      radius: reach of each of these axes in pixels; 0 leaves the axis alone.

    Returns:
      x's shape, float32.
    """
    for axis, (width, reach) in enumerate(zip(sigma, radius, strict=True)):
        if reach == 0:
            continue
        pad = [(0, 0)] * x.ndim
        pad[axis] = (reach, reach)
        padded = jnp.pad(x, pad, mode="edge")
        x = _weighted_shifts(padded, weights(width, reach), axis)
    return x


def _weighted_shifts(padded: jax.Array, taps: jax.Array, axis: int) -> jax.Array:
    """Sum of taps times shifted slices. A loop: unrolled, XLA would fuse whatever computes the input into it
    and compute that once per tap."""
    size = padded.shape[axis] - len(taps) + 1

    def add(tap: jax.Array, total: jax.Array) -> jax.Array:
        return total + taps[tap] * lax.dynamic_slice_in_dim(padded, tap, size, axis)

    empty = jnp.zeros_like(lax.slice_in_dim(padded, 0, size, axis=axis))
    return lax.fori_loop(0, len(taps), add, empty)


def kernel_matrix(
    length: int, size: int, sigma: jax.Array | float, used: jax.Array | float = math.inf
) -> jax.Array:
    """Smoothing of an axis as a matrix: y = x @ matrix. Edge pixels are repeated outwards.

    A product with a banded matrix is a few milliseconds for a volume of 48x128x128, forwards and backwards, whatever the
    kernel's size, and sigma may be traced.

    Args:
      length: of the axis.
      size: taps of the kernel; an even number is centred between pixels, so that the result is shifted by half of one.
      sigma: standard deviation in pixels.
      used: taps farther than half of this many from the middle are left out; may be traced.

    Returns:
      (length, length) float32, whose columns sum to 1.
    """
    offset = jnp.arange(size, dtype=jnp.float32) - (size - 1) / 2
    taps = jnp.exp(-0.5 * jnp.square(offset / jnp.maximum(sigma, 1e-6)))
    taps = jnp.where(jnp.abs(offset) <= jnp.maximum(used - 1, 0) / 2, taps, 0.0)
    # Underflow at a small sigma leaves the taps nearest to the middle.
    nearest = (jnp.abs(offset) < 1).astype(jnp.float32)
    taps = jnp.where(taps.sum() > 0, taps, nearest)
    read = jnp.arange(length)[None] + jnp.arange(size)[:, None] - (size - 1) // 2
    rows = jnp.clip(read, 0, length - 1)
    columns = jnp.broadcast_to(jnp.arange(length), rows.shape)
    weight = jnp.broadcast_to((taps / taps.sum())[:, None], rows.shape)
    return jnp.zeros((length, length)).at[rows, columns].add(weight)


def smooth(x: jax.Array, matrices: Sequence[jax.Array]) -> jax.Array:
    """Smooths (N, *S) float32 along each axis of S by its `kernel_matrix`."""
    for matrix in matrices:
        # The axis that is summed comes back as the last one: after all of them their order is the old one.
        x = jnp.tensordot(x, matrix, ((1,), (0,)), precision=lax.Precision.HIGHEST)
    return x
