"""Grey values on a common scale: one function for training, evaluation and prediction.

    (x - p1) / (p99.8 - p1)        per frame and channel

p1 and p99.8 are percentiles of the whole frame, so a crop or a tile is normalised like the frame it is from.
Shapes: C channels, *S space.
"""

import numpy as np

PERCENTILES = (1.0, 50.0, 99.8)
"""What is stored of each frame and channel, in this order."""

_BLOCK = 1 << 22
"""Voxels counted at a time; `bincount` needs eight bytes for each."""


def percentiles(image: np.ndarray) -> np.ndarray:
    """Measures a frame; percentiles are interpolated linearly, as `np.percentile` does.

    Args:
      image: (C, *S) grey values of any real dtype.

    Returns:
      (C, 3) float32, the `PERCENTILES` of each channel. Where the outer two are equal (cells on less than 0.2 % of
      a noiseless frame) they are the least and the largest value instead.

    Raises:
      ValueError: the frame has no pixels, or holds NaN or infinite values.
    """
    if image.size == 0:
        raise ValueError(f"an image of shape {image.shape} has no pixels")
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise ValueError("the image holds NaN or infinite values")
    values = np.stack([_percentiles(channel.reshape(-1)) for channel in image])
    for channel in np.flatnonzero(values[:, 0] >= values[:, 2]):
        values[channel, [0, 2]] = image[channel].min(), image[channel].max()
    return values.astype(np.float32)


def normalise(image: np.ndarray, percentiles: np.ndarray) -> np.ndarray:
    """Scales each channel so that its percentiles 1 and 99.8 become 0 and 1, without clipping.

    A constant channel becomes 0.

    Args:
      image: (C, *S) grey values, a frame or a part of it.
      percentiles: (C, 3) of the whole frame.

    Returns:
      (C, *S) float32.
    """
    low, _, high = np.asarray(percentiles, np.float32).T.reshape(3, -1, *(1,) * (image.ndim - 1))
    scale = high - low
    # In float32 from the start: a 32-bit difference is exact for 8- and 16-bit images.
    return (image.astype(np.float32) - low) / np.where(scale > 0, scale, np.float32(1))


def _percentiles(values: np.ndarray) -> np.ndarray:
    if values.dtype in (np.uint8, np.uint16):
        return _from_counts(values)
    return np.percentile(values, PERCENTILES)


def _from_counts(values: np.ndarray) -> np.ndarray:
    """`np.percentile` by counting, which makes no copy of a large volume and is several times faster."""
    counts = np.zeros(np.iinfo(values.dtype).max + 1, np.int64)
    for start in range(0, len(values), _BLOCK):
        block = np.bincount(values[start : start + _BLOCK])
        counts[: len(block)] += block
    rank = np.asarray(PERCENTILES) / 100 * (len(values) - 1)
    below = np.floor(rank).astype(np.int64)
    cumulative = np.cumsum(counts)
    low = np.searchsorted(cumulative, below, side="right")
    high = np.searchsorted(cumulative, np.minimum(below + 1, len(values) - 1), side="right")
    return low + (high - low) * (rank - below)
