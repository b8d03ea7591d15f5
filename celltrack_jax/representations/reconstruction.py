"""The image itself as the target: what a network learns before anybody has annotated anything.

Shapes: B batch, S spatial axes (Y, X) or (Z, Y, X), C channels.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from celltrack_jax.config import from_mapping
from celltrack_jax.errors import InputError
from celltrack_jax.representations import losses

HIDDEN = ("nothing", "plane", "blocks")
OUTPUTS = ("linear", "softplus", "sigmoid")


def build(**kwargs) -> "Reconstruction":
    """Makes the representation; all constants are given, see `Reconstruction`."""
    return from_mapping(Reconstruction, kwargs, "representation")


@dataclass(frozen=True)
class Reconstruction:
    """A part of the image is hidden, and the whole image is to be told."""

    channels: int
    """C, those that the network sees."""
    loss_name: str
    """"l2", or "rmsle", the root of the mean squared difference of log(1 + x), negative values being 0."""
    hidden: str
    """"nothing"; "plane", the one at index `plane` of the first axis; "blocks" at random."""
    plane: int
    block: tuple[int, ...]
    """Voxels of a block along each axis of S, which it need not divide."""
    share: float
    """Of the blocks that are hidden."""
    everywhere: bool
    """Whether what is not hidden counts in the loss too, as published."""
    fold: bool
    """Whether the image is standardised and its absolute value taken, as published: dark background is folded up."""
    output: str
    """What the raw output means: "linear"; "softplus" of it, which is never negative; "sigmoid", as published, which
    cannot tell values beyond 1."""

    def __post_init__(self):
        choices = {"loss_name": ("l2", "rmsle"), "hidden": HIDDEN, "output": OUTPUTS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise InputError(f"representation.{name} is {getattr(self, name)!r}: one of {known}")
        if self.hidden == "blocks" and (min(self.block) < 1 or not 0 < self.share < 1):
            raise InputError(
                f"representation.block {self.block} counts voxels, and share {self.share} lies between 0 and 1"
            )
        if self.hidden == "nothing" and not self.everywhere:
            raise InputError(
                "representation.hidden is 'nothing', so nothing is left to learn: set everywhere"
            )

    def wanted(self, image: jax.Array) -> jax.Array:
        """Returns what is to be told of an image (*S, C) float32."""
        if not self.fold:
            return image
        axes = tuple(range(image.ndim - 1))
        return jnp.abs((image - image.mean(axes)) / jnp.maximum(image.std(axes), 1e-6))

    def hide(self, wanted: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Hides a part.

        Args:
          wanted: (*S, C).
          key: random; the plane is always the same.

        Returns:
          The image with zeros there, and (*S, 1) float32, 1 there.
        """
        shape = wanted.shape[:-1]
        if self.hidden == "nothing":
            hidden = jnp.zeros((*shape, 1))
        elif self.hidden == "plane":
            plane = jax.lax.broadcasted_iota(jnp.int32, (*shape, 1), 0)
            hidden = (plane == self.plane).astype(jnp.float32)
        else:
            counts = [-(-size // block) for size, block in zip(shape, self.block, strict=True)]
            # Ranks, not coin throws: every sample has the same share.
            chosen = jax.random.permutation(key, jnp.arange(math.prod(counts))).reshape(counts)
            hidden = (chosen < self.share * chosen.size).astype(jnp.float32)
            for axis, block in enumerate(self.block):
                hidden = jnp.repeat(hidden, block, axis)
            hidden = hidden[tuple(slice(size) for size in shape)][..., None]
        return wanted * (1 - hidden), hidden

    def told(self, prediction: jax.Array) -> jax.Array:
        """Returns the image that a raw output (..., C) tells."""
        if self.output == "linear":
            return prediction
        return jax.nn.softplus(prediction) if self.output == "softplus" else jax.nn.sigmoid(prediction)

    def loss(
        self, prediction: jax.Array, wanted: jax.Array, hidden: jax.Array, known: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Compares the raw output (B, *S, C) with the image (B, *S, C), where (B, *S, 1) is hidden, or everywhere, and
        where (B, *S, 1) is known: what was turned or read into a crop from beyond the image is not."""
        weight = known if self.everywhere else known * hidden
        told = self.told(prediction)
        if self.loss_name == "l2":
            value = losses.weighted_mean(jnp.square(told - wanted), weight)
        else:
            off = jnp.log1p(jnp.maximum(told, 0)) - jnp.log1p(jnp.maximum(wanted, 0))
            value = jnp.sqrt(jnp.maximum(losses.weighted_mean(jnp.square(off), weight), 1e-12))
        return value, {self.loss_name: value}
