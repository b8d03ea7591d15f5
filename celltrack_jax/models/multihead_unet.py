"""U-Net with a small convolutional head per group of output channels: several targets from one body.

Shapes: B batch, *S spatial axes (y, x) or (z, y, x), P pixels of the stem, C channels; channels last.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from celltrack_jax.config import check_settings
from celltrack_jax.errors import InputError
from celltrack_jax.models import layers, unet

HEAD_ACTIVATIONS = ("relu", "none")


def build(
    rngs: nnx.Rngs,
    *,
    split: Sequence[int],
    head_widths: Sequence[int],
    head_activation: Literal["relu", "none"],
    **settings,
) -> "MultiheadUNet":
    """Builds a `MultiheadUNet`."""
    check_settings(unet.UNet.__init__, "models/multihead_unet", None, rngs, **settings)
    return MultiheadUNet(
        rngs, split=split, head_widths=head_widths, head_activation=head_activation, **settings
    )


class MultiheadUNet(unet.UNet):
    """A `unet.UNet` with convolutions of the finest level's kernel before the last ones, for each group of channels."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        *,
        heads: Mapping[str, int],
        split: Sequence[int],
        head_widths: Sequence[int],
        head_activation: Literal["relu", "none"],
        **settings: Any,
    ):
        """Makes the parameters.

        Args:
          rngs: stream "params".
          heads: channels of each named output.
          split: channels of the groups into which each named output falls, in their order; each group has convolutions
            of its own. (1, 3) is a mask and a vector.
          head_widths: channels of these convolutions, published (8, 4). None has an activation behind it: together
            they are one linear map.
          head_activation: at the very end: "relu" as published, or "none".
          **settings: of `unet.UNet`.

        Raises:
          InputError: the arguments contradict each other.
        """
        super().__init__(rngs, heads=heads, **settings)
        if head_activation not in HEAD_ACTIVATIONS:
            raise InputError(
                f"multi-head U-Net: head_activation {head_activation!r} is none of {HEAD_ACTIVATIONS}"
            )
        for name, channels in heads.items():
            if sum(split) != channels:
                raise InputError(
                    f"multi-head U-Net: split {split} of the {channels} channels of head {name!r}"
                )
        self.head_convs = len(head_widths)
        self.heads = nnx.Dict(
            {
                name: GroupedHead(
                    rngs,
                    settings["widths"][0],
                    head_widths,
                    self.kernels[0],
                    split,
                    math.prod(self.stem),
                    head_activation,
                    self.dtype,
                )
                for name in heads
            }
        )

    @property
    def receptive_radius(self) -> tuple[int, ...]:
        """Per axis, how far the farthest input pixel is that an output pixel sees through convolutions."""
        heads = [
            self.head_convs * (size // 2) * stem
            for size, stem in zip(self.kernels[0], self.stem, strict=True)
        ]
        return tuple(radius + more for radius, more in zip(super().receptive_radius, heads, strict=True))


class GroupedHead(nnx.Module):
    """Per group of channels: convolutions, a 1x1 convolution in float32, and the last activation."""

    def __init__(self, rngs, channels, widths, kernel, split, pixels, activation, dtype):
        self.pixels, self.activation = pixels, activation
        layer = dict(
            bias=True, norm="none", groups=1, affine=False, activation="relu", order="c", dtype=dtype
        )
        self.convs = nnx.List(layers.Block(rngs, channels, tuple(widths), kernel, **layer) for _ in split)
        last = (channels, *widths)[-1]
        self.last = nnx.List(layers.Head(rngs, last, pixels * n) for n in split)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, *S, channels) to (B, *S, P * sum(split)) float32."""
        groups = [last(convs(x, False)) for convs, last in zip(self.convs, self.last, strict=True)]
        by_pixel = [y.reshape(*y.shape[:-1], self.pixels, -1) for y in groups]
        y = jnp.concatenate(by_pixel, -1).reshape(*x.shape[:-1], -1)
        return jax.nn.relu(y) if self.activation == "relu" else y
