"""Convolution with the lowering that is fast on each platform.

Shapes: B batch, *S spatial axes (y, x) or (z, y, x), *K kernel, *P pool window, C channels; channels last.

A `custom_vjp` chooses the lowering of its forward and its backward pass (`ops/lowering.py`).
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from celltrack_jax.ops import blocks, lowering, sampling

_BLOCK_PIXELS = 512
"""Pixels whose taps are laid out at once: 0.6 MB at 32 channels in 2D, 1.8 MB in 3D, about a core's cache.
With 1024, 64 to 32 channels in 3D took 157 instead of 135 ms."""
_FEW_CHANNELS = 8
"""Below, an input is cheap beside the output, and matrices as wide as its taps are too narrow to be fast."""
_FEW_PIXELS = 16**2
"""Up to these, XLA's weight gradient of a 2D convolution is the faster one."""


def convolve(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...] | None = None) -> jax.Array:
    """Convolves with zero padding of half a kernel on every side (cross-correlation, as in all networks).

    Args:
      x: (B, *S, C) floats.
      kernel: (*K, C, Cout) of the same dtype; where K is even, half of it lies before each pixel.
      strides: one per spatial axis; None for ones.

    Returns:
      (B, *ceil(S / strides), Cout) of the same dtype, from S + 1 pixels where K is even.
    """
    return _convolve(x, kernel, strides or (1,) * (x.ndim - 2))


def convolve_plainly(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...] | None = None) -> jax.Array:
    """`convolve` as one `lax.conv_general_dilated`: what accelerators run, and the reference in tests."""
    ndim = x.ndim - 2
    padding = [(size // 2, size // 2) for size in kernel.shape[:ndim]]
    return lax.conv_general_dilated(
        x, kernel, strides or (1,) * ndim, padding, dimension_numbers=lowering.LAYOUTS[ndim]
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x, kernel, strides) -> Any:
    return lowering.choose(_convolve_cpu, convolve_plainly, x, kernel, strides=strides)


def _convolve_forward(x, kernel, strides):
    return _convolve(x, kernel, strides), (x, kernel)


def _convolve_backward(strides, saved, gradient):
    x, kernel = saved
    return lowering.choose(_gradients_cpu, _gradients_plainly, x, kernel, gradient, strides=strides)


_convolve.defvjp(_convolve_forward, _convolve_backward)


def _gradients_plainly(x, kernel, gradient, strides):
    return jax.vjp(lambda x, kernel: convolve_plainly(x, kernel, strides), x, kernel)[1](gradient)


def _convolve_cpu(x, kernel, strides):
    """Convolves volumes as 2D convolutions of their planes, summed over the kernel's depth.

    XLA lowers a 3D convolution to 19 GFLOP/s on one core at 32 channels x 96^2 planes and 51 at 128 x 24^2;
    the sum over planes reaches 68 and 105, and plane by plane, so that the summands stay in the cache, 86
    and 106 (oneDNN: 117 and 128). With few channels the summands outweigh the input, and the depth's taps as
    channels of one 2D convolution are faster (24 instead of 10 at 1 channel; oneDNN 29).
    """
    sizes = _output_sizes(x, kernel, strides)
    if _is_small(sizes, kernel):
        return _sum_of_taps(x, kernel, strides)
    if x.ndim == 4:
        return convolve_plainly(x, kernel, strides)
    batch, _, *plane, channels = x.shape
    taps, width = kernel.shape[0], kernel.shape[-1]
    padded = jnp.pad(x, ((0, 0), (taps // 2, taps // 2), *((0, 0),) * 3))

    def planes_at(tap):
        return lax.slice_in_dim(padded, tap, tap + strides[0] * (sizes[0] - 1) + 1, strides[0], 1)

    if channels < _FEW_CHANNELS:
        seen = jnp.concatenate([planes_at(tap) for tap in range(taps)], -1)
        flat = jnp.moveaxis(kernel, 0, 2).reshape(*kernel.shape[1:3], taps * channels, width)
        convolved = convolve_plainly(seen.reshape(-1, *plane, taps * channels), flat, strides[1:])
        return convolved.reshape(batch, *sizes, width)
    if max(strides) > 1:
        convolved = [
            convolve_plainly(planes_at(tap).reshape(-1, *plane, channels), kernel[tap], strides[1:])
            for tap in range(taps)
        ]
        return functools.reduce(jnp.add, convolved).reshape(batch, *sizes, width)

    def convolve_plane(_, z):
        seen = lax.dynamic_slice_in_dim(padded, z, taps, 1)
        return None, functools.reduce(
            jnp.add, [convolve_plainly(seen[:, tap], kernel[tap]) for tap in range(taps)]
        )

    return jnp.moveaxis(lax.scan(convolve_plane, None, jnp.arange(sizes[0]))[1], 0, 1)


def _gradients_cpu(x, kernel, gradient, strides):
    if max(strides) > 1 or _is_small(_output_sizes(x, kernel, strides), kernel):
        return jax.vjp(lambda x, kernel: _convolve_cpu(x, kernel, strides), x, kernel)[1](gradient)
    to_input = _convolve_cpu(gradient, _transposed(kernel), strides)
    even = [taps % 2 == 0 for taps in kernel.shape[:-2]]
    return _trimmed(to_input, even), _kernel_gradient_cpu(x, kernel, gradient)


def _trimmed(x, axes):
    """Without the first and the last pixel of the spatial axes that are true."""
    return x[:, *(slice(int(trim), n - trim) for n, trim in zip(x.shape[1:], axes, strict=False))]


def _output_sizes(x, kernel, strides):
    return tuple(
        (size - taps % 2) // stride + 1
        for size, taps, stride in zip(x.shape[1:-1], kernel.shape, strides, strict=False)
    )


def _is_small(sizes, kernel):
    """Whether planes are no larger than the kernel: XLA then leaves Eigen for plain loops.

    A 3x3 convolution of 512 channels at 32 x 2^2 took 415 ms on two cores, and 4 ms as the sum of its taps. With few
    channels the loops are short, and the taps of a stem would be many.
    """
    if kernel.shape[-2] < _FEW_CHANNELS:
        return False
    return any(size <= taps for size, taps in zip(sizes[-2:], kernel.shape[-4:-2], strict=True))


def _sum_of_taps(x, kernel, strides):
    """Sums per tap the product of the pixels that it sees, without those that would only see padding."""
    sizes = _output_sizes(x, kernel, strides)
    total = jnp.zeros((x.shape[0], *sizes, kernel.shape[-1]), x.dtype)
    for tap in itertools.product(*map(range, kernel.shape[:-2])):
        # Along an axis, output i sees input stride * i + shift.
        shifts = [t - taps // 2 for t, taps in zip(tap, kernel.shape, strict=False)]
        lows = [max(0, -(shift // stride)) for shift, stride in zip(shifts, strides, strict=True)]
        highs = [
            min(size, (n - 1 - shift) // stride + 1)
            for size, n, shift, stride in zip(sizes, x.shape[1:], shifts, strides, strict=False)
        ]
        if any(low >= high for low, high in zip(lows, highs, strict=True)):
            continue
        seen = x[
            :,
            *(
                slice(stride * low + shift, stride * (high - 1) + shift + 1, stride)
                for low, high, shift, stride in zip(lows, highs, shifts, strides, strict=True)
            ),
        ]
        around = [(low, size - high) for low, high, size in zip(lows, highs, sizes, strict=True)]
        total += jnp.pad(seen @ kernel[tap], ((0, 0), *around, (0, 0)))
    return total


def _transposed(kernel):
    """The kernel of the transposed convolution: mirrored in space, channels swapped."""
    return jnp.swapaxes(jnp.flip(kernel, tuple(range(kernel.ndim - 2))), -1, -2)


def _kernel_gradient_cpu(x, kernel, gradient):
    """Sums, over blocks of rows, the product of the gradient with the pixels that each tap saw.

    XLA lowers a weight gradient to a convolution with a kernel as large as the image: 43, 56 and 78 GFLOP/s on
    one core at 32 channels x 256^2, 64 x 128^2 and 128 x 64^2. This is im2col and a matrix product in blocks
    that stay in the cache: 60, 77 and 96 (oneDNN: 100, 94 and 103). im2col without blocks, per-tap products
    and Winograd's transforms were slower. 2D images of few channels stay with XLA (10 instead of 36 ms at 1), and
    so do small ones (4.6 instead of 10.7 ms at 64 channels x 32 images of 16^2); but where a kernel is even, XLA leaves
    Eigen for plain loops (1,508 instead of 16 ms at 256 to 512 channels x 4 images of 16^2).
    """
    few = x.shape[-1] < _FEW_CHANNELS or math.prod(x.shape[1:3]) <= _FEW_PIXELS
    if x.ndim == 4 and few and all(taps % 2 for taps in kernel.shape[:2]):
        return jax.vjp(lambda kernel: convolve_plainly(x, kernel), kernel)[1](gradient)[0]
    shape = kernel.shape
    if x.ndim == 4:
        x, kernel, gradient = x[:, None], kernel[None], gradient[:, None]
    batch, depth, height, breadth, width = gradient.shape
    taps, channels = kernel.shape[:3], x.shape[-1]
    rows = _block_rows(batch * breadth, height)
    padded = jnp.pad(x, ((0, 0), *((size // 2, size // 2) for size in taps), (0, 0)))
    offsets = list(itertools.product(*map(range, taps)))
    seen_shape = (batch, taps[0], rows + taps[1] - 1, breadth + taps[2] - 1, channels)

    def add_block(total, index):
        z, y = index // (height // rows), index % (height // rows) * rows
        seen = lax.dynamic_slice(padded, (0, z, y, 0, 0), seen_shape)
        block = lax.dynamic_slice(gradient, (0, z, y, 0, 0), (batch, 1, rows, breadth, width))
        columns = [seen[:, k, j : j + rows, i : i + breadth] for k, j, i in offsets]
        columns = jnp.concatenate(columns, -1).reshape(-1, len(offsets) * channels)
        # The narrow matrix is the one that is transposed: XLA copies what it transposes.
        return total + block.reshape(-1, width).T @ columns, None

    total = jnp.zeros((width, len(offsets) * channels), gradient.dtype)
    total, _ = lax.scan(add_block, total, jnp.arange(depth * (height // rows)))
    return total.T.reshape(shape)


def _block_rows(pixels_per_row: int, height: int) -> int:
    """The largest divisor of the height whose block has at most `_BLOCK_PIXELS` pixels, or 1."""
    most = max(1, _BLOCK_PIXELS // pixels_per_row)
    return max(rows for rows in range(1, min(most, height) + 1) if height % rows == 0)


def convolve_repeated(x: jax.Array, kernel: jax.Array, window: Sequence[int]) -> jax.Array:
    """`convolve(upsample_by_repeating(x, window), kernel)`, on a CPU in 8 instead of 27 products per pixel.

    Where pixels are repeated twice, of the two made pixels beside a border each sees the same two pixels of x through a
    kernel of 3. So a kernel of 2 taps, with sums of the 3 as its weights, makes both at once.

    Args:
      x: (B, *S, C) floats.
      kernel: (*K, C, Cout), *K odd; cast to the dtype of x once it is summed.
      window: *P.

    Returns:
      (B, *S * *P, Cout) of the dtype of x.
    """
    window = tuple(window)
    sizes = kernel.shape[: len(window)]
    foldable = all(p == 1 or (p, size) == (2, 3) for p, size in zip(window, sizes, strict=True))
    if not foldable:
        return _convolve_made(x, kernel, window)
    return lowering.choose(_convolve_folded, _convolve_made, x, kernel, window=window)


def _convolve_made(x, kernel, window):
    return convolve(sampling.upsample_by_repeating(x, window), kernel.astype(x.dtype))


def _convolve_folded(x, kernel, window):
    ndim = len(window)
    for axis, p in enumerate(window):
        if p == 2:
            first, middle, last = (lax.index_in_dim(kernel, tap, axis, keepdims=False) for tap in range(3))
            # Of the pixels before and behind a border: what they give to the made pixel before it, and behind it.
            given = (jnp.stack([first + middle, first], -2), jnp.stack([last, middle + last], -2))
            kernel = jnp.stack(given, axis)
        else:
            kernel = jnp.expand_dims(kernel, -2)
    # (*K, C, *P, Cout): the new axes came one behind the other, each before Cout.
    kernel = kernel.reshape(*kernel.shape[: ndim + 1], -1).astype(x.dtype)
    made = blocks.depth_to_space(convolve(x, kernel), window)
    return _trimmed(made, [p == 2 for p in window])
