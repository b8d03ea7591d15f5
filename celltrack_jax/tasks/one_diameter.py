"""Images shown to a network at the size at which their cells have the diameter that it was taught at.

Shapes: Y, X an image, y, x the image as it is shown, C channels, K channels of the network's output.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from celltrack_jax.errors import InputError
from celltrack_jax.ops import resize
from celltrack_jax.ops.rooms import room

Apply = Callable[[np.ndarray], Any]
"""(1, y, x, C) float32, of sizes that `padded` gives, -> (1, y, x, K)."""
_PER_DOUBLING = 2
_LARGEST = 1 << 28
"""Pixels of an image as it is shown: a map of 3 channels has 3 GiB."""


def shown_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Returns y, x of an image of Y, X that is shown so many times as large.

    Raises:
      InputError: it would be far too large.
    """
    y, x = (max(1, round(length * scale)) for length in size)
    if y * x > _LARGEST:
        raise InputError(
            f"{size[0]}x{size[1]} pixels would be shown to the network as {y}x{x}, which are too many: give another "
            "diameter of its cells, or cut the image into parts"
        )
    return y, x


def padded(image: np.ndarray, stride: tuple[int, int]) -> np.ndarray:
    """Mirrors an image (C, y, x) beyond its end, up to one of the sizes for which there are programs: (1, y, x, C)."""
    pads = [
        (0, room(size, step, per_doubling=_PER_DOUBLING) - size)
        for size, step in zip(image.shape[1:], stride, strict=True)
    ]
    return np.moveaxis(np.pad(image, [(0, 0), *pads], mode="symmetric"), 0, -1)[None]


def predict(image: np.ndarray, shown: tuple[int, int], apply: Apply, stride: tuple[int, int]) -> np.ndarray:
    """Returns the raw output for an image, at the image's own size: (Y, X, K) float32.

    Args:
      image: (C, Y, X) normalised float32.
      shown: y, x at which the network sees it.
      apply: the network.
      stride: its total pooling.
    """
    own = (image.shape[1], image.shape[2])
    image = image if shown == own else resize.resize_on_host(image, shown)
    output = np.asarray(apply(padded(image, stride))[0])[: shown[0], : shown[1]]
    if shown == own:
        return output
    return np.moveaxis(resize.resize_on_host(np.moveaxis(output, -1, 0), own), 0, -1)
