"""Exact truncated distance transform of label maps, made of loops that XLA fuses.

Shapes: S spatial axes (Y, X) or (Z, Y, X).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

_FAR = 1e6
"""Pixels: beyond any image, and its square times a spacing stays finite in float32."""


def instance_distance(labels: jax.Array, spacing: jax.Array, max_distance: float | jax.Array) -> jax.Array:
    """Distance of each pixel to the centre of the nearest pixel that carries another label.

    The background (0) and unknown pixels (-1) are labels like any other; the outside of the map is not: a
    cell that the border cuts has its largest distances there. Equals the Euclidean distance transform of each
    label's mask, cut off at `max_distance`.

    Each axis in turn takes the minimum over offsets of offset^2 + distance^2 there, where a pixel of another label
    counts as distance 0; this is exact because only pixels of the own label need the earlier axes' distances.
    Measured: 10 ms of CPU time for 4x256x256 and a reach of 40 pixels. Run lengths along the first axis instead of
    offsets saved nothing, as XLA's fusion computed the steps that found them, and the labels, again and again.

    Args:
      labels: (*S) int32.
      spacing: (ndim,) float, pixel size along each axis; may be traced.
      max_distance: cut-off in the unit of the spacing; sets the number of offsets.

    Returns:
      (*S) float32 in the unit of the spacing, in (0, max_distance].
    """
    squared = jnp.full(labels.shape, _FAR * _FAR, jnp.float32)
    for axis in reversed(range(labels.ndim)):
        squared = _nearest_over_offsets(squared, labels, axis, spacing[axis], max_distance)
    return jnp.minimum(jnp.sqrt(squared), max_distance)


def _nearest_over_offsets(
    squared: jax.Array, labels: jax.Array, axis: int, spacing: jax.Array, max_distance: float | jax.Array
) -> jax.Array:
    """Minimum over offsets along an axis of offset^2 + (0 at another label, else `squared` there)."""

    def nearer(best: jax.Array, there: list[jax.Array], lift: jax.Array) -> jax.Array:
        labels_there, squared_there = there
        return jnp.minimum(best, jnp.where(labels_there == labels, squared_there, 0.0) + lift)

    return _over_offsets(nearer, squared, [labels, squared], axis, spacing, max_distance)


def other_cell_distance(labels: jax.Array, spacing: jax.Array, max_distance: float | jax.Array) -> jax.Array:
    """Distance of each pixel to the nearest pixel of a cell other than its own, across the background.

    Each axis in turn carries the two nearest cells of different ids: for a pixel of the nearest one, the
    second is the nearest other.

    Args:
      labels: (*S) int32; cells are positive.
      spacing: (ndim,) float, pixel size along each axis; may be traced.
      max_distance: cut-off in the unit of the spacing; sets the number of offsets.

    Returns:
      (*S) float32 in (0, max_distance].
    """
    cell = labels > 0
    far = jnp.full(labels.shape, _FAR * _FAR, jnp.float32)
    nobody = jnp.zeros_like(labels)
    nearest = (jnp.where(cell, 0.0, far), jnp.where(cell, labels, 0), far, nobody)

    def merge(best: tuple, there: list[jax.Array], lift: jax.Array) -> tuple:
        distance, owner, second_distance, second_owner = there
        return _insert(_insert(best, distance + lift, owner), second_distance + lift, second_owner)

    for axis in range(labels.ndim):
        nearest = _over_offsets(merge, nearest, list(nearest), axis, spacing[axis], max_distance)
    distance, owner, second_distance, _ = nearest
    return jnp.minimum(jnp.sqrt(jnp.where(owner == labels, second_distance, distance)), max_distance)


def _insert(best: tuple, distance: jax.Array, owner: jax.Array) -> tuple:
    """Enters a candidate into the two nearest owners, which stay different."""
    first, first_owner, second, second_owner = best
    leads = distance < first
    other = owner != first_owner
    replaces = (leads & other) | (distance < second) & other
    return (
        jnp.where(leads, distance, first),
        jnp.where(leads, owner, first_owner),
        jnp.where(leads & other, first, jnp.where(replaces, distance, second)),
        jnp.where(leads & other, first_owner, jnp.where(replaces, owner, second_owner)),
    )


def _over_offsets(
    combine: Callable[[Any, list[jax.Array], jax.Array], Any],
    start: Any,
    sources: list[jax.Array],
    axis: int,
    spacing: jax.Array,
    max_distance: float | jax.Array,
) -> Any:
    """Folds `combine(best, [source[p + offset]...], (offset * spacing)^2)` over offsets, nearest first."""
    size = sources[0].shape[axis]
    reach = size - 1
    pad = [(0, 0)] * sources[0].ndim
    pad[axis] = (reach, reach)
    # The outside repeats the edge pixel, which is nearer: it never wins.
    around = [jnp.pad(source, pad, mode="edge") for source in sources]

    def step(offset: jax.Array, best: Any) -> Any:
        lift = jnp.square(offset * spacing)
        for first in (reach - offset, reach + offset):
            there = [lax.dynamic_slice_in_dim(source, first, size, axis) for source in around]
            best = combine(best, there, lift)
        return best

    offsets = largest_of_batch(jnp.minimum(jnp.ceil(max_distance / spacing), reach).astype(jnp.int32))
    return lax.fori_loop(1, offsets + 1, step, start)


@custom_vmap
def largest_of_batch(count: jax.Array) -> jax.Array:
    """The count; under `vmap` the largest of the batch, for all. More offsets than needed change nothing.

    A loop with a length per sample goes on while any sample does: over several devices that was a sum over all of
    them before every round.
    """
    return count


@largest_of_batch.def_vmap
def _(axis_size: int, in_batched: list[bool], count: jax.Array) -> tuple[jax.Array, bool]:
    del axis_size, in_batched
    return jnp.max(count), False
