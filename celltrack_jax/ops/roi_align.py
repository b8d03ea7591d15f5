"""What lies in boxes, resampled to one size: features of a pyramid for heads, and label maps for their mask targets.

RoIAlign (He et al. 2017, Mask R-CNN, arXiv:1703.06870) with pixel centres at half pixels ("aligned"): a pixel of a
level with stride s lies at (index + 1/2) s pixels of the image. Shapes: R boxes, L levels, h, w, C a level's size and
channels, m pixels of what is made along each axis.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from celltrack_jax.ops import boxes as box_maths


def level_of(boxes: jax.Array, finest_px: float, levels: int) -> jax.Array:
    """(R,) int32 the level that a box is read from: the finest below `finest_px`, one coarser for each doubling.

    Lin et al. 2017 (FPN, eq. 1) has 112 for its four levels from stride 4 on.

    Args:
      boxes: (R, 4) float32; the square root of their area counts.
      finest_px: pixels.
      levels: L.
    """
    side = jnp.sqrt(box_maths.areas(boxes))
    level = jnp.floor(jnp.log2(jnp.maximum(side, 1e-3) / finest_px)) + 1
    return jnp.clip(level, 0, levels - 1).astype(jnp.int32)


def roi_align(
    pyramid: Sequence[jax.Array],
    boxes: jax.Array,
    strides: Sequence[int],
    *,
    size: int,
    samples: int,
    finest_px: float,
) -> jax.Array:
    """Resamples the features in each box, from the level that suits its size; differentiable in the features.

    Each made pixel is the mean of samples^2 bilinear samples of its part of the box; beyond the border of a level its
    outermost pixels go on.

    Args:
      pyramid: L levels (h, w, C) floats, the finest first.
      boxes: (R, 4) float32.
      strides: L, pixels of the image per pixel of a level.
      size: m.
      samples: along each axis of a made pixel.
      finest_px: as of `level_of`.

    Returns:
      (R, m, m, C) of the same dtype; zeros for boxes without area.
    """
    real = box_maths.areas(boxes) > 0
    inside = jnp.where(real[:, None], boxes, 0.0)
    level = jnp.where(real, level_of(boxes, finest_px, len(pyramid)), -1)
    settings = {"strides": tuple(strides), "size": size, "samples": samples}
    products, gathers = (functools.partial(way, **settings) for way in (align_by_products, align_by_gathers))
    return lax.platform_dependent(tuple(pyramid), inside, level, tpu=products, default=gathers)


def align_by_products(pyramid, boxes, level, *, strides, size, samples):
    """Two matrix products per level, with the weights of all samples of a made pixel added up: what TPUs run.

    The products of levels that a box is not read from are zeros; their cost does not depend on the samples.
    """
    made = []
    for number, (features, stride) in enumerate(zip(pyramid, strides, strict=True)):
        height, width, _ = features.shape
        own = (level == number)[:, None, None]
        rows, columns = (
            _axis_weights(boxes[:, axis], boxes[:, axis + 2], count, stride, size, samples)
            for axis, count in enumerate((height, width))
        )
        rows, columns = jnp.where(own, rows, 0).astype(features.dtype), columns.astype(features.dtype)
        read = jnp.einsum("rih,hwc->riwc", rows, features)
        made.append(jnp.einsum("rjw,riwc->rijc", columns, read))
    return functools.reduce(jnp.add, made)


def align_by_gathers(pyramid, boxes, level, *, strides, size, samples):
    """Four reads for each sample from the levels laid out one behind the other: what CPUs and GPUs run.

    On two CPU cores, 512 boxes of 7x7 pixels, 256 channels, 544x704 pixels from stride 4 on took 1.1 s and 2.6 s with
    the gradient, the products 7.4 and 28; 96 boxes of 64 channels at 192x192 from stride 2 on 12 and 76 ms against 173
    and 340.
    """
    channels = pyramid[0].shape[-1]
    flat = jnp.concatenate([features.reshape(-1, channels) for features in pyramid])
    counts = jnp.array([features.shape[:2] for features in pyramid])
    first = jnp.cumsum(jnp.append(0, counts[:-1].prod(1)))
    own = jnp.maximum(level, 0)
    stride, count, start = jnp.array(strides)[own], counts[own], first[own]
    (y0, y1, fy), (x0, x1, fx) = (
        _neighbours(
            _sample_places(boxes[:, axis], boxes[:, axis + 2], stride, size * samples), count[:, axis]
        )
        for axis in range(2)
    )

    def read(row: jax.Array, column: jax.Array) -> jax.Array:
        index = start[:, None, None] + row[:, :, None] * count[:, 1, None, None] + column[:, None]
        return flat.at[index].get(mode="promise_in_bounds")

    fy, fx = fy[:, :, None, None].astype(flat.dtype), fx[:, None, :, None].astype(flat.dtype)
    above = read(y0, x0) * (1 - fx) + read(y0, x1) * fx
    below = read(y1, x0) * (1 - fx) + read(y1, x1) * fx
    sampled = above * (1 - fy) + below * fy
    made = sampled.reshape(len(boxes), size, samples, size, samples, channels).mean((2, 4))
    return jnp.where((level >= 0)[:, None, None, None], made, 0)


def mask_targets(
    labels: jax.Array, ids: jax.Array, boxes: jax.Array, *, size: int, samples: int
) -> tuple[jax.Array, jax.Array]:
    """How much of each part of a box its cell covers, read from the one label map of all cells.

    Args:
      labels: (Y, X) int32: cells 1.., 0 background, -1 unknown.
      ids: (R,) int32, the label of each box's cell.
      boxes: (R, 4) float32.
      size: m.
      samples: along each axis of a part.

    Returns:
      (R, m, m) float32 share of the samples that are the cell's, and (R, m, m) float32 share of those that are known;
      samples outside of the map are unknown.
    """
    stride = jnp.ones(len(boxes), jnp.int32)
    places = [
        jnp.floor(_sample_places(boxes[:, axis], boxes[:, axis + 2], stride, size * samples) + 0.5)
        for axis in range(2)
    ]
    inside = [(place >= 0) & (place < n) for place, n in zip(places, labels.shape, strict=True)]
    row, column = (
        jnp.clip(place, 0, n - 1).astype(jnp.int32) for place, n in zip(places, labels.shape, strict=True)
    )
    index = row[:, :, None] * labels.shape[1] + column[:, None]
    found = jnp.asarray(labels).reshape(-1).at[index].get(mode="promise_in_bounds")
    found = jnp.where(inside[0][:, :, None] & inside[1][:, None], found, -1)

    def share(chosen: jax.Array) -> jax.Array:
        parts = chosen.reshape(len(boxes), size, samples, size, samples)
        return parts.astype(jnp.float32).mean((2, 4))

    return share((found == ids[:, None, None]) & (found > 0)), share(found >= 0)


def _sample_places(low: jax.Array, high: jax.Array, stride: jax.Array, count: int) -> jax.Array:
    """(R, count) float32 index on a level, of samples in the middles of equal parts of low..high (R,)."""
    step = (jnp.arange(count, dtype=jnp.float32) + 0.5) / count
    return (low[:, None] + step * (high - low)[:, None]) / stride[:, None] - 0.5


def _neighbours(place: jax.Array, count: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The pixels before and behind each place (R, n), and the share of the latter; counts (R,) pixels on the axis."""
    last = count[:, None] - 1
    place = jnp.clip(place, 0, last)
    before = jnp.floor(place)
    index = before.astype(jnp.int32)
    return index, jnp.minimum(index + 1, last), place - before


def _axis_weights(low, high, count, stride, size, samples):
    """(R, size, count) float32: the share of each pixel of an axis in each made one."""
    strides = jnp.full(len(low), stride)
    place = jnp.clip(_sample_places(low, high, strides, size * samples), 0, count - 1)
    pixel = lax.broadcasted_iota(jnp.float32, (1, 1, count), 2)
    tent = jnp.maximum(1 - jnp.abs(place[:, :, None] - pixel), 0)
    return tent.reshape(len(low), size, samples, count).mean(2)
