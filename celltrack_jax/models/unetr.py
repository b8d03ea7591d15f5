"""UNETR: a vision transformer as the encoder of a U-Net (Hatamizadeh et al. 2022, arXiv:2103.10504).

Shapes: B batch, *S spatial axes (y, x) or (z, y, x), N patches, W channels of a patch, H attention heads, C channels;
channels last. Levels count from the finest, 0; the patches are one level below the coarsest.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from celltrack_jax.config import check_settings
from celltrack_jax.errors import InputError
from celltrack_jax.models import encoder_decoder, layers
from celltrack_jax.ops import blocks

_VARIANCE_FLOOR = 1e-6
_POSITION_STD = 0.02


def build(rngs: nnx.Rngs, **kwargs) -> "UNETR":
    """Builds a `UNETR`."""
    check_settings(UNETR.__init__, "models/unetr", None, rngs, **kwargs)
    return UNETR(rngs, **kwargs)


class UNETR(nnx.Module):
    """A transformer over patches (`encoder`), a convolutional decoder of what some of its blocks say, and heads.

    Parameters and normalisation statistics are float32, whatever the compute dtype. The encoder's parameters lie under
    "encoder/": a learning-rate rule ("encoder/.*", 0.0) freezes them.
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        *,
        in_channels: int,
        heads: Mapping[str, int],
        patch: Sequence[int],
        size: Sequence[int],
        depth: int,
        width: int,
        heads_count: int,
        mlp_ratio: int,
        widths: Sequence[int],
        taps: Sequence[int],
        norm: Literal["group", "instance", "batch", "none"],
        groups: int,
        dtype: str,
    ):
        """Makes the parameters.

        Args:
          rngs: stream "params".
          in_channels: channels of the input.
          heads: channels of each named output.
          patch: pixels of a patch per axis, each 2 to the power of the number of levels.
          size: input for which positions are learned, a multiple of the patch; for other sizes they are interpolated.
          depth: transformer blocks.
          width: W.
          heads_count: H, divides the width.
          mlp_ratio: hidden channels of a block's perceptron, in widths.
          widths: channels of each level of the decoder; the finest sees the image itself.
          taps: blocks, counted from 1, whose features the decoder takes, ascending and one per level; those of the first
            join the second level, and so on, those of the last block start the decoder.
          norm: which statistics normalise the decoder, as `unet.UNet` has it.
          groups: channel groups of norm "group".
          dtype: compute dtype, "float32" or "bfloat16".

        Raises:
          InputError: the arguments contradict each other.
        """
        self.patch, self.size, self.dtype = tuple(patch), tuple(size), jnp.dtype(dtype)
        self.taps = tuple(taps)
        _check(self.patch, self.size, depth, width, heads_count, widths, self.taps)
        layers.check_layers(
            norm=norm, activation="relu", heads=heads, upsample="transposed", up_channels="halve"
        )
        self.encoder = Encoder(
            rngs, in_channels, self.patch, self.size, depth, width, heads_count, mlp_ratio, self.dtype
        )
        layer: dict[str, Any] = dict(norm=norm, groups=groups, dtype=self.dtype)
        self.stem = _block(rngs, in_channels, widths[0], self.patch, 2, layer)
        self.skips = nnx.List(
            Rise(rngs, width, widths[level], self.patch, len(widths) - level, layer)
            for level in range(1, len(widths))
        )
        self.up = nnx.List(
            layers.Upsample(rngs, coarse, fine, (2,) * len(self.patch), "transposed", self.dtype)
            for coarse, fine in zip((*widths[1:], width), widths, strict=True)
        )
        self.merge = nnx.List(_block(rngs, 2 * fine, fine, self.patch, 2, layer) for fine in widths)
        self.heads = nnx.Dict({name: layers.Head(rngs, widths[0], n) for name, n in heads.items()})

    def __call__(self, x: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Applies the network.

        Args:
          x: (B, *S, C) floats, *S divisible by the patch.
          train: batch normalisation uses the batch's own statistics and updates the running ones.

        Returns:
          per head (B, *S, channels) float32.

        Raises:
          InputError: S is not divisible by the patch.
        """
        encoder_decoder.check_input(x.shape[1:-1], self.stride, x.shape)
        x = x.astype(self.dtype)
        tapped = self.encoder(x, self.taps)
        skips = [self.stem(x, train)]
        skips += [rise(features, train) for rise, features in zip(self.skips, tapped, strict=False)]
        x = tapped[-1]
        for up, merge, skip in list(zip(self.up, self.merge, skips, strict=True))[::-1]:
            x = merge(jnp.concatenate([skip, up(x)], -1), train)
        return {name: head(x) for name, head in self.heads.items()}

    @property
    def stride(self) -> tuple[int, ...]:
        """The patch: the input's sizes must be multiples of it."""
        return self.patch

    @property
    def receptive_radius(self) -> tuple[int, ...]:
        """Per axis, half of `size`: with a halo as wide, each pixel of a tile sees as far as the middle of `size` did.

        Attention sees the whole input, however large, and positions are stretched over it. So there is no distance from
        which on tiles and whole frames agree.
        """
        return tuple(size // 2 for size in self.size)


class Encoder(nnx.Module):
    """A vision transformer without a class token (Dosovitskiy et al. 2021, arXiv:2010.11929)."""

    def __init__(self, rngs, channels, patch, size, depth, width, heads_count, mlp_ratio, dtype):
        self.patch, self.dtype = patch, dtype
        grid = tuple(n // p for n, p in zip(size, patch, strict=True))
        self.embed = Linear(rngs, math.prod(patch) * channels, width)
        self.position = nnx.Param(nnx.initializers.normal(_POSITION_STD)(rngs.params(), (*grid, width)))
        self.blocks = nnx.List(
            TransformerBlock(rngs, width, heads_count, mlp_ratio * width) for _ in range(depth)
        )
        self.norm = LayerNorm(width)

    def __call__(self, x: jax.Array, taps: Sequence[int]) -> list[jax.Array]:
        """(B, *S, channels) to (B, *S / patch, W) behind each of the blocks `taps`; the last block's are normalised."""
        x = self.embed(blocks.space_to_depth(x, self.patch))
        grid = x.shape[1:-1]
        x = (x + self.positions(grid).astype(self.dtype)).reshape(len(x), -1, x.shape[-1])
        tapped = []
        for number, block in enumerate(self.blocks, 1):
            x = block(x)
            if number in taps:
                features = self.norm(x) if number == len(self.blocks) else x
                tapped.append(features.reshape(len(x), *grid, -1))
        return tapped

    def positions(self, grid: tuple[int, ...]) -> jax.Array:
        """Returns what is added to the patches of a grid: (*grid, W), learned, or linear between what was learned."""
        learned = self.position[...]
        return (
            learned
            if grid == learned.shape[:-1]
            else jax.image.resize(learned, (*grid, learned.shape[-1]), "linear")
        )


class TransformerBlock(nnx.Module):
    """Attention and a perceptron, each normalised before and added to what came in (pre-norm)."""

    def __init__(self, rngs, width, heads_count, hidden):
        self.heads_count = heads_count
        self.before_attention, self.before_perceptron = LayerNorm(width), LayerNorm(width)
        self.ask = Linear(rngs, width, 3 * width)
        self.answer = Linear(rngs, width, width)
        self.hidden, self.out = Linear(rngs, width, hidden), Linear(rngs, hidden, width)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, N, W) to the same shape."""
        shape = (*x.shape[:2], self.heads_count, -1)
        query, key, value = jnp.split(self.ask(self.before_attention(x)), 3, -1)
        seen = jax.nn.dot_product_attention(query.reshape(shape), key.reshape(shape), value.reshape(shape))
        x = x + self.answer(seen.reshape(x.shape))
        return x + self.out(jax.nn.gelu(self.hidden(self.before_perceptron(x))))


class Rise(nnx.Module):
    """Features of patches, taken up to a level: transposed convolutions by 2, a convolution behind each."""

    def __init__(self, rngs, channels, width, patch, times, layer):
        inputs = (channels, *[width] * (times - 1))
        self.up = nnx.List(
            layers.Upsample(rngs, before, width, (2,) * len(patch), "transposed", layer["dtype"])
            for before in inputs
        )
        self.convs = nnx.List(_block(rngs, width, width, patch, 1, layer) for _ in inputs)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, *S, channels) to (B, *S * 2**times, width)."""
        for up, conv in zip(self.up, self.convs, strict=True):
            x = conv(up(x), train)
        return x


class Linear(nnx.Module):
    """x W + b, in the dtype of x."""

    def __init__(self, rngs, inputs, outputs):
        self.kernel = nnx.Param(nnx.initializers.xavier_uniform()(rngs.params(), (inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., inputs) to (..., outputs)."""
        return x @ self.kernel[...].astype(x.dtype) + self.bias[...].astype(x.dtype)


class LayerNorm(nnx.Module):
    """Normalisation over channels, in float32, with a learned scale and offset."""

    def __init__(self, channels):
        self.scale, self.offset = nnx.Param(jnp.ones(channels)), nnx.Param(jnp.zeros(channels))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., channels) to the same shape and dtype."""
        normed = jax.nn.standardize(x.astype(jnp.float32), -1, epsilon=_VARIANCE_FLOOR)
        return (normed * self.scale[...] + self.offset[...]).astype(x.dtype)


def _block(rngs, channels, width, patch, convs, layer) -> layers.Block:
    """Convolutions of 3 pixels, each normalised before its ReLU."""
    kernel = (3,) * len(patch)
    return layers.Block(
        rngs,
        channels,
        (width,) * convs,
        kernel,
        bias=True,
        affine=True,
        activation="relu",
        order="cna",
        **layer,
    )


def _check(patch, size, depth, width, heads_count, widths, taps):
    """Raises InputError where arguments of `UNETR` contradict each other."""
    levels = len(widths)
    _refuse(len(patch) not in (2, 3), f"patch {patch} must have 2 or 3 axes")
    _refuse(
        any(pixels != 2**levels for pixels in patch),
        f"patch {patch} for {levels} levels: give {2**levels} pixels per axis, or log2 of them as many widths",
    )
    _refuse(len(size) != len(patch), f"size {size} and patch {patch} differ in axes")
    _refuse(
        any(n < 1 or n % p for n, p in zip(size, patch, strict=False)),
        f"size {size} is no multiple of the patch {patch}",
    )
    _refuse(
        heads_count < 1 or width % heads_count > 0,
        f"width {width} does not divide among heads_count {heads_count}",
    )
    _refuse(
        len(taps) != levels or list(taps) != sorted({*taps}) or min(taps, default=0) < 1,
        f"taps {taps} for {levels} levels: give one block per level, ascending from 1",
    )
    _refuse(taps[-1:] != (depth,), f"taps {taps} must end with the last of {depth} blocks")


def _refuse(fault: bool, text: str) -> None:
    if fault:
        raise InputError(f"UNETR: {text}")
