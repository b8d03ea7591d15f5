"""Which source each pixel belongs to, and the way to it: what representations that point to centres learn from.

A source is a cell, or a point and what lies near it. Shapes: S spatial axes (Y, X) or (Z, Y, X), D of them, K sources
of a crop.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from celltrack_jax.ops.labels import sizes
from celltrack_jax.ops.nearest_point import nearest_point, offsets_to


class Sources(NamedTuple):
    """The source of each pixel."""

    row: jax.Array
    """(*S) int32 row of the source; -1 for none."""
    inside: jax.Array
    """(*S, 1) float32, 1 in sources and 0 elsewhere."""
    share: jax.Array
    """(*S, 1) float32, one over the known pixels of the own source, so that all sources count alike; 0 elsewhere."""
    offset: jax.Array
    """(*S, D) float32, from the pixel to its source's centre in the unit of the spacing; 0 elsewhere."""


def of_points(points: jax.Array, known: jax.Array, spacing: jax.Array, radius: float) -> Sources:
    """Gives each pixel to its nearest point, if that lies within a radius or in the pixel itself.

    Args:
      points: (K, D) float32 index, also outside of the map; NaN for none.
      known: (*S) int32, -1 where the truth is unknown.
      spacing: (D,) float32.
      radius: in its unit.
    """
    nearest = nearest_point(points, known.shape, spacing)
    inside = (nearest.square <= radius**2) | (jnp.abs(nearest.offset) <= 0.5 * spacing).all(-1)
    return _sources(jnp.where(inside, nearest.row, -1), points, known, spacing)


def of_labels(labels: jax.Array, centres: jax.Array, spacing: jax.Array) -> Sources:
    """Gives each pixel to its cell.

    Args:
      labels: (*S) int32: cells 1.., 0 background, -1 unknown. Ids above K are sources whose pixels have no share.
      centres: (K, D) float32 index of cells 1..K, NaN for ids without a pixel.
      spacing: (D,) float32.
    """
    return _sources(jnp.where(labels > 0, labels - 1, -1), centres, labels, spacing)


def _sources(row: jax.Array, centres: jax.Array, known: jax.Array, spacing: jax.Array) -> Sources:
    count = len(centres)
    # Row 0 of sizes is the background's; ids above the last are counted nowhere.
    size = sizes(jnp.where(known < 0, 0, row + 1), count + 1).at[0].set(0)
    size = size.at[jnp.minimum(row + 1, count)].get()
    counted = (row >= 0) & (row < count) & (known >= 0)
    return Sources(
        row,
        (row >= 0).astype(jnp.float32)[..., None],
        jnp.where(counted, 1.0 / jnp.maximum(size, 1), 0.0)[..., None],
        offsets_to(centres, row, spacing),
    )


def heat(points: jax.Array, shape: tuple[int, ...], spacing: jax.Array, sigma: float) -> jax.Array:
    """Gaussians of height 1 on the pixels that hold the points, the higher one where they overlap: (*S, 1) float32.

    Args:
      points: (K, D) float32 index; NaN for none.
      shape: *S.
      spacing: (D,) float32.
      sigma: standard deviation in its unit.
    """
    square = nearest_point(jnp.round(points), shape, spacing).square
    return jnp.exp(-0.5 * square / sigma**2)[..., None]
