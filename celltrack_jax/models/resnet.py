"""ResNet-18 and -34 (He et al. 2016, arXiv:1512.03385) as a trunk: images or volumes to one vector each.

Shapes: B batch, *S spatial axes (y, x) or (z, y, x), C channels; channels last.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from celltrack_jax.errors import InputError
from celltrack_jax.models.layers import Norm
from celltrack_jax.ops import convolution, sampling

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
"""Basic blocks of each stage by depth, the number of layers in name."""
WIDTHS = (64, 128, 256, 512)
EXPANSION = 4
"""Of a bottleneck: how many times as many channels it has outside as inside."""
_STEM_KERNEL, _POOL_WINDOW, _POOL_STRIDE = 7, 3, 2
_STEM_STRIDES = {2: (2, 2), 3: (1, 2, 2)}
"""Volumes have few planes (Hara et al. 2018, arXiv:1711.09577)."""


class ResNet(nnx.Module):
    """Stem, stages of basic blocks, and the mean over space.

    No convolution has a bias; a shortcut that changes size is a 1x1 convolution with its own batch norm (option B).
    11,170,240 parameters at depth 18 in 2D, 33,160,000 in 3D. The running variance is that of the batches; PyTorch's is
    n / (n - 1) of it, with n pixels in a batch.
    """

    def __init__(self, rngs: nnx.Rngs, *, ndim: int, depth: int, widths: Sequence[int], dtype: str):
        """Makes the parameters.

        Args:
          rngs: stream "params".
          ndim: spatial axes, 2 or 3.
          depth: a key of `BLOCKS`.
          widths: channels of the stages; the stem has those of the first.
          dtype: compute dtype, "float32" or "bfloat16".

        Raises:
          InputError: a setting is out of its range.
        """
        _refuse(ndim not in _STEM_STRIDES, f"ndim {ndim} is neither 2 nor 3")
        _refuse(depth not in BLOCKS, f"depth {depth} is none of {tuple(BLOCKS)}")
        stages = len(BLOCKS.get(depth, ()))
        _refuse(len(widths) != stages, f"{len(widths)} widths {tuple(widths)}: give {stages}, one per stage")
        self.dtype = jnp.dtype(dtype)
        self.stem = ConvolutionNorm(rngs, 1, widths[0], (_STEM_KERNEL,) * ndim, _STEM_STRIDES[ndim])
        self.blocks = nnx.List()
        channels = widths[0]
        for stage, (count, width) in enumerate(zip(BLOCKS[depth], widths, strict=True)):
            for number in range(count):
                stride = 2 if stage > 0 and number == 0 else 1
                self.blocks.append(BasicBlock(rngs, channels, width, (stride,) * ndim))
                channels = width

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Applies the trunk.

        Args:
          x: (B, *S, 1) floats, any S.
          train: batch normalisation uses the batch's own statistics and updates the running ones.

        Returns:
          (B, widths[-1]) float32.
        """
        x = jax.nn.relu(self.stem(x.astype(self.dtype), train))
        x = sampling.max_pool_overlapping(x, _POOL_WINDOW, _POOL_STRIDE)
        for block in self.blocks:
            x = block(x, train)
        return jnp.mean(x.astype(jnp.float32), range(1, x.ndim - 1))


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions beside a shortcut; `norm` and `groups` as of `layers.Norm`."""

    def __init__(self, rngs, channels, width, strides, norm="batch", groups=1):
        ndim = len(strides)
        self.first = ConvolutionNorm(rngs, channels, width, (3,) * ndim, strides, norm, groups)
        self.second = ConvolutionNorm(rngs, width, width, (3,) * ndim, (1,) * ndim, norm, groups)
        self.shortcut = _shortcut(rngs, channels, width, strides, norm, groups)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, *S, channels) to (B, *ceil(S / strides), width)."""
        y = self.second(jax.nn.relu(self.first(x, train)), train)
        return jax.nn.relu(y + (x if self.shortcut is None else self.shortcut(x, train)))


class Bottleneck(nnx.Module):
    """A 3x3 convolution, which has the stride, between 1x1 ones that narrow and widen, beside a shortcut."""

    def __init__(self, rngs, channels, width, strides, norm="batch", groups=1):
        ndim, wide = len(strides), EXPANSION * width
        one, three, still = (1,) * ndim, (3,) * ndim, (1,) * ndim
        self.first = ConvolutionNorm(rngs, channels, width, one, still, norm, groups)
        self.middle = ConvolutionNorm(rngs, width, width, three, strides, norm, groups)
        self.second = ConvolutionNorm(rngs, width, wide, one, still, norm, groups)
        self.shortcut = _shortcut(rngs, channels, wide, strides, norm, groups)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, *S, channels) to (B, *ceil(S / strides), EXPANSION * width)."""
        y = jax.nn.relu(self.middle(jax.nn.relu(self.first(x, train)), train))
        y = self.second(y, train)
        return jax.nn.relu(y + (x if self.shortcut is None else self.shortcut(x, train)))


class ConvolutionNorm(nnx.Module):
    """A convolution without bias, of normal weights with variance 2 / fan-out (He et al. 2015), and its norm."""

    def __init__(self, rngs, channels, width, kernel, strides, norm="batch", groups=1):
        self.strides = strides
        init = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
        self.kernel = nnx.Param(init(rngs.params(), (*kernel, channels, width)))
        self.norm = Norm(norm, width, groups=groups, affine=True)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, *S, channels) to (B, *ceil(S / strides), width)."""
        return self.norm(convolution.convolve(x, self.kernel[...].astype(x.dtype), self.strides), train)


def _shortcut(rngs, channels, width, strides, norm, groups):
    """A 1x1 convolution where the size or the channels change."""
    if channels == width and max(strides) == 1:
        return None
    return ConvolutionNorm(rngs, channels, width, (1,) * len(strides), strides, norm, groups)


def _refuse(fault: bool, text: str) -> None:
    if fault:
        raise InputError(f"ResNet: {text}")
