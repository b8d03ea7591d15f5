"""Diameters of cells, and their regression on what a network sees: Cellpose's size model (Stringer et al. 2021).

docs/originals.md, 3.4. On the host, numpy. Shapes: N images, F features of a style.
"""

import math
from typing import NamedTuple

import numpy as np

LEAST_DIAMETER = 5.0
"""Pixels."""
MEAN_DIAMETER = 30.0
"""Pixels, to which Cellpose scales images."""


def median_diameter(labels: np.ndarray) -> float:
    """Median over cells of the diameter of a disc of the same area, pixels; at least 5, 0 where no cell is.

    In volumes, of a ball of the same size.

    Args:
      labels: (*S) integers, cells positive.
    """
    return of_sizes(np.unique(labels[labels > 0], return_counts=True)[1], labels.ndim)


def of_sizes(sizes: np.ndarray, ndim: int) -> float:
    """As `median_diameter`, of cells of so many pixels (N,) in 2 or 3 axes."""
    if not len(sizes):
        return 0.0
    if ndim == 3:
        return max(float(np.median(np.cbrt(6 * sizes / math.pi))), LEAST_DIAMETER)
    return max(float(np.median(2 * np.sqrt(sizes / math.pi))), LEAST_DIAMETER)


class SizeModel(NamedTuple):
    """The logarithm of a diameter over 30 pixels, as a linear map of the style."""

    weights: np.ndarray
    """(F,) float64."""
    mean_style: np.ndarray
    """(F,) float64, of the images that it was fitted to."""
    mean_log: float
    """Of their diameters over 30 pixels."""
    least: float
    """Pixels, the smallest of these diameters, at least 5: a line tells nothing beyond what it was fitted to."""
    most: float
    """And the largest."""

    def diameters(self, styles: np.ndarray) -> np.ndarray:
        """Diameters in pixels, within those that it was fitted to: (N,) float64 from styles (N, F)."""
        logs = (np.asarray(styles, np.float64) - self.mean_style) @ self.weights + self.mean_log
        return self.within(MEAN_DIAMETER * np.exp(logs))

    def within(self, diameters: np.ndarray) -> np.ndarray:
        """Cuts diameters in pixels to the range of those that it was fitted to."""
        return np.clip(diameters, self.least, self.most)


def fit(styles: np.ndarray, diameters: np.ndarray, *, penalty: float = 1.0) -> SizeModel:
    """Fits by ridge regression.

    Args:
      styles: (N, F) of images as they were shown to the network.
      diameters: (N,) pixels in these images, positive: of one that was magnified, the diameter times the magnification.
      penalty: of the weights' sum of squares; the mean is free.

    Raises:
      ValueError: there is no image, or a diameter is not positive.
    """
    styles, diameters = np.asarray(styles, np.float64), np.asarray(diameters, np.float64)
    if not len(styles) or not (diameters > 0).all():
        raise ValueError(
            f"a size model of {len(styles)} images with diameters {diameters}: leave out images without cells"
        )
    logs = np.log(diameters / MEAN_DIAMETER)
    mean_style, mean_log = styles.mean(0), float(logs.mean())
    off = styles - mean_style
    square = off.T @ off + penalty * np.eye(off.shape[1])
    weights = np.linalg.solve(square, off.T @ (logs - mean_log))
    least, most = (max(float(limit), LEAST_DIAMETER) for limit in (diameters.min(), diameters.max()))
    return SizeModel(weights, mean_style, mean_log, least, most)
