"""The plain 3D U-Net that kinetochores were first segmented with: batch normalisation and ELU everywhere.

Shapes: B batch, *S spatial axes (y, x) or (z, y, x), C channels; channels last. Levels count from the finest, 0.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from celltrack_jax.config import check_settings
from celltrack_jax.errors import InputError
from celltrack_jax.models import layers
from celltrack_jax.models.encoder_decoder import EncoderDecoder

HEADS = ("block", "conv")
_CONVS = 2


def build(rngs: nnx.Rngs, **kwargs) -> "VanillaUNet":
    """Builds a `VanillaUNet`."""
    check_settings(VanillaUNet.__init__, "models/vanilla_unet", None, rngs, **kwargs)
    return VanillaUNet(rngs, **kwargs)


class VanillaUNet(EncoderDecoder):
    """Blocks of convolution, batch normalisation and ELU; overlapping transposed convolutions that keep the channels.

    On the way down, the first of a level's two blocks has half its width, or as many channels as come in. Published
    with widths (64, 128, 256, 512), kernels of 3 and pools of 2.
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
        join: Literal["concat", "none"],
        head: Literal["block", "conv"],
        remat: Sequence[bool],
        dtype: str,
    ):
        """Makes the parameters.

        Args:
          rngs: stream "params".
          in_channels: channels of the input.
          heads: channels of each named output.
          widths: channels of each level; their number is the depth.
          kernels: convolution kernel of each level, odd sizes.
          pools: pool window from each level to the next coarser one; one fewer than levels.
          join: "concat" of skips to the up-sampled features, or "none" for no skips.
          head: "block" for one more block as the last layer, as published: ELU ends at -1, so that no sigmoid of it is
            below 0.269 and the background cannot become 0; "conv" for a 1x1 convolution.
          remat: per level, whether its activations are computed again in the backward pass.
          dtype: compute dtype, "float32" or "bfloat16".

        Raises:
          InputError: the arguments contradict each other.
        """
        layers.check_layers(
            norm="batch", activation="elu", heads=heads, upsample="overlapping", up_channels="keep"
        )
        if head not in HEADS:
            raise InputError(f"vanilla U-Net: head {head!r} is none of {HEADS}")
        if join not in ("concat", "none"):
            raise InputError(f"vanilla U-Net: join {join!r} is neither 'concat' nor 'none'")
        layer: dict[str, Any] = dict(
            bias=False,
            norm="batch",
            groups=1,
            affine=True,
            activation="elu",
            order="cna",
            dtype=jnp.dtype(dtype),
        )

        def down(channels, width, kernel):
            return layers.Block(rngs, channels, (max(width // 2, channels), width), kernel, **layer)

        def merge(channels, width, kernel):
            return layers.Block(rngs, channels, (width, width), kernel, **layer)

        super().__init__(
            rngs,
            in_channels=in_channels,
            widths=widths,
            kernels=kernels,
            pools=pools,
            stem=(1,) * len(kernels[0]),
            convs=_CONVS,
            down=down,
            merge=merge,
            dropout=0.0,
            upsample="overlapping",
            up_channels="keep",
            join=join,
            remat=remat,
            dtype=dtype,
        )
        self.head = head
        self.heads = nnx.Dict(
            {
                name: layers.Head(rngs, widths[0], n)
                if head == "conv"
                else layers.Block(rngs, widths[0], (n,), self.kernels[0], **layer)
                for name, n in heads.items()
            }
        )

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
        outputs = {
            name: head(x) if isinstance(head, layers.Head) else head(x, train)
            for name, head in self.heads.items()
        }
        return {name: y.astype(jnp.float32) for name, y in outputs.items()}

    @property
    def receptive_radius(self) -> tuple[int, ...]:
        """Per axis, how far the farthest input pixel is that an output pixel sees through convolutions."""
        last = [size // 2 if self.head == "block" else 0 for size in self.kernels[0]]
        return tuple(radius + half for radius, half in zip(super().receptive_radius, last, strict=True))
