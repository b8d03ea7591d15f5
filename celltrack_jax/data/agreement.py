"""Whether masks lie on what their images show. numpy only.

Cells are brighter, darker or more textured than what is around them; masks of another movie, or mirrored ones, are not.
Shapes: C channels, Z Y X space.
"""

from collections.abc import Sequence

import numpy as np

LEAST = 0.1
"""Difference of mean ranks that one of the two features has to reach. Of the movies at hand whose masks fit, bright
nuclei and bright field, the larger one was 0.29 or more; of one whose masks are not those of its images, 0.02."""
_ROWS, _FEWEST = 4, 50


def measure(image: np.ndarray, mask: np.ndarray) -> tuple[float, float] | None:
    """Compares labelled with other voxels of the plane in which most are labelled, in the channel that shows cells best.

    Args:
      image: (C, Z, Y, X) grey values.
      mask: (Z, Y, X) integers, 0 background.

    Returns:
      Mean rank, in 0..1, of the labelled minus that of the others: of the intensity, and of the step to the next
      voxel along x. None where there is too little of either.
    """
    plane = int((mask > 0).sum((1, 2)).argmax())
    inside = mask[plane, ::_ROWS, 1::2] > 0
    if min(inside.sum(), (~inside).sum()) < _FEWEST:
        return None
    found = []
    for channel in image[:, plane, ::_ROWS].astype(np.float64):
        features = (channel[:, 1::2], np.abs(np.diff(channel, axis=1))[:, ::2])
        brightness, texture = (_difference(feature[:, : inside.shape[1]], inside) for feature in features)
        found.append((brightness, texture))
    return max(found, key=lambda pair: max(map(abs, pair)))


def doubt(measures: Sequence[tuple[float, float]]) -> str | None:
    """Says why masks seem not to belong to their images; None where they do.

    Args:
      measures: of the frames of a movie.
    """
    if not measures:
        return None
    brightness, texture = np.mean(measures, 0)
    if max(abs(brightness), abs(texture)) >= LEAST:
        return None
    return (
        f"in {len(measures)} frames labelled pixels are neither brighter, darker nor more textured than others (ranks "
        f"differ by {brightness:.3f} and {texture:.3f}; by {LEAST} where masks fit): are they masks of another movie, "
        "mirrored or shifted?"
    )


def _difference(values: np.ndarray, inside: np.ndarray) -> float:
    # Equal values share a rank, or the order of the pixels would count in dark, empty images.
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count + 1) / 2)[place.reshape(values.shape)] / values.size
    return float(rank[inside].mean() - rank[~inside].mean())
