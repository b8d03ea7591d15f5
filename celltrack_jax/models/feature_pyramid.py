"""Feature pyramid network (Lin et al. 2017, arXiv:1612.03144) on a ResNet: one image to five levels of features.

Shapes: B batch, Y, X an image's size, C channels; channels last. Levels are P2 to P6 of the paper, the finest first;
s is the stride of the first, 4 with the usual stem.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from celltrack_jax.errors import InputError
from celltrack_jax.models import layers, resnet
from celltrack_jax.ops import sampling

LEVELS = 5
DEPTHS = {
    10: (resnet.BasicBlock, (1, 1, 1, 1)),
    18: (resnet.BasicBlock, resnet.BLOCKS[18]),
    34: (resnet.BasicBlock, resnet.BLOCKS[34]),
    50: (resnet.Bottleneck, (3, 4, 6, 3)),
}
"""Blocks of each stage by depth."""
NORMS = ("batch", "frozen", "group")
_POOL_WINDOW = 3


class FeaturePyramid(nnx.Module):
    """Stem, four stages, a 1x1 convolution of each stage, the coarser ones added to the finer, and 3x3 convolutions.

    The last norm of each block starts at zero, so that blocks begin as their shortcuts: a network whose batch norm is
    frozen can then start from random weights.
    """

    def __init__(
        self,
        rngs: nnx.Rngs,
        *,
        in_channels: int,
        depth: int,
        widths: Sequence[int],
        channels: int,
        stem_kernel: int,
        stem_strides: tuple[int, int],
        norm: str,
        groups: int,
        dtype: str,
    ):
        """Makes the parameters.

        Args:
          rngs: stream "params".
          in_channels: of the images.
          depth: a key of `DEPTHS`.
          widths: of the four stages; the stem has that of the first.
          channels: C of every level.
          stem_kernel: pixels along each axis, odd; 7 in the paper.
          stem_strides: of the stem's convolution and of its pooling, 2 or 1 each; (2, 2) in the paper. 1 and 1 leave
            the pooling out; s is their product.
          norm: of the ResNet: "batch", "frozen" (batch norm that keeps the statistics that it starts with) or "group".
          groups: of "group".
          dtype: compute dtype, "float32" or "bfloat16".

        Raises:
          InputError: a setting is out of its range.
        """
        _refuse(depth not in DEPTHS, f"depth {depth} is none of {tuple(DEPTHS)}")
        _refuse(len(widths) != 4, f"{len(widths)} widths {tuple(widths)}: give 4, one per stage")
        _refuse(norm not in NORMS, f"norm {norm!r} is none of {NORMS}")
        _refuse(
            len(stem_strides) != 2 or not set(stem_strides) <= {1, 2},
            f"stem_strides {tuple(stem_strides)}: give 1 or 2 for the convolution and for the pooling",
        )
        _refuse(stem_kernel % 2 == 0, f"stem_kernel {stem_kernel} must be odd")
        self.frozen, self.stem_strides, self.dtype = norm == "frozen", tuple(stem_strides), jnp.dtype(dtype)
        kind = "group" if norm == "group" else "batch"
        first = (stem_strides[0],) * 2
        self.stem = resnet.ConvolutionNorm(
            rngs, in_channels, widths[0], (stem_kernel,) * 2, first, kind, groups
        )
        make, counts = DEPTHS[depth]
        self.stages = nnx.List()
        self.lateral = nnx.List()
        before = widths[0]
        for stage, (count, width) in enumerate(zip(counts, widths, strict=True)):
            blocks = nnx.List()
            for number in range(count):
                stride = 2 if stage > 0 and number == 0 else 1
                blocks.append(make(rngs, before, width, (stride, stride), kind, groups))
                before = blocks[-1].second.norm.scale[...].shape[0]
                blocks[-1].second.norm.scale[...] = jnp.zeros(before)
            self.stages.append(blocks)
            self.lateral.append(_convolution(rngs, before, channels, 1, self.dtype))
        self.smooth = nnx.List(_convolution(rngs, channels, channels, 3, self.dtype) for _ in widths)

    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, ...]:
        """Applies the network.

        Args:
          x: (B, Y, X, in_channels) floats, Y and X multiples of 8 s.
          train: batch norm, unless frozen, uses the batch's own statistics and updates the running ones.

        Returns:
          `LEVELS` arrays (B, Y / stride, X / stride, C) of the compute dtype, rounded up at the last level.

        Raises:
          InputError: Y or X does not divide.
        """
        coarsest = self.strides[-2]
        if x.shape[1] % coarsest or x.shape[2] % coarsest:
            raise InputError(
                f"an image of {x.shape[1]}x{x.shape[2]} pixels for a pyramid of stride {coarsest}: pad it"
            )
        train = train and not self.frozen
        x = jax.nn.relu(self.stem(x.astype(self.dtype), train))
        if self.stem_strides[1] > 1:
            x = sampling.max_pool_overlapping(x, _POOL_WINDOW, self.stem_strides[1])
        seen = []
        for blocks, lateral in zip(self.stages, self.lateral, strict=True):
            for block in blocks:
                x = block(x, train)
            seen.append(lateral(x))
        for level in reversed(range(len(seen) - 1)):
            seen[level] += sampling.upsample_by_repeating(seen[level + 1], (2, 2))
        made = [smooth(x) for smooth, x in zip(self.smooth, seen, strict=True)]
        return (*made, made[-1][:, ::2, ::2])

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image per pixel of each level: s, 2 s ... 16 s."""
        first = self.stem_strides[0] * self.stem_strides[1]
        return tuple(first * 2**level for level in range(LEVELS))


def _convolution(rngs, channels, width, kernel, dtype):
    return layers.Convolution(rngs, channels, width, (kernel, kernel), bias=True, dtype=dtype)


def _refuse(fault: bool, text: str) -> None:
    if fault:
        raise InputError(f"feature pyramid: {text}")
