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
from celltrack_jax.ops.dropout import dropout

ACTIVATIONS = {
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
}
NORMS = ("group", "instance", "batch", "none")
UPSAMPLES = ("transposed", "bilinear")
UP_CHANNELS = ("halve", "keep")
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
        affine: bool,
        activation: str,
        order: str,
        dropout: float,
        upsample: Literal["transposed", "bilinear"],
        up_channels: Literal["halve", "keep"],
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
          affine: whether normalisation learns a scale and an offset per channel.
          activation: a key of `ACTIVATIONS`.
          order: letters c (convolution), n (norm), a (activation), each at most once, c exactly once.
          dropout: rate behind each level's convolutions, on the way down and up, while training; 0 for none.
          upsample: "transposed" convolution whose stride is its kernel, or "bilinear" interpolation (trilinear in 3D)
            and a 1x1 convolution where the channels change.
          up_channels: of the up-sampled features: "halve" takes them to the finer level's width, "keep" leaves the
            coarser level's.
          join: how a skip meets the up-sampled features; "sum" needs `up_channels` "halve".
          remat: per level, whether its activations are computed again in the backward pass.
          dtype: compute dtype, "float32" or "bfloat16".

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
        check_layers(
            norm=norm, activation=activation, heads=heads, upsample=upsample, up_channels=up_channels
        )
        _check_blocks(convs=convs, order=order, dropout=dropout, join=join, up_channels=up_channels)
        layer = dict(
            norm=norm, groups=groups, affine=affine, activation=activation, order=order, dtype=self.dtype
        )

        inputs = (in_channels * math.prod(self.stem), *widths[:-1])
        self.down = nnx.List(
            Block(rngs, channels, width, kernel, convs, **layer)
            for channels, width, kernel in zip(inputs, widths, self.kernels, strict=True)
        )
        risen = widths[1:] if up_channels == "keep" else widths[:-1]
        self.up = nnx.List(
            Upsample(rngs, coarse, width, pool, upsample, self.dtype)
            for coarse, width, pool in zip(widths[1:], risen, self.pools, strict=True)
        )
        self.merge = nnx.List(
            Block(rngs, width + up if join == "concat" else width, width, kernel, convs, **layer)
            for width, up, kernel in zip(widths, risen, self.kernels, strict=False)
        )
        pixels = math.prod(self.stem)
        self.heads = nnx.Dict({name: Head(rngs, widths[0], pixels * n) for name, n in heads.items()})

    def __call__(
        self, x: jax.Array, key: jax.Array | None = None, train: bool = False
    ) -> dict[str, jax.Array]:
        """Applies the network.

        Args:
          x: (B, *S, C) floats, *S divisible by `stride`.
          key: (B,) keys of dropout, so that a sample's does not depend on its batch; may be None where not `train` or
            the rate is 0.
          train: dropout is on; batch normalisation uses the batch's own statistics and updates the running ones.

        Returns:
          per head (B, *S, channels) float32.

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
                x = convolution.max_pool(x, self.pools[level - 1])
            x = self._run(level, block, x, _fold(key, level), train)
        for level in reversed(range(len(self.up))):
            skip, x = skips.pop(), self.up[level](x)
            x = jnp.concatenate([skip, x], -1) if self.join == "concat" else skip + x
            x = self._run(level, self.merge[level], x, _fold(key, len(self.down) + level), train)
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
        return receptive_radius(self.kernels, self.pools, self.stem, self.convs, self.upsample)

    def _run(self, level: int, block: "Block", x: jax.Array, key: jax.Array | None, train: bool) -> jax.Array:
        if not self.remat[level]:
            return _drop(key, block(x, train), self.rate)
        graph, params, stats = nnx.split(block, nnx.Param, ...)

        @jax.checkpoint
        def run(params, stats, x, key):
            block = nnx.merge(graph, params, stats, copy=True)
            return _drop(key, block(x, train), self.rate), nnx.split(block, nnx.Param, ...)[2]

        x, stats = run(params, stats, x, key)
        nnx.update(block, stats)
        return x


class Block(nnx.Module):
    """A level's convolutions, each with its normalisation and activation in the given order."""

    def __init__(
        self, rngs, channels, width, kernel, convs, *, norm, groups, affine, activation, order, dtype
    ):
        self.order, self.activation = order, activation
        normed_after = norm != "none" and "n" in order[order.index("c") :]
        inputs = (channels, *[width] * (convs - 1))
        self.convs = nnx.List(
            Convolution(rngs, before, width, kernel, bias=not normed_after, dtype=dtype) for before in inputs
        )
        self.norms = nnx.List(
            Norm(norm, width if normed_after else before, groups, affine)
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
    """Up-sampling by the pool window, transposed or bilinear as `UNet` has it."""

    def __init__(self, rngs, channels, width, pool, kind, dtype):
        self.pool, self.kind, self.dtype = pool, kind, dtype
        self.learned = kind == "transposed" or channels != width
        if not self.learned:
            return
        # Each output pixel sees one input pixel, so the fan-in is the channels alone.
        window = pool if kind == "transposed" else ()
        matrix = nnx.initializers.lecun_normal()(rngs.params(), (channels, math.prod(window) * width))
        self.kernel = nnx.Param(jnp.moveaxis(matrix.reshape(channels, *window, width), 0, -2))
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, *S, channels) to (B, *S * *P, width)."""
        if self.learned:
            kernel, bias = self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype)
            if self.kind == "transposed":
                return convolution.upsample(x, kernel) + bias
            # Weights of the interpolation sum to 1, so the 1x1 convolution may come first, on fewer pixels.
            x = x @ kernel + bias
        return convolution.upsample_linearly(x, self.pool)


class Head(nnx.Module):
    """1x1 convolution in float32."""

    def __init__(self, rngs, channels, width):
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), (channels, width)))
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, *S, channels) to (B, *S, width) float32."""
        return x.astype(jnp.float32) @ self.kernel[...] + self.bias[...]


class Norm(nnx.Module):
    """Normalisation, with a learned scale and offset if `affine`; "batch" keeps statistics in `nnx.BatchStat`."""

    def __init__(self, kind, channels, groups, affine):
        self.batch, self.affine = kind == "batch", affine
        self.groups = channels if kind == "instance" else math.gcd(groups, channels)
        if affine:
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
        scale, offset = (self.scale[...], self.offset[...]) if self.affine else (1.0, 0.0)
        return normalisation.normalise(x, mean, variance, scale, offset)


def receptive_radius(
    kernels: Sequence[Sequence[int]],
    pools: Sequence[Sequence[int]],
    stem: Sequence[int],
    convs: int,
    upsample: str,
) -> tuple[int, ...]:
    """Per axis, how far an output pixel sees in a U-Net of these levels; arguments as `UNet` has them."""

    def farthest(axis: int) -> int:
        sizes = [pool[axis] for pool in pools]
        reach = [convs * (kernel[axis] // 2) for kernel in kernels]
        seen = [
            (pixel, *_seen(pixel // stem[axis], reach, sizes, upsample))
            for pixel in range(stem[axis] * math.prod(sizes))
        ]
        return max(max(p - low * stem[axis], (high + 1) * stem[axis] - 1 - p) for p, low, high in seen)

    return tuple(farthest(axis) for axis in range(len(stem)))


def _seen(pixel: int, reach: list[int], sizes: list[int], upsample: str) -> tuple[int, int]:
    """First and last input pixel on an axis that the output pixel sees, by following it backwards."""
    low = high = pixel
    skips = []
    for margin, size in zip(reach, sizes, strict=False):
        low, high = low - margin, high + margin
        skips.append((low, high))
        if upsample == "transposed":
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
    """Checks the per-level arguments of `UNet`.

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


def check_layers(*, norm, activation, heads, upsample, up_channels):
    """Checks what every U-Net names.

    Raises:
      InputError: one of the names is not known, or there is no head.
    """
    _refuse(norm not in NORMS, f"norm {norm!r} is none of {NORMS}")
    _refuse(activation not in ACTIVATIONS, f"activation {activation!r} is none of {tuple(ACTIVATIONS)}")
    _refuse(not heads, "no heads: name at least one output")
    _refuse(upsample not in UPSAMPLES, f"upsample {upsample!r} is none of {UPSAMPLES}")
    _refuse(up_channels not in UP_CHANNELS, f"up_channels {up_channels!r} is none of {UP_CHANNELS}")


def _check_blocks(*, convs, order, dropout, join, up_channels):
    """Raises InputError where an argument of `UNet` about its blocks is out of range."""
    _refuse(convs < 1, f"convs {convs} must be at least 1")
    letters = set(order)
    known = "c" in letters and letters <= set("cna") and len(letters) == len(order)
    _refuse(not known, f"order {order!r} must hold c once, and n and a at most once, as in 'cna'")
    _refuse(not 0 <= dropout < 1, f"dropout {dropout} must be in [0, 1)")
    _refuse(join not in ("concat", "sum"), f"join {join!r} is neither 'concat' nor 'sum'")
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
