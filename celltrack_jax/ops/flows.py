"""Flows: heat that spreads from the centre of each cell says for every pixel of the cell which way the centre lies.

Stringer et al., Nature Methods 2021 (Cellpose); docs/originals.md, 3.4. A cell's flows are those of the cell
alone: pixels of other labels have no heat for it, be they background, unknown or a neighbour.

Shapes: S spatial axes (Y, X) or (Z, Y, X), D of them; K cells; P pixels of a chunk. Lengths are pixels.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from celltrack_jax.ops.distance import largest_of_batch
from celltrack_jax.ops.heat import SOURCE, at_offset, spread_heat
from celltrack_jax.ops.peaks import highest, is_full

_EVEN = 1e-5
"""Differences of heat that are a smaller share of it are rounding's."""
_SEED_REACH, _SEED_COUNT = 2, 10
"""Seeds are the maxima of so many pixels around, where more than so many points end."""
_GROWN, _GROWN_COUNT = 5, 2
"""Seeds grow by so many pixels, over pixels where more than so many points end."""
_RESTS, _REST = (48, 96), 1e-3
"""Steps after which points are left where they are that the last two have moved by no more than so many pixels."""
_CHUNK = 1 << 14
"""Points that are followed together: their positions stay in a core's cache."""
_BLOCK = 64
"""Flags that are counted by one product."""


def target_flows(labels: jax.Array, max_cells: int, *, logarithm: bool = False) -> jax.Array:
    """Flow of every pixel of a cell: a unit vector up the heat that spreads from the cell's centre.

    Args:
      labels: (*S) int32, dense: cells 1.., 0 background, -1 unknown.
      max_cells: K; ids >= K have no flow.
      logarithm: whether differences are taken of log(1 + heat), as Cellpose did before its third version.

    Returns:
      (*S, D) float32; 0 outside of cells, and where heat does not reach or is even.
    """
    heat = _heat(labels, max_cells, logarithm)
    slope = _differences(heat, labels)
    # Squares of differences leave the range of float32 where differences do not.
    steepest = functools.reduce(jnp.maximum, map(jnp.abs, slope))
    steep = steepest > _EVEN * at_offset(heat, (0,) * labels.ndim, labels.shape)
    slope = [jnp.where(steep, along / jnp.where(steep, steepest, 1.0), 0.0) for along in slope]
    # The steepest has 1.
    norm = jnp.sqrt(jnp.maximum(sum(map(jnp.square, slope)), 1.0))
    # XLA would compute all of this once per component.
    return jnp.stack(lax.optimization_barrier([along / norm for along in slope]), -1)


def _heat(labels: jax.Array, max_cells: int, logarithm: bool) -> jax.Array:
    """(*S + 2) float32, 0 outside of cells and in a border of one pixel."""
    heat = jnp.pad(spread_heat(labels, max_cells), 1)
    if not logarithm:
        return heat
    # Below, the logarithm is what it is taken of to within rounding, at numbers that float32 has.
    return jnp.where(heat < 2.0**-24 * SOURCE, heat, SOURCE * jnp.log1p(heat / SOURCE))


def _differences(heat: jax.Array, labels: jax.Array) -> list[jax.Array]:
    """D times (*S) float32: what the pixel behind has more than the one before, in the own cell; others have nothing."""
    padded = jnp.pad(labels, 1)
    differences = []
    for axis in range(labels.ndim):
        step = tuple(int(a == axis) for a in range(labels.ndim))
        before, behind = (
            jnp.where(
                at_offset(padded, offset, labels.shape) == labels, at_offset(heat, offset, labels.shape), 0.0
            )
            for offset in (tuple(-s for s in step), step)
        )
        differences.append(jnp.where(labels > 0, behind - before, 0.0))
    return differences


def follow(
    flow: jax.Array,
    mask: jax.Array,
    *,
    steps: int | jax.Array,
    size: Sequence[int | jax.Array] | None = None,
) -> jax.Array:
    """Goes along the flow from every pixel of a mask, in steps of its length (Euler's method).

    Only pixels of the mask are followed, in chunks of a fixed size, as many as there are, and after 48 and 96 steps only
    those that two steps still move by a thousandth of a pixel: at this pace the rest of 200 steps would move the others
    by less than 0.08. Most have come to rest, or go to and fro between two places.

    Args:
      flow: (*S, D) float32, pixels per step; between pixels it is linear, and it is 0 where the mask is false.
      mask: (*S) bool.
      steps: of each point; may be traced.
      size: D lengths of the map, within which points stay, where what lies behind is padding; may be traced.

    Returns:
      (*S, D) float32 index where it ends, inside the map; its own index for pixels outside of the mask.
    """
    shape = mask.shape
    size = shape if size is None else tuple(size)
    steps = jnp.asarray(steps, jnp.int32)
    # What goes to and fro has to stop where it would be after all steps: an even number is left out.
    ends = jnp.append(jnp.minimum(jnp.array(_RESTS, jnp.int32) + steps % 2, steps), steps)
    table = jnp.where(mask[..., None], flow, 0.0).reshape(-1)
    step = functools.partial(_moved, table, shape, size)
    index = jnp.stack(jnp.meshgrid(*(jnp.arange(n, dtype=jnp.float32) for n in shape), indexing="ij"), -1)

    def stage(number: jax.Array, state: tuple[jax.Array, _List]) -> tuple[jax.Array, _List]:
        return _followed(step, *state, ends[number] - jnp.where(number > 0, ends[number - 1], 0))

    points = index.reshape(mask.size, -1)
    points, _ = lax.fori_loop(0, len(ends), stage, (points, _listed(mask.reshape(-1))))
    return points.reshape(*shape, -1)


class _List(NamedTuple):
    """Indices of points, in an array that has room for all."""

    indices: jax.Array
    """(N,) int32, of which the first `length` are given; what follows is of no meaning."""
    length: jax.Array
    """() int32."""


def _followed(
    step: Callable[[tuple[jax.Array, ...]], tuple[jax.Array, ...]],
    points: jax.Array,
    moving: _List,
    steps: jax.Array,
) -> tuple[jax.Array, _List]:
    """Points (N, D) after so many steps of those that move, and which of them the last two steps have moved."""
    chunk = min(_CHUNK, len(points))
    last = jnp.minimum(steps, 2)

    def go(number: jax.Array, point: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        return lax.fori_loop(0, number, lambda _, point: step(point), point)

    def follow_chunk(number: jax.Array, state: tuple[jax.Array, _List]) -> tuple[jax.Array, _List]:
        points, listed = state
        place = lax.dynamic_slice_in_dim(listed.indices, number * chunk, chunk)
        place = jnp.where(number * chunk + jnp.arange(chunk) < moving.length, place, len(points))
        before = go(steps - last, tuple(points.at[place].get(mode="fill", fill_value=0.0).T))
        after = go(last, before)
        way = functools.reduce(jnp.maximum, (jnp.abs(a - b) for a, b in zip(after, before, strict=True)))
        points = points.at[place].set(jnp.stack(after, -1), mode="drop")
        # In place: the list of what still moves ends before the chunk does.
        return points, _extended(listed, place, (way > _REST) & (place < len(points)))

    chunks = largest_of_batch((moving.length + chunk - 1) // chunk)
    return lax.fori_loop(0, chunks, follow_chunk, (points, _List(moving.indices, jnp.int32(0))))


def _listed(flags: jax.Array) -> _List:
    """The indices of the flags (N,) bool that are set, in order."""
    chunk = min(_CHUNK, len(flags))
    flags = jnp.pad(flags, (0, -len(flags) % chunk))
    index = jnp.arange(len(flags), dtype=jnp.int32)

    def list_chunk(number: jax.Array, listed: _List) -> _List:
        some = (lax.dynamic_slice_in_dim(array, number * chunk, chunk) for array in (index, flags))
        return _extended(listed, *some)

    return lax.fori_loop(0, len(flags) // chunk, list_chunk, _List(index, jnp.int32(0)))


def _extended(listed: _List, some: jax.Array, kept: jax.Array) -> _List:
    """A list, and behind it those of some indices (P,) that are kept (P,); it has room for P more."""
    block = math.gcd(len(some), _BLOCK)
    # Counts within blocks by a product with a triangle, many times faster than a cumulative sum over all.
    counts = (kept.reshape(-1, block).astype(jnp.float32) @ jnp.triu(jnp.ones((block, block)))).astype(
        jnp.int32
    )
    ends = jnp.cumsum(counts[:, -1])
    place = (counts + (ends - counts[:, -1])[:, None]).reshape(-1) - 1
    together = jnp.zeros_like(some).at[jnp.where(kept, place, len(some))].set(some, mode="drop")
    index = lax.dynamic_update_slice_in_dim(listed.indices, together, listed.length, 0)
    return _List(index, listed.length + ends[-1])


def _moved(
    table: jax.Array,
    shape: tuple[int, ...],
    size: tuple[int | jax.Array, ...],
    point: tuple[jax.Array, ...],
) -> tuple[jax.Array, ...]:
    """Points (P,) per axis after a step; the table is the flow (*S, D), flattened, of which `size` is no padding."""
    axes = len(shape)
    low = [
        jnp.clip(along.astype(jnp.int32), 0, jnp.maximum(n - 2, 0))
        for along, n in zip(point, size, strict=True)
    ]
    share = [along - first for along, first in zip(point, low, strict=True)]
    step = [jnp.zeros_like(point[0])] * axes
    for corner in itertools.product((0, 1), repeat=axes):
        index = jnp.zeros_like(low[0])
        weight = jnp.ones_like(point[0])
        for first, part, behind, n, stride in zip(low, share, corner, size, shape, strict=True):
            index = index * stride + jnp.minimum(first + behind, n - 1)
            weight *= part if behind else 1 - part
        for axis in range(axes):
            there = table.at[index * axes + axis].get(mode="promise_in_bounds")
            step[axis] += weight * there
    return tuple(jnp.clip(along + by, 0, n - 1) for along, by, n in zip(point, step, size, strict=True))


def gathered(position: jax.Array, mask: jax.Array, *, count: int) -> tuple[jax.Array, jax.Array]:
    """Gives the pixels of a mask to the places where many of them end.

    Seeds are pixels where more than 10 end, and no more in any within 2 pixels. Each grows five times by the pixels
    around it, where more than 2 end; what several reach is the surest one's, of the most ends.

    Args:
      position: (*S, D) float32 index where each pixel ends, from `follow`.
      mask: (*S) bool.
      count: K, static. Of more seeds those of fewest ends are lost.

    Returns:
      (*S) int32 in 0..K, the surest first, of which some may be lacking; and () bool, whether there were K seeds or
      more.
    """
    axes, rim = mask.ndim, _GROWN
    shape = tuple(size + 2 * rim for size in mask.shape)
    pixel = jnp.round(position).astype(jnp.int32) + rim
    flat = jnp.zeros(mask.shape, jnp.int32)
    for axis, size in enumerate(shape):
        flat = flat * size + pixel[..., axis]
    ends = jnp.where(mask, flat, 0).reshape(-1)
    # What is not in the mask ends in the border's first pixel, where it is no seed's.
    counted = jnp.zeros(shape, jnp.float32).reshape(-1).at[ends].add(mask.reshape(-1).astype(jnp.float32))
    counted = counted.reshape(shape)
    seeds = (counted >= _highest_around(counted, _SEED_REACH)) & (counted > _SEED_COUNT)
    score, index = highest(jnp.where(seeds, counted, -jnp.inf).reshape(-1), count)
    seed = jnp.stack(jnp.unravel_index(jnp.where(jnp.isfinite(score), index, 0), shape), -1)
    size = (2 * _GROWN + 1,) * axes
    start = jnp.clip(seed - _GROWN, 0, jnp.array(shape) - jnp.array(size))
    window = jax.vmap(lambda first: lax.dynamic_slice(counted, tuple(first), size))(start)
    grown = jnp.zeros((len(seed), *size), bool).at[(slice(None), *(_GROWN,) * axes)].set(jnp.isfinite(score))
    for _ in range(_GROWN):
        grown = jax.vmap(lambda one: _highest_around(one, 1))(grown) & (window > _GROWN_COUNT)
    rank = jnp.where(grown, len(seed) - jnp.arange(len(seed)).reshape(-1, *[1] * axes), 0)
    owner = jnp.zeros(shape, jnp.int32)
    place = start.reshape(-1, *[1] * axes, axes) + jnp.stack(
        jnp.meshgrid(*map(jnp.arange, size), indexing="ij"), -1
    )
    owner = owner.at[tuple(jnp.moveaxis(place, -1, 0))].max(rank).reshape(-1)[ends].reshape(mask.shape)
    return jnp.where(mask & (owner > 0), len(seed) + 1 - owner, 0), is_full(score, counted.size)


def _highest_around(values: jax.Array, reach: int) -> jax.Array:
    """(*S): maximum over the pixels within a reach along each axis."""
    for axis in range(values.ndim):
        around = [(reach if a == axis else 0,) * 2 for a in range(values.ndim)]
        padded, top = jnp.pad(values, around), values
        for first in range(2 * reach + 1):
            top = jnp.maximum(top, lax.slice_in_dim(padded, first, first + values.shape[axis], axis=axis))
        values = top
    return values


def flow_errors(flow: jax.Array, labels: jax.Array, max_cells: int, *, logarithm: bool = False) -> jax.Array:
    """How far a flow is from what its cells' shapes say: mean over each cell's pixels of the squared difference.

    Args:
      flow: (*S, D) float32, of length 1 where it is sure.
      labels: (*S) int32, dense.
      max_cells: K.
      logarithm: as of `target_flows`.

    Returns:
      (K,) float32 in 0..4 for flows of length 1; 0 for the background and for ids without a pixel.
    """
    square = jnp.square(target_flows(labels, max_cells, logarithm=logarithm) - flow).sum(-1)
    cell = jnp.where(labels > 0, labels, max_cells).reshape(-1)
    total = jax.ops.segment_sum(square.reshape(-1), cell, max_cells)
    count = jax.ops.segment_sum(jnp.ones_like(cell), cell, max_cells)
    return total / jnp.maximum(count, 1)
