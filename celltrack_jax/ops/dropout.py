"""Dropout (Srivastava et al. 2014, JMLR 15:1929) with 16 random bits a value."""

import jax
import jax.numpy as jnp


def dropout(key: jax.Array | None, x: jax.Array, rate: float) -> jax.Array:
    """Zeroes values at random and scales the others so that the mean stays.

    Args:
      key: None leaves x as it is.
      x: (..., C) floats.
      rate: probability of a zero, in [0, 1); rounded to a multiple of 2^-16.
    """
    if key is None or rate == 0:
        return x
    # Two values share one random word: on a CPU the words cost as much as a matrix product.
    channels = x.shape[-1]
    words = jax.random.bits(key, (*x.shape[:-1], (channels + 1) // 2), jnp.uint32)
    bits = jnp.concatenate([words & 0xFFFF, words >> 16], -1)[..., :channels]
    return jnp.where(bits >= round(rate * 2**16), x / (1 - rate), 0)
