"""Cells as a mask: foreground alone, or background, cell and border as classes.

Shapes: B batch, S spatial axes (Y, X) or (Z, Y, X). The border class is what Arbelle and Riklin Raviv (ISBI
2019) separate touching cells with; its class weights are theirs.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage
from skimage import morphology

from celltrack_jax.config import from_mapping
from celltrack_jax.errors import InputError
from celltrack_jax.ops.distance import instance_distance, other_cell_distance
from celltrack_jax.representations import Representation, Target, instances, losses

BACKGROUND, CELL, BORDER = 0, 1, 2
"""Classes of the arm with a border."""


def build(arm: str, **kwargs) -> Representation:
    """Makes the arm "foreground" (`Foreground`) or "border" (`Border`); all its constants are given."""
    arms = {"foreground": Foreground, "border": Border}
    if arm not in arms:
        raise InputError(f'representation.arm is {arm!r}: "foreground" or "border"')
    return from_mapping(arms[arm], kwargs, "representation")


@dataclass(frozen=True)
class Foreground:
    """One channel, the foreground logit; cells are connected components, or basins of their distance map."""

    bce_weight: float
    dice_weight: float
    """Factors of the two terms of the loss."""
    foreground_threshold: float
    """Probability above which a pixel is part of a cell."""
    closing_radius: float
    """Slivers of background that a ball of this radius, in the unit of the spacing, does not fit into become cell; 0
    closes nothing."""
    split: str
    """"components": touching cells become one; "distance": a watershed of the distance to the background."""
    smoothing: float
    prominence: float
    """"distance": standard deviation in pixels of a Gaussian over the distance, and least rise of a peak over the pass
    to a higher one."""
    min_size: int
    """Cells with fewer pixels are dropped: an area opening."""

    def __post_init__(self):
        if self.split not in ("components", "distance"):
            raise InputError(f'representation.split is {self.split!r}: "components" or "distance"')
        if not 0 < self.foreground_threshold < 1:
            raise InputError(
                f"representation.foreground_threshold {self.foreground_threshold} is not in (0, 1)"
            )

    @property
    def channels(self) -> int:
        """Foreground logit."""
        return 1

    def target(self, labels: jax.Array, spacing: jax.Array) -> Target:
        """1 in cells, 0 in the background; unknown where labels are -1."""
        del spacing
        return Target((labels > 0).astype(jnp.float32)[..., None], losses.known_weight(labels))

    def loss(
        self, prediction: jax.Array, target: Target, step: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Weighted sum of cross entropy and soft Dice."""
        del step
        bce, dice = losses.bce_and_dice(prediction, target.value, target.weight)
        return self.bce_weight * bce + self.dice_weight * dice, {"bce": bce, "dice": dice}

    def decode(self, prediction: np.ndarray, spacing: np.ndarray) -> np.ndarray:
        """Closes the thresholded foreground, divides it, and drops specks."""
        mask = prediction[..., 0] > losses.logit(self.foreground_threshold)
        if self.closing_radius > 0:
            mask = morphology.isotropic_closing(mask, self.closing_radius, spacing=tuple(spacing))
        if self.split == "components":
            return instances.drop_small(instances.components(mask), self.min_size)
        distance = ndimage.distance_transform_edt(mask, tuple(spacing))
        height = ndimage.gaussian_filter(distance, self.smoothing).astype(np.float32)
        return instances.drop_small(instances.split_by_height(height, mask, self.prominence), self.min_size)

    def perfect(self, target: Target) -> jax.Array:
        """Saturated logits of the target."""
        return losses.saturated(target.value)


@dataclass(frozen=True)
class Border:
    """Three channels, the logits of background, cell and border."""

    border: str
    """"touching": pixels of a cell within `width` of another cell; "outline": within `width` of the own edge."""
    width: float
    """In the unit of the spacing; pixels that face another cell (or label) are `spacing` away from it."""
    class_weights: tuple[float, float, float]
    """Factors of background, cell and border in the cross entropy."""
    min_core: int
    """Parts of the cell class with fewer pixels seed no cell: a border may cut them off a larger part."""
    min_size: int
    """Cells with fewer pixels are dropped."""

    def __post_init__(self):
        if self.border not in ("touching", "outline"):
            raise InputError(f'representation.border is {self.border!r}: "touching" or "outline"')
        if len(self.class_weights) != 3 or min(self.class_weights) < 0 or self.width <= 0:
            raise InputError(
                f"representation.class_weights {self.class_weights} are background, cell and border, not "
                f"negative, and width {self.width} is positive"
            )

    @property
    def channels(self) -> int:
        """Logits of background, cell and border."""
        return 3

    def target(self, labels: jax.Array, spacing: jax.Array) -> Target:
        """Class index (*S, 1); unknown where labels are -1."""
        distance = other_cell_distance if self.border == "touching" else instance_distance
        # Farther than the width by a pixel's fraction, so that the cut-off itself is not within it.
        near = distance(labels, spacing, 1.001 * self.width) <= self.width
        classes = jnp.where(labels > 0, jnp.where(near, BORDER, CELL), BACKGROUND)
        return Target(classes.astype(jnp.float32)[..., None], losses.known_weight(labels))

    def loss(
        self, prediction: jax.Array, target: Target, step: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Class-weighted cross entropy."""
        del step
        classes = target.value[..., 0].astype(jnp.int32)
        entropy = losses.cross_entropy(prediction, classes, self.class_weights, target.weight)
        return entropy, {"cross_entropy": entropy}

    def decode(self, prediction: np.ndarray, spacing: np.ndarray) -> np.ndarray:
        """Cores, the parts of the cell class, grown over all that is not background; what no core reaches is a cell."""
        del spacing
        classes = prediction.argmax(-1)
        cores = instances.drop_small(instances.components(classes == CELL), self.min_core)
        return instances.drop_small(instances.grow_into(cores, classes != BACKGROUND), self.min_size)

    def perfect(self, target: Target) -> jax.Array:
        """Saturated logits of the target's class."""
        return losses.saturated(jax.nn.one_hot(target.value[..., 0].astype(jnp.int32), 3))
