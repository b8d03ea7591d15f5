"""Predictions averaged over flips and quarter turns of the image.

Shapes: B batch, *T a tile's spatial axes, C channels. Axes y and x are mirrored and turned; z is not, because
the point spread function is not symmetric along it in most microscopes.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Symmetry(NamedTuple):
    """Turns by 90 degrees from y to x, after a flip of x."""

    flip: bool
    turns: int


def symmetries(flips: bool, rotations: bool) -> tuple[Symmetry, ...]:
    """Lists the symmetries to average over.

    Args:
      flips: the four flips of y and x.
      rotations: quarter turns; with flips all eight symmetries of the square. The network must see y and x alike:
        equal spacing and stride.
    """
    turns = (0, 1, 2, 3) if rotations else (0, 2) if flips else (0,)
    return tuple(Symmetry(flip, turn) for flip in ((False, True) if flips else (False,)) for turn in turns)


def averaged(
    apply: Callable[[jax.Array], Any], chosen: tuple[Symmetry, ...], vector: tuple[int, ...] = ()
) -> Callable[[jax.Array], Any]:
    """Returns the mean of a network over symmetries, turned back before averaging.

    Args:
      apply: (B, *T, C) -> (B, *T, C'), for any order of the axes y and x.
      chosen: from `symmetries`.
      vector: channels that are the components of a vector along the axes of T; they are turned back too. The others
        are scalar maps.
    """
    if len(chosen) == 1:
        return apply

    def mean(image: jax.Array) -> jax.Array:
        total = None
        for symmetry in chosen:
            total = _turn_back_and_add(total, apply(_turn(image, symmetry)), symmetry, vector)
        assert total is not None
        return total / len(chosen)

    return mean


@functools.partial(jax.jit, static_argnums=1)
def _turn(image: jax.Array, symmetry: Symmetry) -> jax.Array:
    image = jnp.flip(image, -2) if symmetry.flip else image
    return jnp.rot90(image, symmetry.turns, axes=(-3, -2))


@functools.partial(jax.jit, static_argnums=(2, 3))
def _turn_back_and_add(
    total: jax.Array | None, output: jax.Array, symmetry: Symmetry, vector: tuple[int, ...]
) -> jax.Array:
    output = jnp.rot90(output, -symmetry.turns, axes=(-3, -2))
    output = jnp.flip(output, -2) if symmetry.flip else output
    if vector:
        plane = jnp.array(vector[-2:])
        output = output.at[..., plane].set(_turned_back(output[..., plane], symmetry))
    return output if total is None else total + output


def _turned_back(vector: jax.Array, symmetry: Symmetry) -> jax.Array:
    """Components y and x (..., 2) of what points the same way in the image before it was flipped and turned."""
    y, x = vector[..., 0], vector[..., 1]
    for _ in range(symmetry.turns):
        y, x = x, -y
    return jnp.stack([y, -x if symmetry.flip else x], -1)
