"""Instances from dense maps on the host: what the decoders share. numpy, scipy and scikit-image.

Shapes: S spatial axes (Y, X) or (Z, Y, X), K instances. Pixels are connected through faces.
"""

import numpy as np
from scipy import ndimage
from skimage import segmentation


def split_by_height(height: np.ndarray, mask: np.ndarray, prominence: float) -> np.ndarray:
    """Splits a mask into the basins of a height map's peaks: a seeded watershed on the h-maxima.

    All local maxima start as seeds of one watershed. Basins are then joined, over the highest saddle first,
    while the lower of their two peaks rises less than `prominence` above the saddle. The seeds that remain
    are the h-maxima of the map; unlike a morphological reconstruction, which is the usual way to find them,
    this costs one flooding.

    Args:
      height: (*S) float32.
      mask: (*S) bool.
      prominence: least rise of a peak over the saddle to a higher one, in the unit of the height.

    Returns:
      (*S) int32 in 1..K, 0 outside the mask. Every connected part of the mask has at least one instance.
    """
    peaks = _local_maxima(np.where(mask, height, -np.inf)) & mask
    seeds = components(peaks)
    count = int(seeds.max(initial=0))
    basins = segmentation.watershed(-height, seeds, mask=mask)
    if count < 2:
        return basins.astype(np.int32)
    first, second, saddle = _saddles(basins, height)
    top = np.full(count + 1, -np.inf)
    np.maximum.at(top, basins[peaks], height[peaks])
    root = _merged(top, first, second, saddle, prominence)
    return relabel_in_order(root[basins])


def _local_maxima(height: np.ndarray) -> np.ndarray:
    """Pixels that no face neighbour exceeds (four times faster than a maximum filter's footprint)."""
    maxima = np.ones(height.shape, bool)
    for axis in range(height.ndim):
        here, there = _neighbours(height, axis)
        not_below, not_above = _neighbours(maxima, axis)
        not_below &= here >= there
        not_above &= there >= here
    return maxima


def _saddles(basins: np.ndarray, height: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Highest pass between each pair of touching basins, sorted from the highest: (E,) each."""
    pairs, passes = [], []
    for axis in range(basins.ndim):
        a, b = _neighbours(basins, axis)
        touch = (a != b) & (a > 0) & (b > 0)
        here, there = (h[touch] for h in _neighbours(height, axis))
        pairs.append(np.sort(np.stack([a[touch], b[touch]], 1), 1))
        passes.append(np.minimum(here, there))
    pair, height_of_pass = np.concatenate(pairs), np.concatenate(passes)
    order = np.lexsort((-height_of_pass, pair[:, 1], pair[:, 0]))
    pair, height_of_pass = pair[order], height_of_pass[order]
    highest = np.ones(len(pair), bool)
    highest[1:] = (pair[1:] != pair[:-1]).any(1)
    pair, height_of_pass = pair[highest], height_of_pass[highest]
    order = np.argsort(-height_of_pass, kind="stable")
    return pair[order, 0], pair[order, 1], height_of_pass[order]


def _merged(
    top: np.ndarray, first: np.ndarray, second: np.ndarray, saddle: np.ndarray, prominence: float
) -> np.ndarray:
    """Union-find from the highest saddle down: the (K + 1,) root of each basin."""
    parent = np.arange(len(top))

    def find(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for a, b, height in zip(first.tolist(), second.tolist(), saddle.tolist(), strict=True):
        lower, upper = sorted((find(a), find(b)), key=lambda node: top[node])
        if lower != upper and top[lower] - height < prominence:
            parent[lower] = upper
    return np.array([find(node) for node in range(len(top))])


def components(mask: np.ndarray) -> np.ndarray:
    """Connected parts of a mask: (*S) int32."""
    labels = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, output=labels)
    return labels


def fill_holes(labels: np.ndarray) -> np.ndarray:
    """Gives background that one instance encloses to that instance.

    Background that two instances enclose together, or that reaches the border of the map, stays.

    Args:
      labels: (*S) int32.

    Returns:
      (*S) int32.
    """
    empty = components(labels == 0)
    is_hole = np.ones(int(empty.max(initial=0)) + 1, bool)
    is_hole[0] = False
    for axis in range(labels.ndim):
        for part in (empty.take(0, axis), empty.take(-1, axis)):
            is_hole[part] = False
    if not is_hole.any():
        return labels
    pixel = np.flatnonzero(is_hole[empty])
    hole = empty.reshape(-1)[pixel]
    low = np.full(len(is_hole), np.iinfo(np.int32).max, np.int32)
    high = np.zeros(len(is_hole), np.int32)
    # No hole lies at the border: each of its pixels has all neighbours.
    for stride in np.cumprod((1, *labels.shape[:0:-1])):
        for step in (-stride, stride):
            cell = labels.reshape(-1)[pixel + step]
            edge = cell > 0
            np.minimum.at(low, hole[edge], cell[edge])
            np.maximum.at(high, hole[edge], cell[edge])
    filled = labels.copy()
    filled.reshape(-1)[pixel] = np.where(low == high, high, 0)[hole]
    return filled


def drop_small(labels: np.ndarray, min_size: int) -> np.ndarray:
    """Removes instances with fewer than `min_size` pixels and numbers the others 1..K in order: (*S) int32."""
    size = np.bincount(labels.reshape(-1))
    kept = size >= min_size
    kept[0] = False
    return (np.cumsum(kept) * kept).astype(np.int32)[labels]


def grow_into(labels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Extends instances over the rest of a mask, each pixel to the instance it is reached from first.

    Parts of the mask that no instance touches become instances of their own.

    Args:
      labels: (*S) int32, inside the mask.
      mask: (*S) bool.

    Returns:
      (*S) int32.
    """
    grown = segmentation.watershed(np.zeros(mask.shape, np.uint8), labels, mask=mask)
    alone = components(mask & (grown == 0))
    return np.where(alone > 0, alone + labels.max(initial=0), grown).astype(np.int32)


def relabel_in_order(labels: np.ndarray) -> np.ndarray:
    """Numbers the positive labels 1..K in their order: (*S) int32."""
    return drop_small(labels, 1)


def _neighbours(array: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Views of all pairs of pixels that follow each other along an axis."""
    before, after = [slice(None)] * array.ndim, [slice(None)] * array.ndim
    before[axis], after[axis] = slice(None, -1), slice(1, None)
    return array[tuple(before)], array[tuple(after)]
