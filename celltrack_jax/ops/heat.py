"""Heat that spreads from the centre of each cell over the cell's own pixels: what flows go up.

Stringer et al., Nature Methods 2021 (Cellpose); docs/originals.md, 3.4. Pixels of other labels have no heat for a cell,
be they background, unknown or a neighbour.

Shapes: S spatial axes (Y, X) or (Z, Y, X), D of them; K cells.
"""

import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from celltrack_jax.ops.distance import largest_of_batch
from celltrack_jax.ops.labels import boxes, centroids
from celltrack_jax.ops.lowering import choose

SOURCE = 2.0**100
"""Heat that a centre is given in each round. It falls by up to a factor of e with each pixel of a cell's arms: from here
float32 has 68 decades down to its least normal number, and 4 up to its largest for the rounds that add up."""
_ROUNDS = {2: (2, 2), 3: (6, 1)}
"""By D: rounds per pixel of a cell's extent along all axes, and pixels that are added to each axis's."""
_EVEN = 1e-5
"""Distances that differ by a smaller share are equal but for rounding."""
_WINDOWS = {2: (24, 48, 96), 3: (12, 24, 48)}
"""By D: sides of the windows in which cells are computed on CPUs, pixels; larger cells are computed on the whole map."""
_LANES = 16
"""Cells whose windows are computed together, behind each other in memory: a vector of a core's widest registers."""


def spread_heat(labels: jax.Array, max_cells: int) -> jax.Array:
    """Heats the centre of each cell, and takes the mean over each pixel and its neighbours, again and again.

    In as many rounds as the cell's extent asks for: 2 (h + w + 4) for a bounding box of h x w pixels, as Cellpose's on
    CPUs; on GPUs it takes the largest cell's for all, which moves most flows by less than a degree. In 3D
    6 (d + h + w + 3).

    On CPUs the cells of a map are computed in windows of their own, in which no label needs to be looked at: measured a
    sixth of the time for 300 cells of 28 to 48 pixels in 1024x1024. Maps of a batch, as in training, and other
    platforms compute all cells at once.

    Args:
      labels: (*S) int32, dense: cells 1.., 0 background, -1 unknown.
      max_cells: K; ids >= K have no heat.

    Returns:
      (*S) float32, 0 outside of cells.
    """
    low, high = boxes(labels, max_cells)
    per_pixel, added = _ROUNDS[labels.ndim]
    present = (high > 0).any(1).at[0].set(False)
    rounds = jnp.where(present, per_pixel * (high - low + added).sum(1), 0)
    return _spread(labels, rounds, low, high - low)


def centre_pixels(labels: jax.Array, max_cells: int) -> jax.Array:
    """The pixel of each cell that is nearest to the mean of its pixels, the first of those.

    Args:
      labels: (*S) int32, dense.
      max_cells: K.

    Returns:
      (K,) int32 index in the flattened map; its size for the background and for ids without a pixel.
    """
    mean = centroids(labels, max_cells)
    cell = jnp.where((labels > 0) & (labels < max_cells), labels, max_cells).reshape(-1)
    square = jnp.zeros(labels.shape, jnp.float32)
    for axis in range(labels.ndim):
        along = lax.broadcasted_iota(jnp.float32, labels.shape, axis)
        square += jnp.square(along - mean[:, axis].at[labels].get(mode="clip"))
    square = square.reshape(-1)
    least = jax.ops.segment_min(square, cell, max_cells)
    near = _nearly_least(square, least.at[cell].get(mode="clip"))
    index = jnp.where(near, jnp.arange(labels.size), labels.size)
    return jnp.minimum(jax.ops.segment_min(index, cell, max_cells), labels.size)


@custom_vmap
def _spread(labels: jax.Array, rounds: jax.Array, low: jax.Array, extent: jax.Array) -> jax.Array:
    """(*S) heat.

    Args:
      labels: (*S).
      rounds: (K,) int32, 0 for ids without a pixel.
      low: (K, D) int32, first pixel of each cell's bounding box.
      extent: (K, D) int32, its lengths.
    """
    return choose(_in_windows, _on_map, labels, rounds, low, extent)


@_spread.def_vmap
def _(axis_size: int, in_batched: list[bool], *arguments: jax.Array) -> tuple[jax.Array, bool]:
    # Loops over windows would go on for all maps while any has windows left, and write all again each time.
    del axis_size
    return jax.vmap(_on_map, [0 if batched else None for batched in in_batched])(*arguments), True


def _in_windows(labels: jax.Array, rounds: jax.Array, low: jax.Array, extent: jax.Array) -> jax.Array:
    """(*S) heat, cell by cell, 16 at a time; that of cells that fit in no window on the whole map."""
    sides = _WINDOWS[labels.ndim]
    side = jnp.where(rounds > 0, extent.max(1), 0)
    fits = (side > 0) & (side <= sides[-1])
    heat = lax.cond(
        (side > sides[-1]).any(),
        lambda: _on_map(labels, jnp.where(fits, 0, rounds), low, extent),
        lambda: jnp.zeros(labels.shape, jnp.float32),
    )
    # Smaller ones first, and behind them lanes that are empty.
    ids = jnp.pad(jnp.argsort(jnp.where(fits, side, sides[-1] + 1)), (0, _LANES))
    first = jnp.int32(0)
    for most in sides:
        size = tuple(min(most, length) for length in labels.shape)
        end = (fits & (side <= most)).sum()

        def spread_some(
            number: jax.Array,
            heat: jax.Array,
            *,
            size: tuple[int, ...] = size,
            first: jax.Array = first,
            end: jax.Array = end,
        ) -> jax.Array:
            place = first + number * _LANES
            cell = lax.dynamic_slice_in_dim(ids, place, _LANES)
            corner = jnp.minimum(low[cell], jnp.array(labels.shape) - jnp.array(size))
            window = jax.vmap(lambda start: lax.dynamic_slice(labels, start, size))(corner)
            cell = jnp.where(place + jnp.arange(_LANES) < end, cell, 0)
            own = window == jnp.where(cell > 0, cell, -2).reshape(-1, *[1] * len(size))
            there = _in_window(jnp.moveaxis(own, 0, -1), rounds[cell])
            return _written(heat, jnp.moveaxis(there, -1, 0), own, corner)

        heat = lax.fori_loop(0, (end - first + _LANES - 1) // _LANES, spread_some, heat)
        first = end
    return heat


def _in_window(own: jax.Array, rounds: jax.Array) -> jax.Array:
    """Heat of N cells, each in its window of size W: (*W, N) float32.

    Args:
      own: (*W, N) bool, pixels of the cell.
      rounds: (N,) int32, 0 where there is no cell.
    """
    size = own.shape[:-1]
    axes = len(size)
    # Two rounds at a time: of an odd number the first gives nothing.
    longest = rounds.max() + rounds.max() % 2
    centre = _centre_in_window(own)
    share = own.astype(jnp.float32) / _seen(axes)

    def mean(heat: jax.Array) -> jax.Array:
        """(*W, N) from (*W + 2, N)."""
        total = at_offset(heat, (0,) * axes, size)
        for offset in _around(axes):
            total += at_offset(heat, offset, size)
        return total * share

    def given(number: jax.Array) -> jax.Array:
        return jnp.where(centre & (number >= longest - rounds), SOURCE, 0.0)

    def twice(half: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        # From one array into the other, whose rim stays 0: nothing is copied. What a centre is given in a round is
        # added at the end of the one before.
        heat, other = state
        other = lax.dynamic_update_slice(other, mean(heat) + given(2 * half + 1), corner)
        return lax.dynamic_update_slice(heat, mean(other) + given(2 * half + 2), corner), other

    corner = (1,) * axes + (0,)
    start = jnp.pad(given(jnp.int32(0)), [(1, 1)] * axes + [(0, 0)])
    # All but the last two, the last of which is followed by none.
    heat, other = lax.fori_loop(0, longest // 2 - 1, twice, (start, jnp.zeros_like(start)))
    other = lax.dynamic_update_slice(other, mean(heat) + given(longest - 1), corner)
    return mean(other)


def _centre_in_window(own: jax.Array) -> jax.Array:
    """As `centre_pixels`, of N cells in windows of size W: (*W, N) bool from (*W, N) bool."""
    axes = tuple(range(own.ndim - 1))
    count = own.sum(axes).astype(jnp.float32)
    square = jnp.zeros(own.shape, jnp.float32)
    for axis in axes:
        along = lax.broadcasted_iota(jnp.float32, own.shape, axis)
        square += jnp.square(along - jnp.where(own, along, 0.0).sum(axes) / jnp.maximum(count, 1))
    square = jnp.where(own, square, jnp.inf)
    index = jnp.arange(own[..., 0].size).reshape(*own.shape[:-1], 1)
    near = _nearly_least(square, square.min(axes))
    return index == jnp.where(near, index, index.size).min(axes)


def _nearly_least(square: jax.Array, least: jax.Array) -> jax.Array:
    """What is computed twice may differ in its last bits; squared distances that differ by so little are equal."""
    return square <= least * (1 + _EVEN) + 1e-3


def _written(heat: jax.Array, windows: jax.Array, own: jax.Array, corner: jax.Array) -> jax.Array:
    """The map (*S) with each window (N, *W) written at its corner (N, D), where its pixels are its own's."""

    def write(lane: jax.Array, heat: jax.Array) -> jax.Array:
        before = lax.dynamic_slice(heat, corner[lane], windows.shape[1:])
        return lax.dynamic_update_slice(heat, jnp.where(own[lane], windows[lane], before), corner[lane])

    return lax.fori_loop(0, len(windows), write, heat)


def _on_map(labels: jax.Array, rounds: jax.Array, low: jax.Array, extent: jax.Array) -> jax.Array:
    """(*S) heat, all cells at once: a neighbour counts where its label is the own.

    All cells, also those of a batch, end together: those of fewer rounds start later, as nothing spreads before.
    """
    del low, extent
    centres = centre_pixels(labels, len(rounds))
    padded = jnp.pad(labels, 1)
    longest = largest_of_batch(rounds.max())

    def once(number: jax.Array, heat: jax.Array) -> jax.Array:
        given = jnp.where(number >= longest - rounds, SOURCE, 0.0)
        heat = heat.reshape(-1).at[centres].add(given, mode="drop").reshape(labels.shape)
        heat = jnp.pad(heat, 1)
        total = at_offset(heat, (0,) * labels.ndim, labels.shape)
        for offset in _around(labels.ndim):
            same = at_offset(padded, offset, labels.shape) == labels
            total += jnp.where(same, at_offset(heat, offset, labels.shape), 0.0)
        return total * (1 / _seen(labels.ndim))

    return lax.fori_loop(0, longest, once, jnp.zeros(labels.shape, jnp.float32))


def at_offset(padded: jax.Array, offset: tuple[int, ...], size: tuple[int, ...]) -> jax.Array:
    """What lies at an offset from each pixel of a map with a rim of one: (*size, ...) from (*size + 2, ...)."""
    for axis, (step, length) in enumerate(zip(offset, size, strict=True)):
        padded = lax.slice_in_dim(padded, 1 + step, 1 + step + length, axis=axis)
    return padded


def _around(axes: int) -> Iterator[tuple[int, ...]]:
    """Offsets of the neighbours that heat goes to: 8 in 2D, the 6 that share a face in 3D."""
    for offset in itertools.product((-1, 0, 1), repeat=axes):
        if 0 < sum(map(abs, offset)) <= (2 if axes == 2 else 1):
            yield offset


def _seen(axes: int) -> int:
    """The neighbours and the pixel itself."""
    return 1 + sum(1 for _ in _around(axes))
