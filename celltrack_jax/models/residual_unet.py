"""Residual U-Net whose skips are sums (Lee et al. 2017, arXiv:1706.00120), as pytorch-3dunet has it.

Shapes: B batch, *S spatial axes (y, x) or (z, y, x), C channels; channels last. Levels count from the finest, 0.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from celltrack_jax.config import check_settings
from celltrack_jax.models import layers
from celltrack_jax.models.encoder_decoder import EncoderDecoder

_CONVS = 2
"""Convolutions of a block that see around a pixel."""


def build(rngs: nnx.Rngs, **kwargs) -> "ResidualUNet":
    """Builds a `ResidualUNet`."""
    check_settings(ResidualUNet.__init__, "models/residual_unet", None, rngs, **kwargs)
    return ResidualUNet(rngs, **kwargs)


class ResidualUNet(EncoderDecoder):
    """Residual blocks, overlapping transposed convolutions to the finer level's width, and a 1x1 convolution per head.

    Published with widths (64, 128, 256, 512, 1024) or half of them, kernels of 3, pools of 2, group norm and ELU.
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
        norm: Literal["group", "instance", "batch", "none"],
        groups: int,
        activation: str,
        remat: Sequence[bool],
        dtype: str,
    ):
        """Makes the parameters.

        Args:
          rngs: stream "params".
          in_channels: channels of the input.
          heads: channels of each named output.
          widths: channels of each level; their number is the depth.
          kernels: convolution kernel of each level, odd sizes; that of a transposed convolution is the finer level's.
          pools: pool window from each level to the next coarser one; one fewer than levels.
          norm: which statistics normalise.
          groups: channel groups of norm "group"; where they do not divide the channels, their greatest common divisor.
          activation: a key of `layers.ACTIVATIONS`.
          remat: per level, whether its activations are computed again in the backward pass.
          dtype: compute dtype, "float32" or "bfloat16".

        Raises:
          InputError: the arguments contradict each other.
        """
        layers.check_layers(
            norm=norm, activation=activation, heads=heads, upsample="overlapping", up_channels="halve"
        )
        layer = dict(norm=norm, groups=groups, activation=activation, dtype=jnp.dtype(dtype))

        def block(channels, width, kernel):
            return ResidualBlock(rngs, channels, width, kernel, layer)

        super().__init__(
            rngs,
            in_channels=in_channels,
            widths=widths,
            kernels=kernels,
            pools=pools,
            stem=(1,) * len(kernels[0]),
            convs=_CONVS,
            down=block,
            merge=block,
            dropout=0.0,
            upsample="overlapping",
            up_channels="halve",
            join="sum",
            remat=remat,
            dtype=dtype,
        )
        self.heads = nnx.Dict({name: layers.Head(rngs, widths[0], n) for name, n in heads.items()})

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
        x = self.features(x, train=train)
        return {name: head(x) for name, head in self.heads.items()}


class ResidualBlock(nnx.Module):
    """1x1 convolution where the channels change; convolution, norm, activation, convolution, norm; sum, activation."""

    def __init__(self, rngs, channels, width, kernel, layer: dict[str, Any]):
        self.activation = layer["activation"]
        ones = (1,) * len(kernel)
        self.widen = (
            None
            if channels == width
            else layers.Convolution(rngs, channels, width, ones, bias=True, dtype=layer["dtype"])
        )
        self.first = layers.Block(rngs, width, (width,), kernel, bias=True, affine=True, order="cna", **layer)
        self.second = layers.Block(rngs, width, (width,), kernel, bias=True, affine=True, order="cn", **layer)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, *S, channels) to (B, *S, width)."""
        x = x if self.widen is None else self.widen(x)
        return layers.ACTIVATIONS[self.activation](x + self.second(self.first(x, train), train))
