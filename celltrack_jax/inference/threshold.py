"""Cells without learning, to compare with: Otsu's threshold and a watershed of the distance to the background.

Of an image alone, without any setting that would be chosen by results. Shapes: Y, X the image.
"""

import numpy as np
from scipy import ndimage
from skimage import feature, filters, measure, segmentation

_SMOOTH_PX, _TEXTURE_PX, _APART_PX = 1.0, 3.0, 5


def threshold_and_watershed(image: np.ndarray) -> np.ndarray:
    """Returns (Y, X) int32 labels 1..K of an image (Y, X) of any numeric dtype.

    Cells are bright, or have texture: of both maps the one is taken that its threshold divides better, by the share of
    the variance that lies between the two parts, which is what Otsu's threshold makes largest.
    """
    maps = (
        ndimage.gaussian_filter(np.asarray(image, np.float64), _SMOOTH_PX),
        _texture(np.asarray(image, np.float64)),
    )
    cuts = [filters.threshold_otsu(each) if np.ptp(each) else np.inf for each in maps]
    shown, cut = max(zip(maps, cuts, strict=True), key=lambda pair: _divided(*pair))
    mask = ndimage.binary_fill_holes(ndimage.binary_opening(shown > cut))
    depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), _SMOOTH_PX)
    parts = np.asarray(measure.label(mask, connectivity=1))
    seeds = np.zeros(mask.shape, np.int32)
    peaks = feature.peak_local_max(depth, min_distance=_APART_PX, labels=parts)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return segmentation.watershed(-depth, seeds, mask=mask).astype(np.int32)


def _texture(image: np.ndarray) -> np.ndarray:
    """Standard deviation around each pixel."""
    mean = ndimage.gaussian_filter(image, _TEXTURE_PX)
    return np.sqrt(np.maximum(ndimage.gaussian_filter(np.square(image), _TEXTURE_PX) - np.square(mean), 0))


def _divided(shown: np.ndarray, cut: float) -> float:
    above = shown > cut
    share = float(above.mean())
    if share in (0.0, 1.0):
        return 0.0
    return share * (1 - share) * float(shown[above].mean() - shown[~above].mean()) ** 2 / float(shown.var())
