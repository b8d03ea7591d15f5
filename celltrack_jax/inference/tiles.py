"""Frames as overlapping tiles of one static shape, and predictions of tiles as predictions of frames.

A tile's outputs count only where they are those of the whole frame: at least the halo (how far an output sees)
away from a border that the frame does not have there. Neighbours overlap beyond that and fade into each other, so
for norm batch and none the result is that of the whole frame, whatever the tile. Norm group and instance take
statistics of their input, here of a tile: the result depends on the tile then, and the fading hides the seams.

Shapes: *S a frame's spatial axes, *T a tile's, n tiles along an axis, C channels.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np

_FADE = 1 / 16
"""Least share of a tile over which neighbours fade into each other. Costs 6 % more tiles per axis."""

_MOST_PIECES = 64
"""Tried along an axis; 64 of three axes are 260,000 shapes to choose from, in 20 ms."""


class AxisTiles(NamedTuple):
    """The tiles along one axis of length S."""

    padded: int
    """S rounded up to the network's stride."""
    tile: int
    """Length T of a tile, a multiple of the stride."""
    start: np.ndarray
    """(n,) int64, multiples of the stride."""
    weight: np.ndarray
    """(n, T) float32; over all tiles they sum to 1 at each position."""


class Tiling(NamedTuple):
    """The tiles of a frame: all combinations of those of its axes, the last axis fastest."""

    size: tuple[int, ...]
    """*S of the frame."""
    axes: tuple[AxisTiles, ...]

    @property
    def tile(self) -> tuple[int, ...]:
        """*T."""
        return tuple(axis.tile for axis in self.axes)

    def positions(self) -> list[tuple[int, ...]]:
        """Lists the tiles as indices into the axes' starts."""
        return list(itertools.product(*(range(len(axis.start)) for axis in self.axes)))


def fit_tile(
    size: tuple[int, ...], voxels: int, halo: tuple[int, ...], stride: tuple[int, ...]
) -> tuple[int, ...]:
    """Chooses the shape of the tiles that cover a frame with the least work.

    Args:
      size: *S of a frame.
      voxels: that a tile may have. Where halos leave nothing of such tiles it gets more, as few as possible.
      halo: how far an output sees, per axis.
      stride: the network's total pooling, per axis.
    """
    choices = [_lengths(*axis) for axis in zip(size, halo, stride, strict=True)]
    lengths = np.stack([mesh.ravel() for mesh in np.meshgrid(*(tile for tile, _ in choices), indexing="ij")])
    counts = np.stack([mesh.ravel() for mesh in np.meshgrid(*(count for _, count in choices), indexing="ij")])
    voxels_each = lengths.prod(0)
    work = (lengths * counts).prod(0)
    allowed = voxels_each <= max(voxels, voxels_each.min())
    best = np.flatnonzero(allowed)[np.argmin(work[allowed])]
    return tuple(int(length) for length in lengths[:, best])


def make_tiling(
    size: tuple[int, ...], tile: tuple[int, ...], halo: tuple[int, ...], stride: tuple[int, ...]
) -> Tiling:
    """Plans the tiles of all frames of a movie.

    A tile is cut to the frame where the frame is smaller, and grown where two halos would leave nothing of it.

    Args:
      size: *S of a frame.
      tile: such as from `fit_tile`.
      halo: how far an output sees, per axis.
      stride: the network's total pooling, per axis.
    """
    axes = zip(size, tile, halo, stride, strict=True)
    return Tiling(tuple(size), tuple(_axis_tiles(*axis) for axis in axes))


def cut(frame: np.ndarray, tiling: Tiling, position: tuple[int, ...]) -> np.ndarray:
    """Cuts out one tile; beyond the end of the frame it is mirrored.

    Args:
      frame: (C, *S).
      tiling: of frames of this size.
      position: one of `tiling.positions()`.

    Returns:
      (C, *T), a view where nothing had to be mirrored.
    """
    window, missing = [slice(None)], [(0, 0)]
    for size, axis, index in zip(tiling.size, tiling.axes, position, strict=True):
        start = int(axis.start[index])
        window.append(slice(start, start + axis.tile))
        missing.append((0, max(0, start + axis.tile - size)))
    piece = frame[tuple(window)]
    return np.pad(piece, missing, mode="symmetric") if any(after for _, after in missing) else piece


def add(whole: np.ndarray, prediction: np.ndarray, tiling: Tiling, position: tuple[int, ...]) -> None:
    """Adds a tile's share to the prediction of a frame, in place.

    Args:
      whole: (*S, C) float32, zeros before the first tile.
      prediction: (*T, C).
      tiling: of frames of this size.
      position: one of `tiling.positions()`.
    """
    into, of, share_of_axis = [], [], []
    for size, axis, index in zip(tiling.size, tiling.axes, position, strict=True):
        start, weight = int(axis.start[index]), axis.weight[index]
        used = np.flatnonzero(weight[: size - start])
        part = slice(int(used[0]), int(used[-1]) + 1)
        into.append(slice(start + part.start, start + part.stop))
        of.append(part)
        share_of_axis.append(weight[part])
    share = prediction[tuple(of)]
    for number, (axis, weight) in enumerate(zip(tiling.axes, share_of_axis, strict=True)):
        if len(axis.start) > 1:
            share = share * weight.reshape(-1, *(1,) * (len(tiling.size) - number))
    whole[tuple(into)] += share


def _lengths(size: int, halo: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """The lengths of tiles worth trying on one axis, and how many of each cover it."""
    padded = _up(size, stride)
    covering = {}
    for pieces in range(1, min(padded // stride, _MOST_PIECES) + 1):
        tile, count = _layout(padded, _up(-(-padded // pieces) + 2 * halo, stride), halo, stride)
        covering[tile] = count
    return np.array(list(covering)), np.array(list(covering.values()))


def _layout(padded: int, tile: int, halo: int, stride: int) -> tuple[int, int]:
    """Length of a tile, and how many cover the axis."""
    fade = max(stride, math.ceil(_FADE * tile))
    tile = _up(max(tile, 2 * halo + fade + stride), stride)
    if tile >= padded:
        return padded, 1
    step = (tile - 2 * halo - fade) // stride
    return tile, math.ceil((padded - tile) // stride / step) + 1


def _axis_tiles(size: int, tile: int, halo: int, stride: int) -> AxisTiles:
    padded = _up(size, stride)
    tile, count = _layout(padded, tile, halo, stride)
    # Even steps, rounded down to the stride, so that the network's pooling grid is the frame's in every tile.
    start = np.arange(count) * ((padded - tile) // stride) // max(1, count - 1) * stride
    return AxisTiles(padded, tile, start, _weights(start, padded, tile, halo))


def _weights(start: np.ndarray, padded: int, tile: int, halo: int) -> np.ndarray:
    """(n, T): rises linearly from the edge of what is valid in a tile, normalised to a sum of 1 over tiles."""
    far = padded + tile
    inside = np.arange(tile)
    raw = np.empty((len(start), tile))
    for index, begin in enumerate(start):
        after_start = inside - halo + 1 if begin > 0 else np.full(tile, far)
        before_end = tile - halo - inside if begin + tile < padded else np.full(tile, far)
        raw[index] = np.maximum(0, np.minimum(after_start, before_end))
    total = np.zeros(padded)
    for begin, weight in zip(start, raw, strict=True):
        total[begin : begin + tile] += weight
    return np.stack(
        [weight / total[begin : begin + tile] for begin, weight in zip(start, raw, strict=True)]
    ).astype(np.float32)


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
