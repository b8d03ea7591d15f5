"""Star-convex shapes drawn, measured and thinned out. numpy and scipy only.

A shape is a pixel and the lengths of its rays (`ops.star`), whose ends are the corners of a polygon or polyhedron. A
place between the rays of a face is a sum of their directions with positive factors; it lies inside of the shape where
the factors over the lengths add up to at most 1. The factors depend on the way from the pixel to the place alone, so
that all shapes are drawn by one sparse product.

Shapes: N shapes, n rays, D axes, M pixels of a window around a shape's own, P pairs of shapes, S spatial axes.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import sparse, spatial

from celltrack_jax.ops.star import directions, faces

_BLOCK = 256
"""Shapes that are judged at once."""
_BYTES = 1 << 26
"""Of what is computed at once."""
_WORD = 64
"""Pixels of a window's row that are kept in one integer."""


class Shapes(NamedTuple):
    """Shapes that start at pixels of one map."""

    pixel: np.ndarray
    """(N, D) int."""
    lengths: np.ndarray
    """(N, n) float32, positive, in the unit of the spacing."""
    spacing: np.ndarray
    """(D,) float."""

    def take(self, index: np.ndarray) -> "Shapes":
        """Returns some of them."""
        return self._replace(pixel=self.pixel[index], lengths=self.lengths[index])


def sizes_and_centres(shapes: Shapes) -> tuple[np.ndarray, np.ndarray]:
    """Measures shapes by the simplices between their pixel and each face.

    Returns:
      (N,) float64 areas or volumes, and (N, D) float64 centres of mass relative to the pixel; in the unit of the spacing.
    """
    axes, rays = shapes.pixel.shape[1], shapes.lengths.shape[1]
    corner = faces(axes, rays)
    ray = directions(axes, rays)[corner]
    unit = np.abs(np.linalg.det(ray)) / (2 if axes == 2 else 6)
    size, centre = np.empty(len(shapes.pixel)), np.empty((len(shapes.pixel), axes))
    for part in _parts(len(size), 8 * corner.size):
        length = shapes.lengths[part][:, corner].astype(np.float64)
        volume = unit * length.prod(-1)
        size[part] = volume.sum(1)
        # A simplex' centre is the mean of its corners, one of which is the pixel.
        moment = np.einsum("nf,nfk,fkd->nd", volume, length, ray, optimize=True)
        centre[part] = moment / ((axes + 1) * np.maximum(size[part], np.finfo(float).tiny)[:, None])
    return size, centre


def draw(shapes: Shapes, shape: tuple[int, ...]) -> np.ndarray:
    """Draws shapes; where they meet, a pixel goes to the first of them.

    Args:
      shapes: from the first to the last.
      shape: *S.

    Returns:
      (*S) int32, 1..N in the order of the shapes, 0 elsewhere.
    """
    labels = np.zeros(shape, np.int32)
    if not len(shapes.pixel):
        return labels
    window = _window_of(shapes)
    around = window.offsets()
    parts = list(_parts(len(shapes.pixel), 8 * len(around)))
    for part in reversed(parts):
        inside = window.inside(shapes.lengths[part]).T[::-1]
        which, place = np.nonzero(inside)
        pixel = shapes.pixel[part][::-1][which] + around[place]
        there = ((pixel >= 0) & (pixel < shape)).all(1)
        # What is written last stays: the first.
        labels[tuple(pixel[there].T)] = part.stop - which[there]
    return labels


def ball_overlaps(size: np.ndarray, centre: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Overlaps of the balls (discs in 2D) that are as large as shapes.

    Args:
      size: (N,) volumes or areas.
      centre: (N, D), in the unit of the spacing.

    Returns:
      A function of (P,) and (P,) indices: the volume that both balls share over that of the smaller one, (P,) in [0, 1].
    """
    radius = ball_radii(size, centre.shape[1])
    shared = _shared_area if centre.shape[1] == 2 else _shared_volume

    def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        distance = np.linalg.norm(centre[first] - centre[second], axis=1)
        small, large = np.sort([radius[first], radius[second]], 0)
        least = np.minimum(size[first], size[second])
        inside, apart = distance <= large - small, distance >= large + small
        meet = ~inside & ~apart
        share = np.where(inside, 1.0, 0.0)
        share[meet] = shared(small[meet], large[meet], distance[meet]) / least[meet]
        return np.clip(share, 0, 1)

    return overlaps


def ball_radii(size: np.ndarray, axes: int) -> np.ndarray:
    """Radii (N,) of the discs or balls of sizes (N,)."""
    return np.sqrt(size / np.pi) if axes == 2 else np.cbrt(size * 3 / (4 * np.pi))


def _shared_area(small: np.ndarray, large: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Area that two discs share whose edges cross."""
    total = 0.0
    for own, other in ((small, large), (large, small)):
        # Signed distance from the own centre to the chord, over the own radius.
        chord = np.clip((distance**2 + own**2 - other**2) / (2 * distance * own), -1, 1)
        total = total + own**2 * (np.arccos(chord) - chord * np.sqrt(1 - chord**2))
    return total


def _shared_volume(small: np.ndarray, large: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Volume that two balls share whose surfaces cross."""
    deep = small + large - distance
    return (
        np.pi
        * deep**2
        * (distance**2 + 2 * distance * (small + large) - 3 * (large - small) ** 2)
        / (12 * distance)
    )


def pixel_overlaps(shapes: Shapes) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Overlaps of shapes as they are drawn, beyond the map's border too.

    Shapes are drawn once, into rows of bits; what two share is counted in their rows, shifted over each other.

    Returns:
      A function of (P,) and (P,) indices: the pixels in both shapes over those of the smaller one, (P,) in [0, 1].
    """
    window = _window_of(shapes)
    bits = np.empty((len(shapes.pixel), *window.packed), np.uint64)
    for part in _parts(len(bits), 8 * int(np.prod(window.size))):
        bits[part] = _pack(window.inside(shapes.lengths[part]), window.size)
    count = np.bitwise_count(bits).reshape(len(bits), -1).sum(1, dtype=np.int64)

    def overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        shared = np.empty(len(first), np.int64)
        for part in _parts(len(first), 8 * 8 * int(np.prod(window.packed))):
            shift = shapes.pixel[second[part]] - shapes.pixel[first[part]]
            both = bits[first[part]] & _shifted(bits, second[part], shift)
            shared[part] = np.bitwise_count(both).reshape(len(both), -1).sum(1, dtype=np.int64)
        return shared / np.minimum(count[first], count[second])

    return overlaps


def keep_first(
    position: np.ndarray,
    reach: np.ndarray,
    overlaps: Callable[[np.ndarray, np.ndarray], np.ndarray],
    most: float,
) -> np.ndarray:
    """Keeps the first shape, drops those that overlap it too much, keeps the first of the rest, and so on.

    In blocks: what is kept of the first shapes that are left is compared with all later ones nearby, at once.

    Args:
      position: (N, D), in the unit of the spacing.
      reach: (N,) shapes lie within so much of their position.
      overlaps: as `ball_overlaps` and `pixel_overlaps` return it.
      most: overlap with a kept shape that a shape may have.

    Returns:
      Indices of the kept ones, ascending.
    """
    if not len(position):
        return np.zeros(0, np.int64)
    tree, widest = spatial.cKDTree(position), reach.max()
    left = np.ones(len(position), bool)
    kept = []
    block = np.arange(min(_BLOCK, len(left)))
    while len(block):
        left[block] = False
        first = block[_first_of_block(block, position, reach, overlaps, most)]
        kept.append(first)
        around = tree.query_ball_point(position[first], reach[first] + widest)
        one = np.repeat(first, [len(near) for near in around])
        other = np.concatenate([np.asarray(near, np.int64) for near in around])
        pair = left[other]
        one, other = one[pair], other[pair]
        near = np.linalg.norm(position[one] - position[other], axis=1) < reach[one] + reach[other]
        one, other = one[near], other[near]
        left[other[overlaps(one, other) > most]] = False
        block = np.flatnonzero(left)[:_BLOCK]
    return np.concatenate(kept)


def _first_of_block(
    block: np.ndarray,
    position: np.ndarray,
    reach: np.ndarray,
    overlaps: Callable[[np.ndarray, np.ndarray], np.ndarray],
    most: float,
) -> np.ndarray:
    """`keep_first` among a few: (len(block),) bool."""
    apart = np.linalg.norm(position[block][:, None] - position[block], axis=-1)
    one, other = np.nonzero(np.triu(apart < reach[block][:, None] + reach[block], 1))
    rival = np.zeros(apart.shape, bool)
    rival[one, other] = overlaps(block[one], block[other]) > most
    keep = np.ones(len(block), bool)
    for k in range(len(block)):
        if keep[k]:
            keep &= ~rival[k]
    return keep


class _Window(NamedTuple):
    """The pixels around a shape's own, as far as a shape may reach."""

    reach: tuple[int, ...]
    """D pixels to either side."""
    factors: sparse.csr_array
    """(M, n) float32: of the directions of the rays around each pixel's direction."""

    @property
    def size(self) -> tuple[int, ...]:
        """Pixels along each axis."""
        return tuple(2 * r + 1 for r in self.reach)

    @property
    def packed(self) -> tuple[int, ...]:
        """The same with the last axis in words."""
        return *self.size[:-1], -(-self.size[-1] // _WORD)

    def offsets(self) -> np.ndarray:
        """(M, D) int, from the shape's pixel."""
        line = [np.arange(-r, r + 1) for r in self.reach]
        return np.stack(np.meshgrid(*line, indexing="ij"), -1).reshape(-1, len(line))

    def inside(self, lengths: np.ndarray) -> np.ndarray:
        """Which pixels belong to shapes of lengths (N, n): (M, N) bool."""
        depth = self.factors @ np.ascontiguousarray(1 / lengths.T, np.float32)
        # A pixel at a ray's very end counts.
        return depth <= 1 + 1e-5


def _window_of(shapes: Shapes) -> _Window:
    """The window that holds all of the shapes; some sizes only, as each takes time to make."""
    axes, rays = shapes.pixel.shape[1], shapes.lengths.shape[1]
    longest = shapes.lengths.max(0)[:, None] * np.abs(directions(axes, rays))
    pixels = np.floor(longest.max(0) / shapes.spacing + 1e-4).astype(int)
    reach = tuple(int(4 * np.ceil(r / 4)) if r > 8 else int(r) for r in pixels)
    return _window(rays, tuple(float(size) for size in shapes.spacing), reach)


@functools.lru_cache(maxsize=32)
def _window(rays: int, spacing: tuple[float, ...], reach: tuple[int, ...]) -> _Window:
    axes = len(spacing)
    corner = faces(axes, rays)
    solve = np.linalg.inv(directions(axes, rays)[corner].transpose(0, 2, 1))
    # The face that a direction passes through is that whose plane it meets first.
    normal = solve.sum(1)
    window = _Window(reach, sparse.csr_array((1, 1)))
    place = window.offsets() * np.array(spacing)
    face = np.empty(len(place), np.int64)
    for part in _parts(len(place), 8 * len(corner)):
        face[part] = (place[part] @ normal.T).argmax(1)
    factor = np.maximum(np.einsum("mkd,md->mk", solve[face], place), 0).astype(np.float32)
    row = np.repeat(np.arange(len(place)), axes)
    entries = (factor.reshape(-1), (row, corner[face].reshape(-1)))
    return window._replace(factors=sparse.csr_array(entries, shape=(len(place), rays)))


def _pack(inside: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Writes windows (M, N) bool as bits, the first pixel of a row as the lowest: (N, ..., words) uint64."""
    bits = inside.view(np.uint8).reshape(int(np.prod(size[:-1])), size[-1], -1)
    packed = np.zeros((len(bits), -(-size[-1] // _WORD) * _WORD // 8, bits.shape[-1]), np.uint8)
    # Packed first, and only then in the order of the shapes: an eighth of the bytes. np.packbits took twice as long.
    for k in range(8):
        every = bits[:, k::8]
        packed[:, : every.shape[1]] |= every << np.uint8(k)
    return (
        np.ascontiguousarray(np.moveaxis(packed, -1, 0))
        .view("<u8")
        .reshape(-1, *size[:-1], packed.shape[1] // 8)
    )


def _shifted(bits: np.ndarray, which: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Takes (P,) of the packed windows (N, ..., words) and moves them by (P, D) pixels; what leaves a window is lost."""
    sizes = bits.shape[1:-1]
    one_each = [1] * len(sizes)
    index, inside = [which.reshape(-1, *one_each)], np.ones((len(which), *one_each), bool)
    for axis, size in enumerate(sizes):
        source = (np.arange(size) - shift[:, axis, None]).reshape(
            len(which), *[size if a == axis else 1 for a in range(len(sizes))]
        )
        index.append(np.clip(source, 0, size - 1))
        inside = inside & (source == index[-1])
    taken = bits[tuple(index)]
    taken *= inside[..., None]
    words, rest = np.divmod(shift[:, -1], _WORD)
    up = rest.astype(np.uint64).reshape(-1, *[1] * (bits.ndim - 1))
    low, high = _moved_words(taken, words), _moved_words(taken, words + 1)
    return (low << up) | ((high >> (np.uint64(_WORD - 1) - up)) >> np.uint64(1))


def _moved_words(bits: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Moves each of (P, ..., words) by its own number (P,) of words; 0 moves in."""
    words = bits.shape[-1]
    moved = np.zeros_like(bits)
    for one in np.unique(step[np.abs(step) < words]):
        to = slice(max(one, 0), words + min(one, 0))
        since = slice(max(-one, 0), words + min(-one, 0))
        rows = step == one
        moved[rows, ..., to] = bits[rows, ..., since]
    return moved


def _parts(count: int, bytes_each: int) -> list[slice]:
    """Slices of a range that need few bytes each."""
    step = max(_BYTES // max(bytes_each, 1), 1)
    return [slice(first, min(first + step, count)) for first in range(0, count, step)]
