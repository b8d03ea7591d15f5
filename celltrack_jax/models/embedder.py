"""The cell embedder of Ben-Haim & Riklin-Raviv (ECCV 2022): a crop of one cell to a unit vector.

Shapes: B batch, *S spatial axes (y, x) or (z, y, x), K outputs; channels last.
"""

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from celltrack_jax.config import check_settings
from celltrack_jax.errors import InputError
from celltrack_jax.models import resnet

_EPSILON = 1e-12
"""Least norm of a vector before it is scaled to 1."""


def build(rngs: nnx.Rngs, **kwargs) -> "Embedder":
    """Builds an `Embedder`."""
    check_settings(Embedder.__init__, "models/embedder", None, rngs, **kwargs)
    return Embedder(rngs, **kwargs)


class Embedder(nnx.Module):
    """A ResNet, linear layers with a ReLU before each but the first, and L2 normalisation.

    Parameters and statistics are float32. The linear layers start from the uniform distribution within
    1 / sqrt(inputs), PyTorch's default, and compute in float32; 65,664 parameters from 512 to 128 channels.
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        *,
        ndim: int = 2,
        depth: int = 18,
        widths: Sequence[int] = resnet.WIDTHS,
        hidden: Sequence[int] = (),
        outputs: int = 128,
        dtype: str = "float32",
    ):
        """Makes the parameters.

        Args:
          rngs: stream "params".
          ndim: spatial axes of a crop, 2 or 3.
          depth: of the ResNet, 18 or 34.
          widths: channels of its four stages.
          hidden: widths of the linear layers between the trunk and the last one.
          outputs: K.
          dtype: compute dtype of the trunk, "float32" or "bfloat16".

        Raises:
          InputError: a setting is out of its range.
        """
        if min(outputs, *widths, *hidden) < 1:
            raise InputError(
                f"embedder: outputs {outputs}, widths {tuple(widths)}, hidden {tuple(hidden)} must be positive"
            )
        self.trunk = resnet.ResNet(rngs, ndim=ndim, depth=depth, widths=widths, dtype=dtype)
        self.layers = nnx.List(
            Linear(rngs, before, after)
            for before, after in itertools.pairwise((widths[-1], *hidden, outputs))
        )

    def __call__(self, x: jax.Array, key: jax.Array | None = None, train: bool = False) -> jax.Array:
        """Embeds crops.

        Args:
          x: (B, *S, 1) floats.
          key: not used: nothing here is random. It is taken as other networks take it.
          train: batch normalisation uses the batch's own statistics and updates the running ones.

        Returns:
          (B, K) float32 of norm 1.
        """
        del key
        x = self.trunk(x, train)
        for number, layer in enumerate(self.layers):
            x = layer(jax.nn.relu(x) if number else x)
        square = jnp.sum(x * x, -1, keepdims=True)
        return x * jax.lax.rsqrt(jnp.maximum(square, _EPSILON**2))


class Linear(nnx.Module):
    """x W + b."""

    def __init__(self, rngs, inputs, outputs):
        bound = 1 / math.sqrt(inputs)
        uniform = nnx.initializers.uniform(2 * bound)
        self.kernel = nnx.Param(uniform(rngs.params(), (inputs, outputs)) - bound)
        self.bias = nnx.Param(uniform(rngs.params(), (outputs,)) - bound)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., inputs) to (..., outputs)."""
        return x @ self.kernel[...] + self.bias[...]
