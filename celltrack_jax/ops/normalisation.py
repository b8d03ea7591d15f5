"""Normalisation of activations over axes and channel groups, with float32 statistics.

Shapes: B batch, *S spatial axes, C channels, G groups; channels last.
"""

import jax
import jax.numpy as jnp
from jax import lax

EPSILON = 1e-5


def group_statistics(x: jax.Array, groups: int, *more: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of each sample's channel groups, in one pass over x.

    Args:
      x: (B, *S, C) floats.
      groups: G, divides the channels; C gives instance normalisation, 1 layer normalisation over everything.
      *more: (B, *S', C') floats whose channels follow, each with a size of its own: a pixel counts as many times as
        makes the sizes equal.

    Returns:
      mean and variance, each (B, G) float32.
    """
    wide = [part.astype(jnp.promote_types(part.dtype, jnp.float32)) for part in (x, *more)]
    flat = [part.reshape(part.shape[0], -1, part.shape[-1]) for part in wide]
    mean, square = (
        jnp.concatenate(moments, -1).reshape(x.shape[0], groups, -1).mean(-1)
        for moments in zip(*((part.mean(1), (part * part).mean(1)) for part in flat), strict=True)
    )
    return mean, jnp.maximum(square - mean * mean, 0.0)


def batch_statistics(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of each channel over the whole batch: (C,) float32 each, from x (B, *S, C)."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32)).reshape(-1, x.shape[-1])
    mean = x.mean(0)
    return mean, jnp.maximum((x * x).mean(0) - mean * mean, 0.0)


def normalise(x, mean, variance, scale, offset):
    """(x - mean) / std * scale + offset as one multiplication and one addition per element.

    Args:
      x: (B, *S, C) floats.
      mean: (B, G) or (C,) float32.
      variance: as mean.
      scale: (C,) float32, or a number.
      offset: as scale.

    Returns:
      (B, *S, C) of x's dtype, computed in float32.
    """
    channels = x.shape[-1]
    repeat = channels // mean.shape[-1]
    gain = jnp.repeat(lax.rsqrt(variance + EPSILON), repeat, -1) * scale
    shift = offset - jnp.repeat(mean, repeat, -1) * gain
    if gain.ndim == 2:
        spatial = tuple(range(1, x.ndim - 1))
        gain, shift = jnp.expand_dims(gain, spatial), jnp.expand_dims(shift, spatial)
    return (x * gain + shift).astype(x.dtype)
