"""A network in numpy whose receptive field is known: a small U-Net of box filters, and a decoder by threshold."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import ndimage
from skimage.measure import label


class Toy:
    """Filters, pools, filters, repeats and filters, with a skip; zero padding at the border, as convolutions have."""

    channels = 2

    def __init__(self, ndim: int, radius: int = 1, stride: int = 2):
        """Takes the radius of the filters and the pooling of each axis."""
        self.ndim, self.radius = ndim, radius
        self.stride = (stride,) * ndim
        # Two filters at full resolution, one between pooling and repeating, and the pooling grid.
        self.halo = (2 * radius + stride * radius + stride - 1,) * ndim
        self.calls: list[tuple[int, ...]] = []

    def __call__(self, image: Any) -> np.ndarray:
        """(B, *T, C) to (B, *T, 2)."""
        self.calls.append(image.shape)
        return np.stack([self._one(one) for one in np.asarray(image)])

    def _one(self, image: np.ndarray) -> np.ndarray:
        fine = self._filter(image.sum(-1))
        coarse: np.ndarray = fine
        for axis, stride in enumerate(self.stride):
            shape = (*coarse.shape[:axis], -1, stride, *coarse.shape[axis + 1 :])
            coarse = np.max(coarse.reshape(shape), axis=axis + 1)
        coarse = self._filter(coarse)
        for axis, stride in enumerate(self.stride):
            coarse = np.repeat(coarse, stride, axis)
        return np.stack([self._filter(fine + coarse), fine - 0.4], -1).astype(np.float32)

    def _filter(self, image: np.ndarray) -> np.ndarray:
        # Unequal weights, so that a flip or an exchange of axes would be noticed.
        for axis in range(self.ndim):
            weights = np.arange(1.0, 2 * self.radius + 2) ** (axis + 1)
            image = ndimage.correlate1d(image, weights / weights.sum(), axis, mode="constant")
        return image

    def decode(self, prediction: np.ndarray, spacing: np.ndarray) -> np.ndarray:
        """Connected components of the second channel."""
        assert len(spacing) == self.ndim
        return np.asarray(label(prediction[..., 1] > 0, connectivity=1), np.int32)


def whole(network: Callable[[Any], Any], frame: np.ndarray, strides: tuple[int, ...]) -> np.ndarray:
    """Applies to a whole frame (*S, C), padded by mirroring to the stride."""
    pads = [(0, -size % stride) for size, stride in zip(frame.shape, strides, strict=False)]
    padded = np.pad(frame, [*pads, (0, 0)], mode="symmetric")
    prediction = np.asarray(network(padded[None]))[0]
    return prediction[tuple(slice(size) for size in frame.shape[:-1])]
