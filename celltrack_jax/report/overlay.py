"""Pictures of frames: grey images for the eye, outlines of cells, and both in one.

Volumes are shown as maximum projections along z, with the outline of each cell's shadow.

Shapes: Y X of a frame, Z of a volume, P points.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage import measure

DARKEST, BRIGHTEST = 1.0, 99.8
"""Percentiles of a frame that become black and white: hot pixels would leave the cells dark."""


class Shadow(NamedTuple):
    """One cell seen along z."""

    label: int
    corner: tuple[int, int]
    """y, x of the mask's first pixel in the frame."""
    mask: np.ndarray
    """(Y, X) bool of its bounding box."""


def grey(image: np.ndarray, longest: int | None = None) -> np.ndarray:
    """Makes a picture of a frame.

    Args:
      image: (Y, X) or (Z, Y, X), any numeric dtype; non-finite values count as 0.
      longest: the picture is made smaller until neither side exceeds this; None keeps the size.

    Returns:
      (Y, X) uint8.
    """
    flat = np.nan_to_num(np.asarray(image, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    flat = flat.max(axis=0) if flat.ndim == 3 else flat
    low, high = np.percentile(flat, (DARKEST, BRIGHTEST))
    scale = picture_scale(flat.shape, longest)
    if scale < 1:
        height, width = picture_size(flat.shape, longest)
        flat = np.asarray(Image.fromarray(flat).resize((width, height), Image.Resampling.LANCZOS))
    shown = (flat - low) / max(float(high - low), 1e-6)
    return np.rint(255 * np.clip(shown, 0, 1)).astype(np.uint8)


def picture_scale(shape: tuple[int, ...], longest: int | None) -> float:
    """Size of a picture relative to its frame (..., Y, X), at most 1."""
    return 1.0 if longest is None else min(1.0, longest / max(shape[-2:]))


def picture_size(shape: tuple[int, ...], longest: int | None) -> tuple[int, int]:
    """Height and width in pixels of the picture of a frame (..., Y, X)."""
    scale = picture_scale(shape, longest)
    return max(1, round(shape[-2] * scale)), max(1, round(shape[-1] * scale))


def shadows(labels: np.ndarray) -> Iterator[Shadow]:
    """Yields the cells of a mask (Y, X) or (Z, Y, X), integers, in the order of their labels."""
    labels = np.asarray(labels)
    present, dense = np.unique(labels[labels > 0], return_inverse=True)
    compact = np.zeros(labels.shape, np.int32)
    compact[labels > 0] = dense + 1
    for number, box in enumerate(ndimage.find_objects(compact), start=1):
        mask = compact[box] == number
        mask = mask.any(axis=0) if mask.ndim == 3 else mask
        yield Shadow(int(present[number - 1]), (box[-2].start, box[-1].start), mask)


def outlines(cells: Sequence[Shadow], scale: float, tolerance: float, smooth: bool) -> list[list[np.ndarray]]:
    """Returns the rings around each cell.

    Args:
      cells: of one frame.
      scale: pixels of the picture per pixel of the frame.
      tolerance: how far, in pixels of the picture, a ring may leave the outline.
      smooth: whether the stairs of pixels are smoothed away first.

    Returns:
      For each cell its rings, (P, 2) float64 x, y in the picture, without the first point again at the end.
      0, 0 is the upper left corner of the first pixel.
    """
    rings, owner = [], []
    for number, cell in enumerate(cells):
        for ring in measure.find_contours(np.pad(cell.mask, 1).astype(np.float32), 0.5):
            points = _smoothed(ring[:-1, ::-1]) if smooth else ring[:-1, ::-1]
            # -1 for the padding, +0.5 because coordinates are pixel centres here and corners in the picture.
            rings.append((points - 0.5 + np.asarray(cell.corner)[::-1]) * scale)
            owner.append(number)
    found: list[list[np.ndarray]] = [[] for _ in cells]
    for number, ring in zip(owner, simplified(rings, tolerance), strict=True):
        found[number].append(ring)
    return found


def simplified(rings: Sequence[np.ndarray], tolerance: float) -> list[np.ndarray]:
    """Drops points of closed rings (P, 2) as long as all that were dropped stay within `tolerance` of the ring.

    All rings at once: a point goes when its distance from the line between its neighbours, on top of what
    was dropped beside it before, is small enough. Ramer-Douglas-Peucker keeps 20 to 40 % fewer points of discs,
    but takes 0.7 ms per cell, half a minute for a page of a crowded movie.
    """
    if not rings:
        return []
    points = np.concatenate(rings)
    ring = np.repeat(np.arange(len(rings)), [len(r) for r in rings])
    slack = np.zeros(len(points))  # of the edge from each point to the next
    idle = turn = 0
    while idle < 2:
        first = np.searchsorted(ring, np.arange(len(rings)))
        size = np.bincount(ring, minlength=len(rings))
        place = np.arange(len(points)) - first[ring]
        before = first[ring] + (place - 1) % size[ring]
        after = first[ring] + (place + 1) % size[ring]
        chord, arm = points[after] - points[before], points - points[before]
        length = np.maximum(np.hypot(*chord.T), 1e-9)
        deviation = np.abs(chord[:, 0] * arm[:, 1] - chord[:, 1] * arm[:, 0]) / length
        reach = deviation + np.maximum(slack, slack[before])
        # Every second point, so that neighbours never go together; in an odd ring the last is one of them.
        candidate = (place % 2 == turn) & (place + 1 < size[ring] + turn) & (size[ring] > 5)
        drop = np.logical_and(candidate, reach <= tolerance)
        keep = np.logical_not(drop)
        slack[before[drop]] = reach[drop]
        points, ring, slack = points[keep], ring[keep], slack[keep]
        idle = 0 if drop.any() else idle + 1
        turn = 1 - turn
    return np.split(points, np.flatnonzero(np.diff(ring)) + 1)


def _smoothed(ring: np.ndarray) -> np.ndarray:
    """Three passes of (1, 2, 1)/4 around a ring (P, 2); a disc of radius 6 px shrinks by 0.1 px."""
    if len(ring) < 16:  # a handful of pixels would all but vanish
        return ring
    kernel = np.array([1, 6, 15, 20, 15, 6, 1]) / 64
    around = np.concatenate([ring[-3:], ring, ring[:3]])
    return np.stack([np.convolve(column, kernel, "valid") for column in around.T], axis=1)


def overlay(
    image: np.ndarray, labels: np.ndarray, colours: Mapping[int, np.ndarray], width: int = 1
) -> np.ndarray:
    """Draws the outline of each cell into a picture of the frame.

    Args:
      image: (Y, X) or (Z, Y, X).
      labels: integers of the same shape; 0 is background.
      colours: (3,) uint8 by label; labels without one are drawn white.
      width: of the lines, in pixels inside the cell.

    Returns:
      (Y, X, 3) uint8.
    """
    picture = np.repeat(grey(image)[..., None], 3, axis=-1)
    white = np.full(3, 255, np.uint8)
    for label, (top, left), mask in shadows(labels):
        rim = np.logical_xor(mask, ndimage.binary_erosion(mask, iterations=width))
        window = picture[top : top + mask.shape[0], left : left + mask.shape[1]]
        window[rim] = colours.get(label, white)
    return picture
