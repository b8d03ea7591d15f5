"""Cells as points: a Gaussian at the centroid of each cell.

Shapes: B batch, S spatial axes (Y, X) or (Z, Y, X), N points. One channel: the heat, or its logit where the
loss is "focal" (Law and Deng, CornerNet, ECCV 2018; Zhou et al., Objects as Points, 2019).
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy import ndimage

from celltrack_jax.config import from_mapping
from celltrack_jax.errors import InputError
from celltrack_jax.ops.labels import centroids
from celltrack_jax.ops.peaks import find_peaks
from celltrack_jax.representations import Target, losses

_PEAK = 0.9999
"""Heat from which a pixel is a centre for the focal loss; centres sit on pixels, so theirs is 1."""


def build(**kwargs) -> "Heatmap":
    """Makes the representation; all constants are given, see `Heatmap`."""
    return from_mapping(Heatmap, kwargs, "representation")


@dataclass(frozen=True)
class Heatmap:
    """Gaussians at the centroids. Lengths are in the unit of the spacing."""

    sigma: float
    """Standard deviation of each Gaussian, whose height is 1."""
    compose: str
    """"max" or "sum" where Gaussians overlap."""
    max_cells: int
    """Upper bound on the dense ids in a crop."""
    loss_name: str
    """"mse"; "weighted_mse", which counts a pixel 1 + peak_weight * heat times; or "focal"."""
    peak_weight: float
    focal_alpha: float
    focal_beta: float
    """Exponents of the focal loss: of the error, and of the relief around a centre."""
    threshold: float
    """Peaks must exceed this heat."""
    min_distance: float
    """Of two peaks nearer than this the lower is dropped."""
    max_peaks: int
    """Most peaks of a frame."""
    marker_radius: float
    """Radius of the ball that stands for a point in a label map."""

    def __post_init__(self):
        choices = {"compose": ("max", "sum"), "loss_name": ("mse", "weighted_mse", "focal")}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise InputError(f"representation.{name} is {getattr(self, name)!r}: one of {known}")
        if self.loss_name == "focal" and self.compose != "max":
            raise InputError(
                'representation.loss_name "focal" needs compose "max": only a centre may reach 1'
            )
        if self.sigma <= 0:
            raise InputError(f"representation.sigma {self.sigma} is not positive")

    @property
    def channels(self) -> int:
        """The heat."""
        return 1

    def target(self, labels: jax.Array, spacing: jax.Array) -> Target:
        """Heat in 0..1 (more where composed Gaussians add up); unknown where labels are -1.

        For the focal loss the Gaussians sit on pixels, as it needs pixels that are centres.
        """
        centres = centroids(labels, self.max_cells)[1:]
        if self.loss_name == "focal":
            centres = jnp.round(centres)
        # From heat 1 down to the square root of float32's smallest; cells without a pixel are NaN.
        centres = jnp.where(jnp.isnan(centres), -1e4, centres)
        profiles = [
            jnp.exp(
                -0.5 * jnp.square((jnp.arange(size) - centres[:, axis, None]) * spacing[axis] / self.sigma)
            )
            for axis, size in enumerate(labels.shape)
        ]
        heat = _add_up(profiles, labels.max(), self.compose)
        return Target(heat[..., None], losses.known_weight(labels))

    def loss(
        self, prediction: jax.Array, target: Target, step: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The loss that `loss_name` names."""
        del step
        prediction = losses.known(prediction, target.weight)
        if self.loss_name == "focal":
            value = self._focal(prediction, target)
        else:
            factor = 1.0 + self.peak_weight * target.value if self.loss_name == "weighted_mse" else 1.0
            value = losses.weighted_mean(factor * jnp.square(prediction - target.value), target.weight)
        return value, {self.loss_name: value}

    def _focal(self, logits: jax.Array, target: Target) -> jax.Array:
        """Per centre; centres are positives, all else negatives with relief near a centre."""
        probability = jax.nn.sigmoid(logits)
        centre = target.value >= _PEAK
        positive = -jax.nn.log_sigmoid(logits) * (1 - probability) ** self.focal_alpha
        relief = (1 - jnp.minimum(target.value, 1.0)) ** self.focal_beta
        negative = -jax.nn.log_sigmoid(-logits) * probability**self.focal_alpha * relief
        known_centres = (centre & (target.weight > 0)).sum()
        total = jnp.where(target.weight > 0, target.weight * jnp.where(centre, positive, negative), 0.0).sum()
        return total / jnp.maximum(known_centres, 1)

    def points(self, prediction: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Reads points from the raw output (*S, 1).

        Returns:
          (N, ndim) float32 sub-pixel indices and (N,) float32 heat, from the highest down.
        """
        heat = jnp.asarray(prediction[..., 0])
        if self.loss_name == "focal":
            heat = jax.nn.sigmoid(heat)
        found = _find_peaks(
            heat, jnp.asarray(spacing, jnp.float32), self.max_peaks, self.threshold, self.min_distance
        )
        valid = np.asarray(found.valid)
        return np.asarray(found.position)[valid], np.asarray(found.score)[valid]

    def decode(self, prediction: np.ndarray, spacing: np.ndarray) -> np.ndarray:
        """A ball for each point; where balls meet, each pixel goes to the nearest point."""
        shape = prediction.shape[:-1]
        position, _ = self.points(prediction, spacing)
        seeds = np.zeros(shape, np.int32)
        seeds[tuple(np.rint(position).astype(int).T)] = np.arange(1, len(position) + 1)
        if not len(position):
            return seeds
        distance, nearest = ndimage.distance_transform_edt(seeds == 0, spacing, return_indices=True)  # pyright: ignore[reportGeneralTypeIssues]
        return np.where(distance <= self.marker_radius, seeds[tuple(nearest)], 0).astype(np.int32)

    def perfect(self, target: Target) -> jax.Array:
        """The heat, or its logit."""
        if self.loss_name != "focal":
            return target.value
        heat = jnp.clip(target.value, 1e-4, _PEAK)
        return jnp.log(heat) - jnp.log1p(-heat)


def _add_up(profiles: list[jax.Array], cells: jax.Array, compose: str) -> jax.Array:
    """Combines the outer products of the first `cells` rows of (K, size) profiles, one per axis: (*S)."""
    ndim = len(profiles)
    combine = jnp.maximum if compose == "max" else jnp.add

    def add(k: jax.Array, heat: jax.Array) -> jax.Array:
        rows = [
            profile[k].reshape([-1 if axis == own else 1 for axis in range(ndim)])
            for own, profile in enumerate(profiles)
        ]
        return combine(heat, functools.reduce(jnp.multiply, rows))

    start = jnp.zeros([profile.shape[1] for profile in profiles])
    return lax.fori_loop(0, jnp.minimum(cells, profiles[0].shape[0]), add, start)


@functools.partial(jax.jit, static_argnames="count")
def _find_peaks(heat, spacing, count, threshold, min_distance):
    return find_peaks(heat, spacing, count=count, threshold=threshold, min_distance=min_distance)
