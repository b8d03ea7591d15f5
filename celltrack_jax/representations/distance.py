"""Cells as a foreground mask and the distance of each pixel to the edge of its cell.

The distance falls to about 0 between touching cells, so its peaks tell them apart: decoding floods the
foreground from the peaks of the smoothed distance (cf. Naylor et al., IEEE TMI 2019).

Shapes: B batch, S spatial axes (Y, X) or (Z, Y, X). Channels: foreground logit, distance.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from celltrack_jax.config import from_mapping
from celltrack_jax.errors import InputError
from celltrack_jax.ops.distance import instance_distance
from celltrack_jax.ops.labels import maxima
from celltrack_jax.representations import Target, instances, losses

FOREGROUND, DISTANCE = 0, 1
"""Channels."""


def build(**kwargs) -> "Distance":
    """Makes the representation; all constants are given, see `Distance`."""
    return from_mapping(Distance, kwargs, "representation")


@dataclass(frozen=True)
class Distance:
    """Foreground and distance to the own edge. Lengths are in the unit of the spacing."""

    scale: str
    """"cell": distance over the cell's largest; "absolute": distance over max_distance."""
    max_distance: float
    """Distances are cut off here; with scale "cell" it must exceed the inner radius of the largest cell, or
    that cell gets a plateau."""
    max_cells: int
    """Upper bound on the dense ids in a crop, for scale "cell"."""
    bce_weight: float
    dice_weight: float
    distance_weight: float
    """Factors of the three terms of the loss."""
    distance_loss: str
    """"smooth_l1" or "mse"."""
    smooth_l1_beta: float
    foreground_threshold: float
    """Probability above which a pixel is part of a cell."""
    smoothing: float
    """Standard deviation of the Gaussian on the predicted distance before its peaks are found."""
    prominence: float
    """Least rise of a peak of the predicted distance over the pass to a higher one; smaller ones are joined."""
    min_size: int
    """Cells with fewer pixels are dropped."""
    fill_holes: bool
    """Whether background that one cell encloses becomes part of it."""

    def __post_init__(self):
        if self.scale not in ("cell", "absolute"):
            raise InputError(f'representation.scale is {self.scale!r}: "cell" or "absolute"')
        if self.distance_loss not in ("smooth_l1", "mse"):
            raise InputError(f'representation.distance_loss is {self.distance_loss!r}: "smooth_l1" or "mse"')
        if self.max_distance <= 0 or not 0 < self.foreground_threshold < 1:
            raise InputError(
                f"representation.max_distance {self.max_distance} must be positive and "
                f"foreground_threshold {self.foreground_threshold} between 0 and 1"
            )

    @property
    def channels(self) -> int:
        """Foreground logit and distance."""
        return 2

    def target(self, labels: jax.Array, spacing: jax.Array) -> Target:
        """Foreground in {0, 1} and distance in [0, 1], 0 in the background; unknown where labels are -1.

        The border of the crop is no edge: a cell that it cuts has its largest distances there, in crops and
        in whole frames alike.
        """
        distance = instance_distance(labels, spacing, self.max_distance)
        if self.scale == "cell":
            largest = maxima(distance, labels, self.max_cells)
            distance = distance / largest.at[labels].get(mode="clip")
        else:
            distance = distance / self.max_distance
        cell = labels > 0
        value = jnp.stack([cell.astype(jnp.float32), jnp.where(cell, distance, 0.0)], -1)
        return Target(value, losses.known_weight(labels))

    def loss(
        self, prediction: jax.Array, target: Target, step: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Weighted sum of BCE and Dice on the foreground and a regression loss on the distance."""
        del step
        bce, dice = losses.bce_and_dice(prediction[..., :1], target.value[..., :1], target.weight)
        off = losses.known(prediction[..., 1:], target.weight) - target.value[..., 1:]
        elementwise = (
            losses.smooth_l1(off, self.smooth_l1_beta) if self.distance_loss == "smooth_l1" else off**2
        )
        distance = losses.weighted_mean(elementwise, target.weight)
        total = self.bce_weight * bce + self.dice_weight * dice + self.distance_weight * distance
        return total, {"bce": bce, "dice": dice, "distance": distance}

    def decode(self, prediction: np.ndarray, spacing: np.ndarray) -> np.ndarray:
        """Seeded watershed of the smoothed distance inside the foreground."""
        mask = prediction[..., FOREGROUND] > losses.logit(self.foreground_threshold)
        sigma = self.smoothing / np.asarray(spacing, np.float64)
        height = ndimage.gaussian_filter(np.asarray(prediction[..., DISTANCE], np.float32), sigma)
        labels = instances.split_by_height(height, mask, self.prominence)
        if self.fill_holes:
            labels = instances.fill_holes(labels)
        return instances.drop_small(labels, self.min_size)

    def perfect(self, target: Target) -> jax.Array:
        """The raw output that says the target: saturated logits and the distance itself."""
        foreground, distance = target.value[..., :1], target.value[..., 1:]
        return jnp.concatenate([losses.saturated(foreground), distance], -1)
