"""Votes of pixels for places, collected on a grid.

Shapes: V votes, S axes of the grid, D of them.
"""

import itertools

import jax
import jax.numpy as jnp


def splat(position: jax.Array, weight: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Adds votes to the 2^D nearest nodes of a grid, multilinearly: total and centroid of the votes stay.

    Args:
      position: (V, D) float32 index of the grid; what falls outside of it is dropped.
      weight: (V,) float32.
      shape: *S, static.

    Returns:
      (*S) float32 sums. On a GPU their last bits depend on the order in which votes arrive.
    """
    low = jnp.floor(position)
    share = position - low
    first = low.astype(jnp.int32)
    size = jnp.array(shape)
    grid = jnp.zeros(shape, jnp.float32)
    for corner in itertools.product((0, 1), repeat=len(shape)):
        node = first + jnp.array(corner)
        part = jnp.where(jnp.array(corner) == 1, share, 1 - share).prod(-1) * weight
        # A scatter drops what lies behind the grid but wraps negative indices around.
        node = jnp.where((node >= 0).all(-1, keepdims=True), node, size)
        grid = grid.at[tuple(node.T)].add(part, mode="drop")
    return grid
