"""Sampling up, by transposed convolutions and by interpolation, and down, by pooling.

Shapes: B batch, *S spatial axes (y, x) or (z, y, x), *K kernel, *P window, C channels; channels last.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from celltrack_jax.ops import lowering


def upsample(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed convolution whose stride is its kernel size: each input pixel becomes a block of *P pixels.

    A matrix product and a reshape: no overlap exists, so no transposed convolution is needed. Its backward
    pass is two matrix products, which took 1.3 s off a 3 s training step on two CPU cores.

    Args:
      x: (B, *S, C) floats.
      kernel: (*P, C, Cout) of the same dtype.

    Returns:
      (B, *S * *P, Cout) of the same dtype.
    """
    ndim = x.ndim - 2
    *window, channels, width = kernel.shape
    matrix = jnp.moveaxis(kernel, ndim, 0).reshape(channels, -1)
    given = (x.reshape(-1, channels) @ matrix).reshape(*x.shape[:-1], *window, width)
    order = [0, *(axis for i in range(ndim) for axis in (1 + i, 1 + ndim + i)), 1 + 2 * ndim]
    size = [n * p for n, p in zip(x.shape[1:-1], window, strict=True)]
    return given.transpose(order).reshape(x.shape[0], *size, width)


def upsample_overlapping(x: jax.Array, kernel: jax.Array, strides: Sequence[int]) -> jax.Array:
    """Transposed convolution with odd kernels: input pixel i is spread around output pixel i * stride.

    As PyTorch's with padding of half a kernel and an output padding of stride - 1.

    Args:
      x: (B, *S, C) floats.
      kernel: (*K, C, Cout) of the same dtype, *K odd.
      strides: *P, no larger than the kernel.

    Returns:
      (B, *S * *P, Cout) of the same dtype.
    """
    return lowering.choose(_spread_cpu, _spread_plainly, x, kernel, strides=tuple(strides))


def _spread_plainly(x, kernel, strides):
    ndim = x.ndim - 2
    sizes = kernel.shape[:ndim]
    padding = [(size // 2, size // 2 + p - 1) for size, p in zip(sizes, strides, strict=True)]
    mirrored = jnp.flip(kernel, tuple(range(ndim)))
    return lax.conv_general_dilated(
        x,
        mirrored,
        (1,) * ndim,
        padding,
        lhs_dilation=tuple(strides),
        dimension_numbers=lowering.LAYOUTS[ndim],
    )


def _spread_cpu(x, kernel, strides):
    """Adds up one matrix product: what each pixel gives to each pixel around it."""
    *taps, channels, width = kernel.shape
    matrix = jnp.moveaxis(kernel, -2, 0).reshape(channels, -1)
    given = (x.reshape(-1, channels) @ matrix).reshape(*x.shape[:-1], *taps, width)
    for axis, (size, stride) in enumerate(zip(taps, strides, strict=True), 1):
        # The axis's taps are the first that are left, behind *S.
        parts = [lax.index_in_dim(given, tap, x.ndim - 1, keepdims=False) for tap in range(size)]
        offsets = [tap - size // 2 for tap in range(size)]
        phases = [
            sum(
                _shifted(part, offset // stride, axis)
                for part, offset in zip(parts, offsets, strict=True)
                if offset % stride == phase
            )
            for phase in range(stride)
        ]
        given = jnp.stack(phases, axis + 1).reshape(*given.shape[:axis], -1, *phases[0].shape[axis + 1 :])
    return given


def _shifted(x, by, axis):
    """Pixel i of an axis comes to i + by; zeros come in."""
    around = [(max(by, 0), max(-by, 0)) if i == axis else (0, 0) for i in range(x.ndim)]
    start = max(-by, 0)
    return lax.slice_in_dim(jnp.pad(x, around), start, start + x.shape[axis], axis=axis) if by else x


def upsample_by_repeating(x: jax.Array, window: Sequence[int]) -> jax.Array:
    """Repeats each pixel over a block of *P: nearest-neighbour interpolation.

    Args:
      x: (B, *S, C).
      window: *P.

    Returns:
      (B, *S * *P, C) of the same dtype.
    """
    sizes = [part for n, p in zip(x.shape[1:-1], window, strict=True) for part in (n, p)]
    spread = [part for n in x.shape[1:-1] for part in (n, 1)]
    repeated = jnp.broadcast_to(
        x.reshape(x.shape[0], *spread, x.shape[-1]), (x.shape[0], *sizes, x.shape[-1])
    )
    return repeated.reshape(
        x.shape[0], *(n * p for n, p in zip(x.shape[1:-1], window, strict=True)), x.shape[-1]
    )


def upsample_linearly(x: jax.Array, window: Sequence[int]) -> jax.Array:
    """Interpolates linearly along each spatial axis; pixel centres are half a pixel from the image's edge.

    As PyTorch's `interpolate` with align_corners=False. Beyond the edges the outermost pixels go on.

    Args:
      x: (B, *S, C) floats.
      window: *P.

    Returns:
      (B, *S * *P, C) of the same dtype.
    """
    for axis, size in enumerate(window, 1):
        if size > 1:
            x = _upsample_axis(x, size, axis)
    return x


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _upsample_axis(x, size, axis) -> Any:
    n = x.shape[axis]
    around = jnp.pad(x, [(int(i == axis),) * 2 for i in range(x.ndim)], mode="edge")
    before, after = (lax.slice_in_dim(around, start, start + n, axis=axis) for start in (0, 2))
    parts = [
        x if shift == 0 else (1 - abs(shift)) * x + abs(shift) * (before if shift < 0 else after)
        for shift in _shifts(size)
    ]
    return jnp.stack(parts, axis + 1).reshape(*x.shape[:axis], n * size, *x.shape[axis + 1 :])


def _shifts(size):
    """Where output pixels lie, in input pixels from the centre of the one that they are in."""
    return [(offset + 0.5) / size - 0.5 for offset in range(size)]


def _upsample_axis_forward(x, size, axis):
    return _upsample_axis(x, size, axis), None


def _upsample_axis_backward(size, axis, _, gradient):
    """Written out: what XLA's CPU backend makes of the transposed pads at 5x80^2 pixels of
    64 channels took 199 ms of a core, this 50."""
    windows = gradient.reshape(*gradient.shape[:axis], -1, size, *gradient.shape[axis + 1 :])
    parts = [lax.index_in_dim(windows, k, axis + 1, keepdims=False) for k in range(size)]
    weighted = list(zip(_shifts(size), parts, strict=True))
    to_own = sum((1 - abs(shift)) * part for shift, part in weighted)
    to_before = sum(-shift * part for shift, part in weighted if shift < 0)
    to_after = sum(shift * part for shift, part in weighted if shift > 0)
    n = to_own.shape[axis]

    def at(part, start, stop, first):
        around = [(first, n - first - (stop - start)) if i == axis else (0, 0) for i in range(part.ndim)]
        return jnp.pad(lax.slice_in_dim(part, start, stop, axis=axis), around)

    inside = at(to_before, 1, n, 0) + at(to_after, 0, n - 1, 1)
    return (to_own + inside + at(to_before, 0, 1, 0) + at(to_after, n - 1, n, n - 1),)


_upsample_axis.defvjp(_upsample_axis_forward, _upsample_axis_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool(x: jax.Array, window: Sequence[int]) -> jax.Array:
    """Maximum over disjoint windows.

    The gradient is shared by all pixels that reach the maximum, which needs no scatter
    (`select_and_scatter`, the usual backward pass, is slow on CPUs).

    Args:
      x: (B, *S, C) floats; *S divisible by the window.
      window: *P.

    Returns:
      (B, *S / *P, C).
    """
    return _blocks(x, window).max(_window_axes(window))


def _max_pool_forward(x, window):
    pooled = max_pool(x, window)
    return pooled, (x, pooled)


def _max_pool_backward(window, saved, gradient):
    x, pooled = saved
    axes = _window_axes(window)
    reached = _blocks(x, window) == jnp.expand_dims(pooled, axes)
    share = gradient / reached.sum(axes).astype(gradient.dtype)
    return (jnp.where(reached, jnp.expand_dims(share, axes), 0).astype(x.dtype).reshape(x.shape),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _window_axes(window):
    return tuple(2 + 2 * i for i in range(len(window)))


def _blocks(x, window):
    sizes = [part for n, p in zip(x.shape[1:-1], window, strict=True) for part in (n // p, p)]
    return x.reshape(x.shape[0], *sizes, x.shape[-1])


def max_pool_overlapping(x: jax.Array, window: int, stride: int) -> jax.Array:
    """Maximum over windows that overlap, with half a window of padding on every side.

    Args:
      x: (B, *S, C) floats.
      window: pixels along every spatial axis, odd.
      stride: along every spatial axis.

    Returns:
      (B, *ceil(S / stride), C).
    """
    return lowering.choose(_pool_cpu, _pool_plainly, x, window=window, stride=stride)


def _pool_plainly(x, window, stride):
    ndim = x.ndim - 2
    sizes, strides = ((1, *(n,) * ndim, 1) for n in (window, stride))
    padding = ((0, 0), *((window // 2, window // 2),) * ndim, (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, sizes, strides, padding)


def _pool_cpu(x, window, stride):
    """Pools axis by axis: `select_and_scatter`, the usual backward pass, took 62 ms where this takes 5."""
    for axis in reversed(range(1, x.ndim - 1)):
        last = stride * ((x.shape[axis] - 1) // stride) + 1
        padding = [(window // 2 if i == axis else 0,) * 2 for i in range(x.ndim)]
        padded = jnp.pad(x, padding, constant_values=-jnp.inf)
        seen = [lax.slice_in_dim(padded, tap, tap + last, stride, axis) for tap in range(window)]
        x = functools.reduce(jnp.maximum, seen)
    return x
