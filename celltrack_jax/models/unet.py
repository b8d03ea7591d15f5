"""U-Net for images and volumes (Ronneberger et al. 2015, arXiv:1505.04597; Çiçek et al. 2016, 1606.06650).

Shapes: B batch, *S spatial axes (y, x) or (z, y, x), *K kernel, *P pool, C channels; channels last. Levels
count from the finest, 0.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from celltrack_jax.config import check_settings
from celltrack_jax.errors import InputError
from celltrack_jax.ops import blocks, convolution, normalisation

ACTIVATIONS = {
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
}
NORMS = ("group", "instance", "batch", "none")
_BATCH_MOMENTUM = 0.9
"""Share of the running batch statistics that a training step keeps."""


def build(rngs: nnx.Rngs, **kwargs) -> "UNet":
    """Builds a `UNet`."""
    check_settings(UNet.__init__, "models/unet", None, rngs, **kwargs)
    return UNet(rngs, **kwargs)


class UNet(nnx.Module):
    """Encoder, decoder with skips, and one 1x1 convolution per head.

    Parameters and normalisation statistics are float32, whatever the compute dtype.
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        *,
        in_channels: int,
        heads: Mapping[str, int],
        widths: Sequence[int],
        kernels: Sequence[Sequence[int]],
        pools: Sequence[Sequence[int]],
        stem: Sequence[int],
        convs: int,
        norm: Literal["group", "instance", "batch", "none"],
        groups: int,
        activation: str,
        order: str,
        join: Literal["concat", "sum"],
        remat: Sequence[bool],
        dtype: str,
    ):
        """Makes the parameters.

        Args:
          rngs: stream "params".
          in_channels: channels of the input.
          heads: channels of each named output.
          widths: channels of each level; their number is the depth.
          kernels: convolution kernel of each level, odd sizes; its length (2 or 3) is the number of axes.
          pools: pool window from each level to the next coarser one; one fewer than levels.
          stem: window whose pixels become channels of the finest level, and back at the heads (space to depth): with
            (2, 2) a wide network moves a quarter of the bytes at no loss of the output's resolution; (1, 1) for none.
          convs: convolutions per level, on the way down and again on the way up.
          norm: which statistics normalise.
          groups: channel groups of norm "group"; where they do not divide the channels (the input of order
            "nca"), their greatest common divisor is used.
          activation: a key of `ACTIVATIONS`.
          order: letters c (convolution), n (norm), a (activation), each at most once, c exactly once.
          join: how a skip meets the up-sampled features.
          remat: per level, whether its activations are computed again in the backward pass.
          dtype: compute dtype, "float32" or "bfloat16".

        Raises:
          InputError: the arguments contradict each other.
        """
        self.kernels = tuple(tuple(kernel) for kernel in kernels)
        self.pools = tuple(tuple(pool) for pool in pools)
        self.stem = tuple(stem)
        self.convs, self.join, self.remat = convs, join, tuple(remat)
        self.dtype = jnp.dtype(dtype)
        widths = tuple(widths)
        _check_levels(widths, self.kernels, self.pools, self.stem, self.remat)
        _check_layers(convs=convs, norm=norm, activation=activation, order=order, join=join, heads=heads)
        layer = dict(norm=norm, groups=groups, activation=activation, order=order, dtype=self.dtype)

        inputs = (in_channels * math.prod(self.stem), *widths[:-1])
        self.down = nnx.List(
            Block(rngs, channels, width, kernel, convs, **layer)
            for channels, width, kernel in zip(inputs, widths, self.kernels, strict=True)
        )
        self.up = nnx.List(
            Upsample(rngs, coarse, fine, pool, self.dtype)
            for fine, coarse, pool in zip(widths, widths[1:], self.pools, strict=False)
        )
        joined = 2 if join == "concat" else 1
        self.merge = nnx.List(
            Block(rngs, joined * width, width, kernel, convs, **layer)
            for width, kernel in zip(widths[:-1], self.kernels, strict=False)
        )
        pixels = math.prod(self.stem)
        self.heads = nnx.Dict({name: Head(rngs, widths[0], pixels * n) for name, n in heads.items()})

    def __call__(self, x: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Applies the network.

        Args:
          x: (B, *S, C) floats, *S divisible by `stride`.
          train: batch normalisation uses the batch's own statistics and updates the running ones.

        Returns:
          per head (B, *S, channels) float32.

        Raises:
          InputError: S is not divisible by the stride.
        """
        self._check_input(x)
        x = blocks.space_to_depth(x, self.stem).astype(self.dtype)
        skips = []
        for level, block in enumerate(self.down):
            if level > 0:
                skips.append(x)
                x = convolution.max_pool(x, self.pools[level - 1])
            x = self._run(level, block, x, train)
        for level in reversed(range(len(self.up))):
            skip, x = skips.pop(), self.up[level](x)
            x = jnp.concatenate([skip, x], -1) if self.join == "concat" else skip + x
            x = self._run(level, self.merge[level], x, train)
        return {name: blocks.depth_to_space(head(x), self.stem) for name, head in self.heads.items()}

    @property
    def stride(self) -> tuple[int, ...]:
        """Total pooling per axis: the input's sizes must be multiples of it."""
        return tuple(
            stem * math.prod(pool[axis] for pool in self.pools) for axis, stem in enumerate(self.stem)
        )

    @property
    def receptive_radius(self) -> tuple[int, ...]:
        """Per axis, how far the farthest input pixel is that an output pixel sees through convolutions.

        Group and instance normalisation see further: their statistics are those of the whole input.
        """
        return tuple(
            max(
                max(pixel - low, high - pixel)
                for pixel in range(stride)
                for low, high in [self._seen(axis, pixel)]
            )
            for axis, stride in enumerate(self.stride)
        )

    def _seen(self, axis: int, pixel: int) -> tuple[int, int]:
        """First and last input pixel on this axis that the output pixel sees, by following it backwards."""
        stem = self.stem[axis]
        reach = [self.convs * (kernel[axis] // 2) for kernel in self.kernels]
        low = high = pixel // stem
        skips = []
        for level, pool in enumerate(self.pools):
            low, high = low - reach[level], high + reach[level]
            skips.append((low, high))
            low, high = low // pool[axis], high // pool[axis]
        low, high = low - reach[-1], high + reach[-1]
        for level in reversed(range(len(self.pools))):
            size = self.pools[level][axis]
            low, high = low * size, high * size + size - 1
            low, high = min(low, skips[level][0]), max(high, skips[level][1])
            low, high = low - reach[level], high + reach[level]
        return low * stem, high * stem + stem - 1

    def _run(self, level: int, block: "Block", x: jax.Array, train: bool) -> jax.Array:
        if not self.remat[level]:
            return block(x, train)
        graph, params, stats = nnx.split(block, nnx.Param, ...)

        @jax.checkpoint
        def run(params, stats, x):
            block = nnx.merge(graph, params, stats, copy=True)
            return block(x, train), nnx.split(block, nnx.Param, ...)[2]

        x, stats = run(params, stats, x)
        nnx.update(block, stats)
        return x

    def _check_input(self, x: jax.Array) -> None:
        size, stride = x.shape[1:-1], self.stride
        if len(size) != len(stride):
            raise InputError(f"an input of shape {x.shape} for a {len(stride)}D U-Net: give (B, *S, C)")
        if any(n % s for n, s in zip(size, stride, strict=True)):
            raise InputError(f"an input of size {size} is no multiple of the U-Net's stride {stride}: pad it")


class Block(nnx.Module):
    """A level's convolutions, each with its normalisation and activation in the given order."""

    def __init__(self, rngs, channels, width, kernel, convs, *, norm, groups, activation, order, dtype):
        self.order, self.activation = order, activation
        normed_after = norm != "none" and "n" in order[order.index("c") :]
        inputs = (channels, *[width] * (convs - 1))
        self.convs = nnx.List(
            Convolution(rngs, before, width, kernel, bias=not normed_after, dtype=dtype) for before in inputs
        )
        self.norms = nnx.List(
            Norm(norm, width if normed_after else before, groups)
            for before in inputs
            if norm != "none" and "n" in order
        )

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, *S, channels) to (B, *S, width)."""
        for conv, norm in itertools.zip_longest(self.convs, self.norms):
            for step in self.order:
                if step == "c":
                    x = conv(x)
                elif step == "a":
                    x = ACTIVATIONS[self.activation](x)
                elif norm is not None:
                    x = norm(x, train)
        return x


class Convolution(nnx.Module):
    """Convolution to the same size; a bias only where no normalisation follows that would remove it."""

    def __init__(self, rngs, channels, width, kernel, *, bias, dtype):
        self.dtype = dtype
        self.kernel = nnx.Param(nnx.initializers.he_normal()(rngs.params(), (*kernel, channels, width)))
        self.bias = nnx.Param(jnp.zeros(width)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, *S, channels) to (B, *S, width)."""
        x = convolution.convolve(x, self.kernel[...].astype(self.dtype))
        return x if self.bias is None else x + self.bias[...].astype(self.dtype)


class Upsample(nnx.Module):
    """Learned up-sampling by the pool window."""

    def __init__(self, rngs, channels, width, pool, dtype):
        self.dtype = dtype
        # Each output pixel sees one input pixel, so the fan-in is the channels alone.
        matrix = nnx.initializers.lecun_normal()(rngs.params(), (channels, math.prod(pool) * width))
        self.kernel = nnx.Param(jnp.moveaxis(matrix.reshape(channels, *pool, width), 0, -2))
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, *S, channels) to (B, *S * *P, width)."""
        x = convolution.upsample(x, self.kernel[...].astype(self.dtype))
        return x + self.bias[...].astype(self.dtype)


class Head(nnx.Module):
    """1x1 convolution in float32."""

    def __init__(self, rngs, channels, width):
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), (channels, width)))
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, *S, channels) to (B, *S, width) float32."""
        return x.astype(jnp.float32) @ self.kernel[...] + self.bias[...]


class Norm(nnx.Module):
    """Normalisation with a learned scale and offset; "batch" keeps running statistics in `nnx.BatchStat`."""

    def __init__(self, kind, channels, groups):
        self.batch = kind == "batch"
        self.groups = channels if kind == "instance" else math.gcd(groups, channels)
        self.scale = nnx.Param(jnp.ones(channels))
        self.offset = nnx.Param(jnp.zeros(channels))
        if self.batch:
            self.mean = nnx.BatchStat(jnp.zeros(channels))
            self.variance = nnx.BatchStat(jnp.ones(channels))

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, *S, channels) to the same shape; updates the running statistics where `train`."""
        if not self.batch:
            mean, variance = normalisation.group_statistics(x, self.groups)
        elif train:
            mean, variance = normalisation.batch_statistics(x)
            for running, now in ((self.mean, mean), (self.variance, variance)):
                running[...] = _BATCH_MOMENTUM * running[...] + (1 - _BATCH_MOMENTUM) * now
        else:
            mean, variance = self.mean[...], self.variance[...]
        return normalisation.normalise(x, mean, variance, self.scale[...], self.offset[...])


def _check_levels(widths, kernels, pools, stem, remat):
    """Raises InputError where the per-level arguments of `UNet` contradict each other."""
    levels, ndim = len(widths), len(kernels[0]) if kernels else 0
    _refuse(ndim not in (2, 3), f"kernels {kernels} must have 2 or 3 axes")
    _refuse(len(kernels) != levels, f"{len(kernels)} kernels for {levels} widths: give one per level")
    _refuse(len(pools) != levels - 1, f"{len(pools)} pools for {levels} levels: give {levels - 1}")
    _refuse(len(remat) != levels, f"{len(remat)} remat flags for {levels} levels: give one per level")
    _refuse(
        any(len(axes) != ndim for axes in (*kernels, *pools, stem)),
        f"{kernels}, {pools} and {stem} differ in axes",
    )
    _refuse(any(size % 2 == 0 for kernel in kernels for size in kernel), f"kernels {kernels} must be odd")


def _check_layers(*, convs, norm, activation, order, join, heads):
    """Raises InputError where an argument of `UNet` is not known."""
    _refuse(convs < 1, f"convs {convs} must be at least 1")
    _refuse(norm not in NORMS, f"norm {norm!r} is none of {NORMS}")
    _refuse(activation not in ACTIVATIONS, f"activation {activation!r} is none of {tuple(ACTIVATIONS)}")
    letters = set(order)
    known = "c" in letters and letters <= set("cna") and len(letters) == len(order)
    _refuse(not known, f"order {order!r} must hold c once, and n and a at most once, as in 'cna'")
    _refuse(join not in ("concat", "sum"), f"join {join!r} is neither 'concat' nor 'sum'")
    _refuse(not heads, "no heads: name at least one output")


def _refuse(fault: bool, text: str) -> None:
    if fault:
        raise InputError(f"U-Net: {text}")
