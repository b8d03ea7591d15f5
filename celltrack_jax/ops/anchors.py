"""Anchors: boxes of a few sizes and shapes at every place of a feature pyramid, from which a network tells boxes.

Ren et al. 2015, Faster R-CNN (arXiv:1506.01497); one set of sizes per level as in Lin et al. 2017 (arXiv:1612.03144).
Shapes: h, w places of a level, A anchors of a place.
"""

import math
from collections.abc import Sequence

import numpy as np


def level_shapes(size: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Places (h, w) of each level over an image of `size` pixels, rounded up."""
    return [(-(-size[0] // stride), -(-size[1] // stride)) for stride in strides]


def level_anchors(
    places: Sequence[int], stride: int, sizes: Sequence[float], ratios: Sequence[float]
) -> np.ndarray:
    """The anchors of one level, with their centres in the middle of what a place covers.

    Args:
      places: (h, w).
      stride: pixels between places.
      sizes: pixels, the square root of an anchor's area.
      ratios: height over width; each with each size.

    Returns:
      (h * w * A, 4) float32 boxes y0, x0, y1, x1; places row by row, sizes before ratios.
    """
    half = np.array(
        [(size * math.sqrt(ratio) / 2, size / math.sqrt(ratio) / 2) for size in sizes for ratio in ratios]
    )
    centre = [(np.arange(count) + 0.5) * stride for count in places]
    centres = np.stack(np.meshgrid(*centre, indexing="ij"), -1)[:, :, None]
    return np.concatenate([centres - half, centres + half], -1).reshape(-1, 4).astype(np.float32)


def pyramid_anchors(
    size: Sequence[int],
    strides: Sequence[int],
    sizes: Sequence[Sequence[float]],
    ratios: Sequence[float],
) -> list[np.ndarray]:
    """The anchors of all levels over an image.

    Args:
      size: (Y, X) pixels.
      strides: of the levels.
      sizes: of the anchors of each level.
      ratios: of all levels.

    Returns:
      (h * w * A, 4) float32 per level.
    """
    return [
        level_anchors(places, stride, own, ratios)
        for places, stride, own in zip(level_shapes(size, strides), strides, sizes, strict=True)
    ]
