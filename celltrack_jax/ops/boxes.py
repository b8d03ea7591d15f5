"""Boxes in the plane: overlap, differences that a network learns, and the boxes of a label map.

A box is (y0, x0, y1, x1) float32 in pixels, edges at whole numbers: pixel i covers i..i + 1. Shapes: N and M boxes, K
cells, ... any leading axes.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from celltrack_jax.ops import labels as label_maps

MAX_GROWTH = math.log(1000 / 16)
"""Largest logarithm of a side's growth that `decode` follows (Girshick's Detectron): beyond, exp overflows early."""


def areas(boxes: jax.Array) -> jax.Array:
    """(...) float32 pixels of boxes (..., 4); 0 where one is turned inside out or not finite."""
    height, width = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    real = jnp.isfinite(boxes).all(-1) & (height > 0) & (width > 0)
    return jnp.where(real, height * width, 0.0)


def shared_areas(first: jax.Array, second: jax.Array) -> jax.Array:
    """(N, M) float32 pixels that each of boxes (N, 4) shares with each of (M, 4)."""
    one, other = first[:, None], second[None]
    sides = [
        jnp.minimum(one[..., high], other[..., high]) - jnp.maximum(one[..., high - 2], other[..., high - 2])
        for high in (2, 3)
    ]
    real = (areas(first) > 0)[:, None] & (areas(second) > 0)
    return jnp.where(real, jnp.maximum(sides[0], 0) * jnp.maximum(sides[1], 0), 0.0)


def pairwise_iou(first: jax.Array, second: jax.Array) -> jax.Array:
    """Intersection over union of each pair of boxes.

    Args:
      first: (N, 4) float32.
      second: (M, 4) float32.

    Returns:
      (N, M) float32 in 0..1; 0 for boxes without area and those that are not finite. Exactly symmetric.
    """
    shared = shared_areas(first, second)
    union = areas(first)[:, None] + areas(second) - shared
    return jnp.where(shared > 0, shared / jnp.where(shared > 0, union, 1.0), 0.0)


def encode(boxes: jax.Array, anchors: jax.Array, weights: Sequence[float]) -> jax.Array:
    """What moves anchors onto boxes: shifts in the anchor's sides, and logarithms of growth (Girshick 2015, Fast R-CNN).

    Args:
      boxes: (..., 4) float32.
      anchors: (..., 4) float32.
      weights: of the shifts along y, x and of the growth along y, x; they scale what is learned.

    Returns:
      (..., 4) float32 dy, dx, dh, dw; 0 where a box or its anchor has no area.
    """
    real = (areas(boxes) > 0) & (areas(anchors) > 0)
    # What is not taken must stay finite too.
    box, anchor = (jnp.where(real[..., None], each, jnp.array([0.0, 0, 1, 1])) for each in (boxes, anchors))
    shift = (_centre(box) - _centre(anchor)) / _size(anchor)
    growth = jnp.log(_size(box) / _size(anchor))
    deltas = jnp.concatenate([shift, growth], -1) * jnp.array(weights, jnp.float32)
    return jnp.where(real[..., None], deltas, 0.0)


def decode(deltas: jax.Array, anchors: jax.Array, weights: Sequence[float]) -> jax.Array:
    """The inverse of `encode`.

    Args:
      deltas: (..., 4) float32; those that are not finite count as 0, growth above `MAX_GROWTH` as that.
      anchors: (..., 4) float32.
      weights: as of `encode`.

    Returns:
      (..., 4) float32 boxes.
    """
    deltas = jnp.where(jnp.isfinite(deltas), deltas, 0.0) / jnp.array(weights, jnp.float32)
    shift, growth = deltas[..., :2], jnp.minimum(deltas[..., 2:], MAX_GROWTH)
    size = _size(anchors)
    centre, half = _centre(anchors) + shift * size, jnp.exp(growth) * size / 2
    return jnp.concatenate([centre - half, centre + half], -1)


def clip(boxes: jax.Array, size: jax.Array | Sequence[int]) -> jax.Array:
    """Cuts boxes (..., 4) to an image of `size` (y, x) pixels, which may be traced."""
    size = jnp.asarray(size, jnp.float32)
    return jnp.clip(boxes, 0.0, jnp.concatenate([size, size]))


def of_labels(labels: jax.Array, max_cells: int) -> jax.Array:
    """The boxes around the cells of a label map.

    Args:
      labels: (Y, X) int32: cells 1.., 0 background, -1 unknown; ids may have gaps.
      max_cells: K, static; ids above are left out.

    Returns:
      (K, 4) float32: row k is cell k + 1; zeros, which have no area, for ids without a pixel.
    """
    low, high = label_maps.boxes(labels, max_cells + 1)
    return jnp.concatenate([low, high], -1)[1:].astype(jnp.float32)


def shares(mask: jax.Array, boxes: jax.Array) -> jax.Array:
    """How much of each box a mask covers, to whole pixels.

    Args:
      mask: (Y, X) bool.
      boxes: (N, 4) float32; their edges are rounded, and what lies outside of the map counts as uncovered.

    Returns:
      (N,) float32 in 0..1, 0 for boxes without a pixel.
    """
    table = jnp.pad(jnp.cumsum(jnp.cumsum(mask.astype(jnp.int32), 0), 1), ((1, 0), (1, 0)))
    edge = jnp.round(jnp.where(areas(boxes)[:, None] > 0, boxes, 0.0))
    y0, x0, y1, x1 = jnp.moveaxis(clip(edge, mask.shape), -1, 0).astype(jnp.int32)
    covered = table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0]
    area = areas(edge)
    return jnp.where(area > 0, covered / jnp.where(area > 0, area, 1.0), 0.0)


def _centre(boxes: jax.Array) -> jax.Array:
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def _size(boxes: jax.Array) -> jax.Array:
    return boxes[..., 2:] - boxes[..., :2]
