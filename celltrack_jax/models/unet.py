"""U-Net for images and volumes (Ronneberger et al. 2015, arXiv:1505.04597; Çiçek et al. 2016, 1606.06650).

Shapes: B batch, *S spatial axes (y, x) or (z, y, x), *K kernel, *P pool, C channels; channels last. Levels
count from the finest, 0.
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
from celltrack_jax.models.encoder_decoder import EncoderDecoder
from celltrack_jax.ops import blocks


def build(rngs: nnx.Rngs, **kwargs) -> "UNet":
    """Builds a `UNet`."""
    check_settings(UNet.__init__, "models/unet", None, rngs, **kwargs)
    return UNet(rngs, **kwargs)


class UNet(EncoderDecoder):
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
        narrow_first: bool,
        bias: bool,
        norm: Literal["group", "instance", "batch", "none"],
        groups: int,
        affine: bool,
        activation: str,
        order: str,
        dropout: float,
        upsample: Literal["transposed", "overlapping", "bilinear", "nearest"],
        up_channels: Literal["halve", "keep"],
        join: Literal["concat", "sum", "none"],
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
          narrow_first: whether the first convolution of each level on the way down has half its width, or as many
            channels as come in where these are more, instead of the whole width.
          bias: whether convolutions have a bias, where no normalisation follows that would remove it.
          norm: which statistics normalise.
          groups: channel groups of norm "group"; where they do not divide the channels (the input of order
            "nca"), their greatest common divisor is used.
          affine: whether normalisation learns a scale and an offset per channel.
          activation: a key of `ACTIVATIONS`.
          order: letters c (convolution), n (norm), a (activation), each at most once, c exactly once.
          dropout: rate behind each level's convolutions, on the way down and up, while training; 0 for none.
          upsample: "transposed" convolution whose stride is its kernel; "overlapping" for one whose kernel is the finer
            level's; "bilinear" interpolation (trilinear in 3D) or the "nearest" pixel, and a 1x1 convolution where the
            channels change.
          up_channels: of the up-sampled features: "halve" takes them to the finer level's width, "keep" leaves the
            coarser level's.
          join: how a skip meets the up-sampled features; "sum" needs `up_channels` "halve", "none" has no skips.
          remat: per level, whether its activations are computed again in the backward pass.
          dtype: compute dtype, "float32" or "bfloat16".

        Raises:
          InputError: the arguments contradict each other.
        """
        layers.check_layers(
            norm=norm, activation=activation, heads=heads, upsample=upsample, up_channels=up_channels
        )
        _check_blocks(convs=convs, narrow_first=narrow_first, order=order, dropout=dropout)
        layer = dict(
            bias=bias,
            norm=norm,
            groups=groups,
            affine=affine,
            activation=activation,
            order=order,
            dtype=jnp.dtype(dtype),
        )

        def down(channels, width, kernel):
            first = max(width // 2, channels) if narrow_first else width
            return layers.Block(rngs, channels, (first, *(width,) * (convs - 1)), kernel, **layer)

        def merge(channels, width, kernel):
            return layers.Block(rngs, channels, (width,) * convs, kernel, **layer)

        super().__init__(
            rngs,
            in_channels=in_channels,
            widths=widths,
            kernels=kernels,
            pools=pools,
            stem=stem,
            convs=convs,
            down=down,
            merge=merge,
            dropout=dropout,
            upsample=upsample,
            up_channels=up_channels,
            join=join,
            remat=remat,
            dtype=dtype,
        )
        pixels = math.prod(stem)
        self.heads = nnx.Dict({name: layers.Head(rngs, widths[0], pixels * n) for name, n in heads.items()})

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
        x = self.features(x, key, train)
        return {name: blocks.depth_to_space(head(x), self.stem) for name, head in self.heads.items()}


def _check_blocks(*, convs, narrow_first, order, dropout):
    """Raises InputError where an argument of `UNet` about its blocks is out of range."""
    _refuse(convs < 1, f"convs {convs} must be at least 1")
    _refuse(
        narrow_first and convs < 2, "narrow_first needs a second convolution, of the whole width: raise convs"
    )
    letters = set(order)
    known = "c" in letters and letters <= set("cna") and len(letters) == len(order)
    _refuse(not known, f"order {order!r} must hold c once, and n and a at most once, as in 'cna'")
    _refuse(not 0 <= dropout < 1, f"dropout {dropout} must be in [0, 1)")


def _refuse(fault: bool, text: str) -> None:
    if fault:
        raise InputError(f"U-Net: {text}")
