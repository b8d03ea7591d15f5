"""Losses of probability maps that count overlap, and what the kinetochore system compared them with.

A probability p is the sigmoid of the network's output, g the target in [0, 1]; unknown pixels (weight 0) are 0 in both.
Every loss is least at p = g and grows with the error. Shapes: B batch, S spatial axes, C channels.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from celltrack_jax.config import from_mapping
from celltrack_jax.errors import InputError
from celltrack_jax.ops import gaussian
from celltrack_jax.representations import losses

NAMES = (
    *("l2", "rmse", "rmsle", "bce", "weighted_bce"),
    *("dice", "generalised_dice", "bce_dice", "gaussian_dice"),
)
SCHEDULES = ("constant", "steps", "geometric", "random")
_LEAST = 1e-6
"""Of denominators."""
_HEAVIEST = 50.0
"""Weight of a foreground pixel in "weighted_bce", at most."""


@dataclass(frozen=True)
class Kernel:
    """The Gaussian of "gaussian_dice", and how it changes while the network is trained."""

    sizes: tuple[int, ...]
    """Taps of each stage, along every axis."""
    sigmas: tuple[float, ...]
    """Standard deviation of each stage, in the unit of `spacing`."""
    spacing: tuple[float, ...]
    """Size of a voxel along each axis: (1, 1, 1) counts in voxels whatever their shape, as the original did."""
    schedule: str
    """"constant": the first stage; "steps": one stage after the other, from `starts`; "geometric": from the first sigma
    to the last one over all `steps`; "random": log-uniform between the two in each step. The last two have the first
    size."""
    starts: tuple[float, ...]
    """"steps": share of `steps` after which each stage begins, 0 for the first."""
    steps: int
    """Of the training."""

    def __post_init__(self):
        object.__setattr__(self, "sizes", tuple(self.sizes))
        if self.schedule not in SCHEDULES:
            raise InputError(f"representation.kernel.schedule is {self.schedule!r}: one of {SCHEDULES}")
        if len(self.sizes) != len(self.sigmas) or min(self.sigmas) <= 0 or min(self.sizes) < 1:
            raise InputError(
                f"representation.kernel has sizes {self.sizes} and sigmas {self.sigmas}: give each stage a positive one"
            )
        if self.schedule == "steps" and (len(self.starts) != len(self.sizes) or self.starts[0] != 0):
            raise InputError(
                f"representation.kernel.starts is {self.starts}: give the share of the steps after which each of the "
                f"{len(self.sizes)} stages begins, 0 for the first"
            )

    def now(self, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns sigma () float32 and the taps () float32 that count at a step."""
        sigmas, sizes = jnp.array(self.sigmas, jnp.float32), jnp.array(self.sizes, jnp.float32)
        if self.schedule == "steps":
            stage = (jnp.array(self.starts) * self.steps <= step).sum() - 1
            return sigmas[stage], sizes[stage]
        if self.schedule == "constant":
            return sigmas[0], sizes[0]
        if self.schedule == "geometric":
            share = jnp.clip(step / max(self.steps, 1), 0, 1)
        else:
            share = jax.random.uniform(jax.random.fold_in(jax.random.key(0), step))
        return sigmas[0] * (sigmas[-1] / sigmas[0]) ** share, sizes[0]

    def smooth(self, maps: jax.Array, step: jax.Array) -> jax.Array:
        """Smooths (B, C, *S) maps as at a step."""
        sigma, used = self.now(step)
        size = max(self.sizes) if self.schedule == "steps" else self.sizes[0]
        matrices = [
            gaussian.kernel_matrix(length, size, sigma / spacing, used)
            for length, spacing in zip(maps.shape[2:], self.spacing, strict=True)
        ]
        return gaussian.smooth(maps.reshape(-1, *maps.shape[2:]), matrices).reshape(maps.shape)


def build_kernel(settings: Any, axes: int) -> Kernel:
    """Makes the kernel of a config's `representation.kernel`."""
    kernel = from_mapping(Kernel, dict(settings), "representation.kernel")
    if len(kernel.spacing) != axes:
        raise InputError(f"representation.kernel.spacing is {kernel.spacing}: give {axes} numbers")
    return kernel


def loss(
    name: str, logits: jax.Array, target: jax.Array, weight: jax.Array, kernel: Kernel, step: jax.Array
) -> jax.Array:
    """Compares maps.

    Args:
      name: one of `NAMES`.
      logits: (B, *S, C).
      target: (B, *S, C) in [0, 1].
      weight: (B, *S, 1), 0 where unknown.
      kernel: of "gaussian_dice".
      step: () int32.

    Returns:
      () float32.
    """
    weight = (weight > 0).astype(jnp.float32)
    logits = losses.known(logits, weight)
    p, g = jax.nn.sigmoid(logits) * weight, target * weight
    if name in ("l2", "rmse", "rmsle"):
        error = jnp.log1p(p) - jnp.log1p(g) if name == "rmsle" else p - g
        squared = losses.weighted_mean(jnp.square(error), weight)
        return squared if name == "l2" else _root(squared)
    if name in ("bce", "weighted_bce"):
        factor = _foreground_weight(g, weight) if name == "weighted_bce" else 1.0
        return losses.binary_cross_entropy(logits, target, weight * factor)
    if name == "generalised_dice":
        return 1 - generalised_dice(p, g, weight)
    p, g = channels_first(p), channels_first(g)
    if name == "gaussian_dice":
        return 1 - dice(kernel.smooth(p, step), kernel.smooth(g, step))
    entropy = losses.binary_cross_entropy(logits, target, weight) if name == "bce_dice" else 0.0
    return entropy + 1 - dice(p, g)


def dice(p: jax.Array, g: jax.Array) -> jax.Array:
    """2 sum(p g) / (sum p^2 + sum g^2) over the batch (V-Net, 1606.04797), the mean over channels: (B, C, *S) to ()."""
    axes = (0, *range(2, p.ndim))
    return jnp.mean(2 * (p * g).sum(axes) / jnp.maximum((p * p + g * g).sum(axes), _LEAST))


def generalised_dice(p: jax.Array, g: jax.Array, weight: jax.Array) -> jax.Array:
    """Dice over foreground and background, each by the inverse square of its size (Sudre et al., 1707.03237).

    Args:
      p: (B, *S, C).
      g: (B, *S, C).
      weight: (B, *S, 1), 0 or 1.
    """
    axes = tuple(range(p.ndim - 1))
    parts = [(p, g), ((1 - p) * weight, (1 - g) * weight)]
    sizes = [jnp.square(true.sum(axes)) for _, true in parts]
    share = [1 / jnp.maximum(size, 1.0) for size in sizes]
    overlap = sum(w * (a * b).sum(axes) for w, (a, b) in zip(share, parts, strict=True))
    total = sum(w * (a * a + b * b).sum(axes) for w, (a, b) in zip(share, parts, strict=True))
    return jnp.mean(2 * overlap / jnp.maximum(total, 1e-12))


def agreement(p: jax.Array, g: jax.Array) -> jax.Array:
    """Dice of two maps of one shape with 1 added above and below, as the temporal losses have it."""
    return (2 * (p * g).sum() + 1) / ((p * p).sum() + (g * g).sum() + 1)


def distribution_gap(p: jax.Array, q: jax.Array) -> jax.Array:
    """Distance between means and standard deviations of two maps."""
    spread = _root(p.var()) - _root(q.var())
    return _root(jnp.square(p.mean() - q.mean()) + jnp.square(spread))


def channels_first(x: jax.Array) -> jax.Array:
    """(B, *S, C) to (B, C, *S)."""
    return jnp.moveaxis(x, -1, 1)


def _root(squared: jax.Array) -> jax.Array:
    """Square root whose gradient at 0 is finite."""
    return jnp.sqrt(jnp.maximum(squared, 1e-12))


def _foreground_weight(g: jax.Array, weight: jax.Array) -> jax.Array:
    """(B, *S, C): (1 - f) / f on the foreground, whose share of the known pixels is f, and 1 elsewhere."""
    share = g.sum() / jnp.maximum(weight.sum() * g.shape[-1], 1.0)
    heavy = jnp.clip((1 - share) / jnp.maximum(share, _LEAST), 1.0, _HEAVIEST)
    return 1 + (heavy - 1) * g
