"""Cellpose's network, versions 1 to 3: a residual U-Net whose way up knows the image's style (Stringer et al. 2021).

docs/originals.md, 3.4. Shapes: B batch, *S spatial axes (y, x) or (z, y, x), *K kernel, *P pool, C channels, F
features of the style; channels last. Levels count from the finest, 0.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from celltrack_jax.config import check_settings
from celltrack_jax.errors import InputError
from celltrack_jax.models import layers
from celltrack_jax.models.embedder import Linear
from celltrack_jax.models.encoder_decoder import check_input, check_levels, receptive_radius
from celltrack_jax.ops import convolution, sampling

STYLE = "style"
"""Name of the output that is the style."""
_CONVS = 4
"""Convolutions of a level, on the way down and again on the way up."""
_KEPT = 0.95
"""Share of the running batch statistics that a training step keeps."""
_EPSILON = 1e-12
"""Least norm of a style before it is scaled to 1."""


def build(rngs: nnx.Rngs, **kwargs) -> "CPNet":
    """Builds a `CPNet`."""
    check_settings(CPNet.__init__, "models/cpnet", None, rngs, **kwargs)
    return CPNet(rngs, **kwargs)


class CPNet(nnx.Module):
    """Two residual pairs of convolutions per level, each after its normalisation and ReLU; skips are added.

    The style is the mean over space of the deepest features, scaled to length 1: each convolution of the way up but its
    level's first adds a linear map of it to its input. Published with widths (32, 64, 128, 256), kernels of 3, pools of
    2, batch norm and 2 input channels: 6,600,843 parameters with one head of 3. Parameters are float32; the running
    variance is that of the batches, PyTorch's n / (n - 1) of it.
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
        norm: Literal["batch", "group", "instance", "none"],
        groups: int,
        style: bool,
        dtype: str,
    ):
        """Makes the parameters.

        Args:
          rngs: stream "params".
          in_channels: channels of the input.
          heads: channels of each named output; all share the last normalisation.
          widths: channels of each level; their number is the depth. The last one is F.
          kernels: convolution kernel of each level, odd sizes.
          pools: pool window from each level to the next coarser one; one fewer than levels.
          norm: which statistics normalise.
          groups: channel groups of norm "group"; where they do not divide the channels, their greatest common divisor.
          style: whether the way up gets it. It is an output in either case.
          dtype: compute dtype, "float32" or "bfloat16".

        Raises:
          InputError: the arguments contradict each other.
        """
        layers.check_layers(
            norm=norm, activation="relu", heads=heads, upsample="nearest", up_channels="halve"
        )
        if STYLE in heads:
            raise InputError(f"CPNet: a head cannot be named {STYLE!r}, which is an output of its own")
        self.kernels, self.pools = tuple(map(tuple, kernels)), tuple(map(tuple, pools))
        self.dtype = jnp.dtype(dtype)
        self.style_features = widths[-1]
        """F."""
        check_levels(
            tuple(widths), self.kernels, self.pools, (1,) * len(self.kernels[0]), (False,) * len(widths)
        )
        layer = dict(norm=norm, groups=groups, dtype=self.dtype)
        features = widths[-1] if style else 0
        self.down = nnx.List(
            Down(rngs, channels, width, kernel, layer)
            for channels, width, kernel in zip((in_channels, *widths[:-1]), widths, self.kernels, strict=True)
        )
        self.up = nnx.List(
            Up(rngs, coarse, width, kernel, features, layer)
            for coarse, width, kernel in zip((*widths[1:], widths[-1]), widths, self.kernels, strict=True)
        )
        self.norm = make_norm(widths[0], norm, groups)
        self.heads = nnx.Dict({name: layers.Head(rngs, widths[0], n) for name, n in heads.items()})

    def __call__(self, x: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """Applies the network.

        Args:
          x: (B, *S, C) floats, *S divisible by `stride`.
          train: batch normalisation uses the batch's own statistics and updates the running ones.

        Returns:
          per head (B, *S, channels) float32, and "style" (B, F) float32 of norm 1.

        Raises:
          InputError: S is not divisible by the stride.
        """
        check_input(x.shape[1:-1], self.stride, x.shape)
        x = x.astype(self.dtype)
        skips = []
        for level, block in enumerate(self.down):
            x = sampling.max_pool(x, self.pools[level - 1]) if level else x
            x = block(x, train)
            skips.append(x)
        style = style_of(x)
        x = self.up[-1](x, skips[-1], style, None, train)
        for level in reversed(range(len(self.pools))):
            x = self.up[level](x, skips[level], style, self.pools[level], train)
        x = jax.nn.relu(self.norm(x, train))
        return {name: head(x) for name, head in self.heads.items()} | {STYLE: style}

    @property
    def stride(self) -> tuple[int, ...]:
        """Total pooling per axis: the input's sizes must be multiples of it."""
        return tuple(math.prod(sizes) for sizes in zip(*self.pools, strict=True))

    @property
    def receptive_radius(self) -> tuple[int, ...]:
        """Per axis, how far the farthest input pixel is that an output pixel sees through convolutions.

        Through the style it sees the whole input, as through group and instance normalisation.
        """
        # The deepest level's way down and way up are one behind the other: twice as many convolutions.
        deepest = tuple(2 * size - 1 for size in self.kernels[-1])
        return receptive_radius(
            (*self.kernels[:-1], deepest), self.pools, (1,) * len(deepest), _CONVS, "nearest"
        )


def style_of(x: jax.Array) -> jax.Array:
    """Mean over space, scaled to length 1: (B, F) float32 from (B, *S, F)."""
    mean = jnp.mean(x.astype(jnp.float32), range(1, x.ndim - 1))
    square = jnp.sum(mean * mean, -1, keepdims=True)
    return mean * jax.lax.rsqrt(jnp.maximum(square, _EPSILON**2))


def make_norm(channels, norm, groups):
    """A normalisation whose running statistics keep 0.95 of themselves, or none."""
    return Same() if norm == "none" else layers.Norm(norm, channels, groups, True, _KEPT)


class Same(nnx.Module):
    """Normalises nothing."""

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x."""
        del train
        return x


class Down(nnx.Module):
    """x = project(x) + two convolutions; x += two more."""

    def __init__(self, rngs, channels, width, kernel, layer):
        self.project = Project(rngs, channels, width, layer)
        self.convs = nnx.List(
            Convolve(rngs, before, width, kernel, 0, layer) for before in (channels, *(width,) * (_CONVS - 1))
        )

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, *S, channels) to (B, *S, width)."""
        first, second, third, fourth = self.convs
        x = self.project(x, train) + second(first(x, train), train)
        return x + fourth(third(x, train), train)


class Up(nnx.Module):
    """x = project(x) + two convolutions, between which the skip is added; x += two more. All but the first know the
    style."""

    def __init__(self, rngs, channels, width, kernel, features, layer):
        self.project = Project(rngs, channels, width, layer)
        self.first = Convolve(rngs, channels, width, kernel, 0, layer)
        self.convs = nnx.List(
            Convolve(rngs, width, width, kernel, features, layer) for _ in range(_CONVS - 1)
        )

    def __call__(
        self,
        x: jax.Array,
        skip: jax.Array,
        style: jax.Array,
        window: tuple[int, ...] | None,
        train: bool,
    ) -> jax.Array:
        """(B, *S / window, channels) and (B, *S, width) to (B, *S, width); a pixel of x is as large as a window.

        The projection is of single pixels, so that it comes before they are repeated.
        """
        second, third, fourth = self.convs
        projected, first = self.project(x, train), self.first(x, train, window=window)
        if window is not None:
            projected = sampling.upsample_by_repeating(projected, window)
        x = projected + second(first + skip, train, style)
        return x + fourth(third(x, train, style), train, style)


class Project(nnx.Module):
    """Normalisation and a 1x1 convolution."""

    def __init__(self, rngs, channels, width, layer):
        self.norm = make_norm(channels, layer["norm"], layer["groups"])
        self.conv = layers.Convolution(rngs, channels, width, (), bias=True, dtype=layer["dtype"])

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, *S, channels) to (B, *S, width)."""
        x = self.norm(x, train)
        dtype = self.conv.dtype
        return x @ self.conv.kernel[...].astype(dtype) + self.conv.bias[...].astype(dtype)


class Convolve(nnx.Module):
    """The style's linear map is added, then normalisation, ReLU, convolution."""

    def __init__(self, rngs, channels, width, kernel, features, layer):
        self.dtype = layer["dtype"]
        self.style = Linear(rngs, features, channels) if features else None
        self.norm = make_norm(channels, layer["norm"], layer["groups"])
        self.conv = layers.Convolution(rngs, channels, width, kernel, bias=True, dtype=self.dtype)

    def __call__(
        self,
        x: jax.Array,
        train: bool,
        style: jax.Array | None = None,
        window: tuple[int, ...] | None = None,
    ) -> jax.Array:
        """(B, *S, channels) to (B, *S * window, width); what a pixel of x becomes is repeated over a window."""
        if self.style is not None and style is not None:
            added = self.style(style).astype(self.dtype)
            x = x + jnp.expand_dims(added, tuple(range(1, x.ndim - 1)))
        x = jax.nn.relu(self.norm(x, train))
        if window is None:
            return self.conv(x)
        bias = self.conv.bias[...].astype(self.dtype)
        return convolution.convolve_repeated(x, self.conv.kernel[...], window) + bias
