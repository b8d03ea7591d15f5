"""What U-Nets are made of: blocks of convolutions, normalisation, up-sampling, heads.

Shapes: B batch, *S spatial axes (y, x) or (z, y, x), *K kernel, *P pool, C channels; channels last.
"""

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from celltrack_jax.errors import InputError
from celltrack_jax.ops import convolution, normalisation, sampling

ACTIVATIONS = {
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
}
NORMS = ("group", "instance", "batch", "none")
UPSAMPLES = ("transposed", "overlapping", "bilinear", "nearest")
UP_CHANNELS = ("halve", "keep")
_BATCH_MOMENTUM = 0.9
"""Share of the running batch statistics that a training step keeps, where a network says nothing else."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Joined:
    """Features and, behind their channels, coarser ones whose pixels count as repeated, without being made."""

    fine: jax.Array
    """(B, *S, C)."""
    coarse: jax.Array
    """(B, *S / window, C')."""
    window: tuple[int, ...] = field(metadata={"static": True})
    """How many pixels each coarse one stands for, per axis."""


class Block(nnx.Module):
    """A level's convolutions, each with its normalisation and activation in the given order."""

    def __init__(
        self, rngs, channels, widths, kernel, *, bias, norm, groups, affine, activation, order, dtype
    ):
        self.order, self.activation = order, activation
        normed_after = norm != "none" and "n" in order[order.index("c") :]
        pairs = list(itertools.pairwise((channels, *widths)))
        self.convs = nnx.List(
            Convolution(rngs, before, width, kernel, bias=bias and not normed_after, dtype=dtype)
            for before, width in pairs
        )
        self.norms = nnx.List(
            Norm(norm, width if normed_after else before, groups, affine)
            for before, width in pairs
            if norm != "none" and "n" in order
        )

    def __call__(self, x: Any, train: bool) -> jax.Array:
        """(B, *S, channels), as an array or `Joined`, to (B, *S, widths[-1])."""
        for conv, norm in itertools.zip_longest(self.convs, self.norms):
            for step in self.order:
                if step == "c":
                    x = conv(x)
                elif step == "a":
                    x = jax.tree.map(ACTIVATIONS[self.activation], x)
                elif norm is not None:
                    x = norm(x, train)
        return x


class Convolution(nnx.Module):
    """Convolution to the same size; a bias only where no normalisation follows that would remove it."""

    def __init__(self, rngs, channels, width, kernel, *, bias, dtype):
        self.dtype = dtype
        self.kernel = nnx.Param(nnx.initializers.he_normal()(rngs.params(), (*kernel, channels, width)))
        self.bias = nnx.Param(jnp.zeros(width)) if bias else None

    def __call__(self, x: jax.Array | Joined) -> jax.Array:
        """(B, *S, channels) to (B, *S, width)."""
        kernel = self.kernel[...]
        if isinstance(x, Joined):
            of_fine, of_coarse = jnp.split(kernel, [x.fine.shape[-1]], -2)
            fine = convolution.convolve(x.fine, of_fine.astype(self.dtype))
            x = fine + convolution.convolve_repeated(x.coarse, of_coarse, x.window)
        else:
            x = convolution.convolve(x, kernel.astype(self.dtype))
        return x if self.bias is None else x + self.bias[...].astype(self.dtype)


class Upsample(nnx.Module):
    """Up-sampling by the pool window, of a kind as `unet.UNet` has it; the kernel is that of "overlapping" alone."""

    def __init__(self, rngs, channels, width, pool, kind, dtype, kernel=()):
        self.pool, self.kind, self.dtype = pool, kind, dtype
        self.learned = kind in ("transposed", "overlapping") or channels != width
        if not self.learned:
            return
        window = {"transposed": pool, "overlapping": kernel}.get(kind, ())
        _refuse(
            any(p > size for p, size in zip(pool, window, strict=False)),
            f"upsample {kind!r} with kernel {window} leaves gaps in windows {pool}: enlarge the finer level's kernel",
        )
        # An output pixel sees one input pixel, or as many as windows overlap there.
        overlap = math.prod(window) / math.prod(pool) if kind == "overlapping" else 1.0
        draw = nnx.initializers.variance_scaling(1 / overlap, "fan_in", "truncated_normal")
        matrix = draw(rngs.params(), (channels, math.prod(window) * width))
        self.kernel = nnx.Param(jnp.moveaxis(matrix.reshape(channels, *window, width), 0, -2))
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, *S, channels) to (B, *S * *P, width)."""
        if self.kind == "nearest":
            return sampling.upsample_by_repeating(self.projected(x), self.pool)
        if self.kind == "bilinear":
            # Weights of the interpolation sum to 1, so the 1x1 convolution may come first, on fewer pixels.
            return sampling.upsample_linearly(self.projected(x), self.pool)
        kernel, bias = self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype)
        if self.kind == "transposed":
            return sampling.upsample(x, kernel) + bias
        return sampling.upsample_overlapping(x, kernel, self.pool) + bias

    def projected(self, x: jax.Array) -> jax.Array:
        """What "bilinear" and "nearest" do before they up-sample: (B, *S, channels) to (B, *S, width)."""
        if not self.learned:
            return x
        return x @ self.kernel[...].astype(self.dtype) + self.bias[...].astype(self.dtype)


class Head(nnx.Module):
    """1x1 convolution in float32."""

    def __init__(self, rngs, channels, width):
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), (channels, width)))
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, *S, channels) to (B, *S, width) float32."""
        return x.astype(jnp.float32) @ self.kernel[...] + self.bias[...]


class Norm(nnx.Module):
    """Normalisation, with a learned scale and offset if `affine`.

    "batch" has running statistics in `nnx.BatchStat`; a training step keeps `kept` of them. Where it is `fixed`
    (`functional.FunctionalModel`) they are used in training as they are, and stay.
    """

    fixed = False

    def __init__(self, kind, channels, groups, affine, kept=_BATCH_MOMENTUM):
        self.batch, self.affine, self.kept = kind == "batch", affine, kept
        self.groups = channels if kind == "instance" else math.gcd(groups, channels)
        if affine:
            self.scale = nnx.Param(jnp.ones(channels))
            self.offset = nnx.Param(jnp.zeros(channels))
        if self.batch:
            self.mean = nnx.BatchStat(jnp.zeros(channels))
            self.variance = nnx.BatchStat(jnp.ones(channels))

    def __call__(self, x: Any, train: bool) -> Any:
        """(B, *S, channels), or what is joined to as many, to the same; updates the running statistics where `train`."""
        first, *more = jax.tree.leaves(x)
        if not self.batch:
            mean, variance = normalisation.group_statistics(first, self.groups, *more)
        elif train and not self.fixed:
            each = [normalisation.batch_statistics(part) for part in (first, *more)]
            mean, variance = (jnp.concatenate(parts) for parts in zip(*each, strict=True))
            for running, now in ((self.mean, mean), (self.variance, variance)):
                running[...] = self.kept * running[...] + (1 - self.kept) * now
        else:
            mean, variance = self.mean[...], self.variance[...]
        scale, offset = (self.scale[...], self.offset[...]) if self.affine else (1.0, 0.0)
        if not more:
            return normalisation.normalise(x, mean, variance, scale, offset)
        return _normalise_joined(x, mean, variance, scale, offset)


def _normalise_joined(x: Joined, mean, variance, scale, offset) -> Joined:
    channels = x.fine.shape[-1] + x.coarse.shape[-1]
    each = [jnp.repeat(numbers, channels // numbers.shape[-1], -1) for numbers in (mean, variance)]
    each += [jnp.broadcast_to(numbers, channels) for numbers in (scale, offset)]
    of_fine, of_coarse = zip(*(jnp.split(numbers, [x.fine.shape[-1]], -1) for numbers in each), strict=True)
    fine, coarse = normalisation.normalise(x.fine, *of_fine), normalisation.normalise(x.coarse, *of_coarse)
    return Joined(fine, coarse, x.window)


def check_layers(*, norm, activation, heads, upsample, up_channels):
    """Checks what every U-Net names.

    Raises:
      InputError: one of the names is not known, or there is no head.
    """
    _refuse(norm not in NORMS, f"norm {norm!r} is none of {NORMS}")
    _refuse(activation not in ACTIVATIONS, f"activation {activation!r} is none of {tuple(ACTIVATIONS)}")
    _refuse(not heads, "no heads: name at least one output")
    _refuse(upsample not in UPSAMPLES, f"upsample {upsample!r} is none of {UPSAMPLES}")
    _refuse(up_channels not in UP_CHANNELS, f"up_channels {up_channels!r} is none of {UP_CHANNELS}")


def _refuse(fault: bool, text: str) -> None:
    if fault:
        raise InputError(f"U-Net: {text}")
