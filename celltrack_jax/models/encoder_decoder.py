"""What U-Nets share: levels on the way down, levels on the way up, and what joins them.

Shapes: B batch, *S spatial axes (y, x) or (z, y, x), *K kernel, *P pool, C channels; channels last. Levels
count from the finest, 0.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from celltrack_jax.errors import InputError
from celltrack_jax.models import layers
from celltrack_jax.ops import blocks, sampling
from celltrack_jax.ops.dropout import dropout

MakeBlock: TypeAlias = Callable[[int, int, tuple[int, ...]], nnx.Module]
"""Makes what works at a level of its input channels, its output channels and its kernel. It is called as
`block(x, train)`, (B, *S, channels) to (B, *S, width); on the way up also of a `layers.Joined`, where skips are
concatenated with the nearest pixels."""

JOINS = ("concat", "sum", "none")


class EncoderDecoder(nnx.Module):
    """A U-Net without its heads; a network is a subclass that says what its blocks are and adds heads."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        *,
        in_channels: int,
        widths: Sequence[int],
        kernels: Sequence[Sequence[int]],
        pools: Sequence[Sequence[int]],
        stem: Sequence[int],
        convs: int,
        down: MakeBlock,
        merge: MakeBlock,
        dropout: float,
        upsample: Literal["transposed", "overlapping", "bilinear", "nearest"],
        up_channels: Literal["halve", "keep"],
        join: Literal["concat", "sum", "none"],
        remat: Sequence[bool],
        dtype: str,
    ):
        """Makes the parameters; arguments as `unet.UNet` has them, and:

        Args:
          convs: how many convolutions of a level's kernel stand in each of its blocks one after the other.
          down: makes a level's block on the way down.
          merge: makes a level's block on the way up.

        Raises:
          InputError: the arguments contradict each other.
        """
        self.kernels = tuple(tuple(kernel) for kernel in kernels)
        self.pools = tuple(tuple(pool) for pool in pools)
        self.stem = tuple(stem)
        self.convs, self.join, self.remat = convs, join, tuple(remat)
        self.rate, self.upsample = dropout, upsample
        self.dtype = jnp.dtype(dtype)
        widths = tuple(widths)
        check_levels(widths, self.kernels, self.pools, self.stem, self.remat)
        _check_join(join, up_channels)

        inputs = (in_channels * math.prod(self.stem), *widths[:-1])
        self.down = nnx.List(
            down(channels, width, kernel)
            for channels, width, kernel in zip(inputs, widths, self.kernels, strict=True)
        )
        risen = widths[1:] if up_channels == "keep" else widths[:-1]
        self.up = nnx.List(
            layers.Upsample(rngs, coarse, width, pool, upsample, self.dtype, kernel)
            for coarse, width, pool, kernel in zip(widths[1:], risen, self.pools, self.kernels, strict=False)
        )
        joined = {"concat": lambda skip, up: skip + up, "sum": max, "none": lambda _, up: up}[join]
        self.merge = nnx.List(
            merge(joined(width, up), width, kernel)
            for width, up, kernel in zip(widths, risen, self.kernels, strict=False)
        )

    def features(self, x: jax.Array, key: jax.Array | None = None, train: bool = False) -> jax.Array:
        """Applies everything before the heads.

        Args:
          x: (B, *S, C) floats, *S divisible by `stride`.
          key: (B,) keys of dropout, so that a sample's does not depend on its batch; may be None where not `train` or
            the rate is 0.
          train: dropout is on; batch normalisation uses the batch's own statistics and updates the running ones.

        Returns:
          (B, *S / stem, widths[0]) of the compute dtype.

        Raises:
          InputError: S is not divisible by the stride.
          ValueError: dropout without keys.
        """
        check_input(x.shape[1:-1], self.stride, x.shape)
        if train and key is None and self.rate > 0:
            raise ValueError("UNet has dropout: pass a key per sample where train is true")
        key = key if train and self.rate > 0 else None
        x = blocks.space_to_depth(x, self.stem).astype(self.dtype)
        skips = []
        for level, block in enumerate(self.down):
            if level > 0:
                skips.append(x)
                x = sampling.max_pool(x, self.pools[level - 1])
            x = self._run(level, block, x, _fold(key, level), train)
        for level in reversed(range(len(self.up))):
            joined = self._joined(skips.pop(), x, self.up[level])
            x = self._run(level, self.merge[level], joined, _fold(key, len(self.down) + level), train)
        return x

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
        return receptive_radius(self.kernels, self.pools, self.stem, self.convs, self.upsample)

    def _joined(self, skip: jax.Array, x: jax.Array, up: layers.Upsample) -> jax.Array | layers.Joined:
        if self.join == "none":
            return up(x)
        if self.join == "sum":
            return skip + up(x)
        if self.upsample == "nearest":
            return layers.Joined(skip, up.projected(x), up.pool)
        return jnp.concatenate([skip, up(x)], -1)

    def _run(
        self,
        level: int,
        block: nnx.Module,
        x: jax.Array | layers.Joined,
        key: jax.Array | None,
        train: bool,
    ) -> jax.Array:
        if not self.remat[level]:
            return _drop(key, block(x, train), self.rate)
        graph, params, stats = nnx.split(block, nnx.Param, ...)

        @jax.checkpoint
        def run(params, stats, x, key):
            block = nnx.merge(graph, params, stats, copy=True)
            return _drop(key, block(x, train), self.rate), nnx.split(block, nnx.Param, ...)[2]

        y, stats = run(params, stats, x, key)
        nnx.update(block, stats)
        return y


def receptive_radius(
    kernels: Sequence[Sequence[int]],
    pools: Sequence[Sequence[int]],
    stem: Sequence[int],
    convs: int,
    upsample: str,
) -> tuple[int, ...]:
    """Per axis, how far an output pixel sees in a U-Net of these levels; arguments as `EncoderDecoder` has them."""

    def farthest(axis: int) -> int:
        sizes = [pool[axis] for pool in pools]
        halves = [kernel[axis] // 2 for kernel in kernels]
        seen = [
            (pixel, *_seen(pixel // stem[axis], halves, sizes, convs, upsample))
            for pixel in range(stem[axis] * math.prod(sizes))
        ]
        return max(max(p - low * stem[axis], (high + 1) * stem[axis] - 1 - p) for p, low, high in seen)

    return tuple(farthest(axis) for axis in range(len(stem)))


def _seen(pixel: int, halves: list[int], sizes: list[int], convs: int, upsample: str) -> tuple[int, int]:
    """First and last input pixel on an axis that the output pixel sees, by following it backwards."""
    low = high = pixel
    reach = [convs * half for half in halves]
    skips = []
    for margin, half, size in zip(reach, halves, sizes, strict=False):
        low, high = low - margin, high + margin
        skips.append((low, high))
        if upsample == "overlapping":
            # Pixel i reaches out from pixel i * size by half a kernel.
            low, high = -((half - low) // size), (high + half) // size
        elif upsample != "bilinear":
            low, high = low // size, high // size
        else:
            # Pixel p lies at (p + 1/2) / size - 1/2 of the coarser level, between that rounded down and up.
            low, high = (2 * low + 1 - size) // (2 * size), -((size - 1 - 2 * high) // (2 * size))
    low, high = low - reach[-1], high + reach[-1]
    for margin, size, skip in zip(reach[-2::-1], sizes[::-1], skips[::-1], strict=True):
        low, high = low * size, high * size + size - 1
        low, high = min(low, skip[0]), max(high, skip[1])
        low, high = low - margin, high + margin
    return low, high


def check_input(size: Sequence[int], stride: Sequence[int], shape: Sequence[int]) -> None:
    """Checks the spatial sizes of an input.

    Raises:
      InputError: they are not as many as the stride's, or no multiples of it.
    """
    if len(size) != len(stride):
        raise InputError(f"an input of shape {shape} for a {len(stride)}D U-Net: give (B, *S, C)")
    if any(n % s for n, s in zip(size, stride, strict=True)):
        raise InputError(f"an input of size {size} is no multiple of the U-Net's stride {stride}: pad it")


def check_levels(widths, kernels, pools, stem, remat):
    """Checks the per-level arguments of `EncoderDecoder`.

    Raises:
      InputError: they contradict each other.
    """
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


def _check_join(join, up_channels):
    """Raises InputError where skips cannot meet the up-sampled features."""
    _refuse(join not in JOINS, f"join {join!r} is none of {JOINS}")
    _refuse(
        join == "sum" and up_channels == "keep",
        "join 'sum' adds the up-sampled features to the finer level's: set up_channels to 'halve'",
    )


def _fold(key: jax.Array | None, number: int) -> jax.Array | None:
    """(B,) keys of one block."""
    return None if key is None else jax.vmap(lambda each: jax.random.fold_in(each, number))(key)


def _drop(key: jax.Array | None, x: jax.Array, rate: float) -> jax.Array:
    """Dropout of each sample by its own key."""
    return x if key is None else jax.vmap(lambda each, sample: dropout(each, sample, rate))(key, x)


def _refuse(fault: bool, text: str) -> None:
    if fault:
        raise InputError(f"U-Net: {text}")
