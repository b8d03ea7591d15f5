"""Autoencoder: encoder and decoder of the vanilla U-Net without skips, so that all passes through the coarsest level.

At the published widths and a crop of 48x128x128 the latent is 512 x (6, 16, 16).
"""

from collections.abc import Mapping, Sequence

from flax import nnx

from celltrack_jax.models.vanilla_unet import VanillaUNet


def build(
    rngs: nnx.Rngs,
    *,
    in_channels: int,
    heads: Mapping[str, int],
    widths: Sequence[int],
    kernels: Sequence[Sequence[int]],
    pools: Sequence[Sequence[int]],
    remat: Sequence[bool],
    dtype: str,
) -> VanillaUNet:
    """Builds a `VanillaUNet` with join "none" and head "conv"; the arguments are its own."""
    return VanillaUNet(
        rngs,
        in_channels=in_channels,
        heads=heads,
        widths=widths,
        kernels=kernels,
        pools=pools,
        join="none",
        head="conv",
        remat=remat,
        dtype=dtype,
    )
