"""Convolution, up-sampling and pooling with the lowering that is fast on each platform.

Shapes: B batch, *S spatial axes (y, x) or (z, y, x), *K kernel, *P pool window, C channels; channels last.

cuDNN and the TPU compiler run plain `lax` convolutions best. XLA's CPU backend does not, so each function
here is a `custom_vjp` whose forward and backward pass choose their lowering by the platform that the program
is compiled *for* (`lax.platform_dependent`; a program for a TPU compiled on a CPU machine gets the TPU's).
"""

import contextlib
import contextvars
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from celltrack_jax.ops import blocks

_BLOCK_PIXELS = 512
"""Pixels whose taps are laid out at once: 0.6 MB at 32 channels in 2D, 1.8 MB in 3D, about a core's cache.
With 1024, 64 to 32 channels in 3D took 157 instead of 135 ms."""
_FEW_CHANNELS = 8
"""Below, an input is cheap beside the output, and matrices as wide as its taps are too narrow to be fast."""
_FEW_PIXELS = 16**2
"""Up to these, XLA's weight gradient of a 2D convolution is the faster one."""
_PLAINLY = contextvars.ContextVar("plainly", default=False)
_LAYOUTS = {2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}


@contextlib.contextmanager
def lowered_plainly() -> Iterator[None]:
    """Traces what is inside with plain `lax` convolutions on CPUs too.

    A volume that is split over devices needs them: XLA exchanges halos for a convolution, but gathers the whole
    volume for a loop over its planes.
    """
    token = _PLAINLY.set(True)
    try:
        yield
    finally:
        _PLAINLY.reset(token)


# ---------------------------------------------------------------------------------------------- convolution


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
        x, kernel, strides or (1,) * ndim, padding, dimension_numbers=_LAYOUTS[ndim]
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x, kernel, strides) -> Any:
    if _PLAINLY.get():
        return convolve_plainly(x, kernel, strides)
    cpu, default = (functools.partial(f, strides=strides) for f in (_convolve_cpu, convolve_plainly))
    return lax.platform_dependent(x, kernel, cpu=cpu, default=default)


def _convolve_forward(x, kernel, strides):
    return _convolve(x, kernel, strides), (x, kernel)


def _convolve_backward(strides, saved, gradient):
    x, kernel = saved
    if _PLAINLY.get():
        return _gradients_plainly(x, kernel, gradient, strides)
    cpu, default = (functools.partial(f, strides=strides) for f in (_gradients_cpu, _gradients_plainly))
    return lax.platform_dependent(x, kernel, gradient, cpu=cpu, default=default)


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
    so do small ones (4.6 instead of 10.7 ms at 64 channels x 32 images of 16^2).
    """
    if x.ndim == 4 and (x.shape[-1] < _FEW_CHANNELS or math.prod(x.shape[1:3]) <= _FEW_PIXELS):
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
    if _PLAINLY.get() or not foldable:
        return _convolve_made(x, kernel, window)
    cpu, default = (functools.partial(f, window=window) for f in (_convolve_folded, _convolve_made))
    return lax.platform_dependent(x, kernel, cpu=cpu, default=default)


def _convolve_made(x, kernel, window):
    return convolve(upsample_by_repeating(x, window), kernel.astype(x.dtype))


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


# -------------------------------------------------------------------------------------- sampling up and down


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
    if _PLAINLY.get():
        return _spread_plainly(x, kernel, strides)
    cpu, default = (functools.partial(f, strides=tuple(strides)) for f in (_spread_cpu, _spread_plainly))
    return lax.platform_dependent(x, kernel, cpu=cpu, default=default)


def _spread_plainly(x, kernel, strides):
    ndim = x.ndim - 2
    sizes = kernel.shape[:ndim]
    padding = [(size // 2, size // 2 + p - 1) for size, p in zip(sizes, strides, strict=True)]
    mirrored = jnp.flip(kernel, tuple(range(ndim)))
    return lax.conv_general_dilated(
        x, mirrored, (1,) * ndim, padding, lhs_dilation=tuple(strides), dimension_numbers=_LAYOUTS[ndim]
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
    if _PLAINLY.get():
        return _pool_plainly(x, window, stride)
    cpu, default = (functools.partial(f, window=window, stride=stride) for f in (_pool_cpu, _pool_plainly))
    return lax.platform_dependent(x, cpu=cpu, default=default)


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
