"""Pixels of small blocks as channels, and back. Shapes: B batch, *S space, *W block, C channels, channels last."""

import math
from collections.abc import Sequence

import jax


def space_to_depth(x: jax.Array, window: Sequence[int]) -> jax.Array:
    """Returns (B, *S / *W, prod(W) * C) of (B, *S, C): each block's pixels, row by row, become channels."""
    split = [part for n, w in zip(x.shape[1:-1], window, strict=True) for part in (n // w, w)]
    ndim = len(window)
    order = [0, *range(1, 2 * ndim, 2), *range(2, 2 * ndim + 1, 2), 2 * ndim + 1]
    blocks = x.reshape(x.shape[0], *split, x.shape[-1]).transpose(order)
    return blocks.reshape(*blocks.shape[: ndim + 1], -1)


def depth_to_space(x: jax.Array, window: Sequence[int]) -> jax.Array:
    """Returns (B, *S * *W, C) of (B, *S, prod(W) * C); the inverse of `space_to_depth`."""
    ndim = len(window)
    blocks = x.reshape(*x.shape[:-1], *window, x.shape[-1] // math.prod(window))
    order = [0, *(axis for i in range(ndim) for axis in (1 + i, 1 + ndim + i)), 1 + 2 * ndim]
    size = [n * w for n, w in zip(x.shape[1:-1], window, strict=True)]
    return blocks.transpose(order).reshape(x.shape[0], *size, -1)
