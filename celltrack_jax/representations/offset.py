"""Cells as a field that points to their centres: each pixel votes for one, and where many do there is a cell.

Shapes: B batch, S spatial axes (Y, X) or (Z, Y, X), D of them, K points of a crop. Channels: the evidence's logit; D
components of the way from the pixel to its cell's centre, in `offset_scale`; and, for the loss "nll", how uncertain that
is. What a head answers at first, about 0, is a short way of which only so much is sure as the target's lengths are:
offsets in µm, and sure ones, cost 300 times as much as the evidence, which then was not learned.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from celltrack_jax.config import from_mapping
from celltrack_jax.errors import InputError
from celltrack_jax.ops.balls import draw_balls
from celltrack_jax.ops.labels import centroids
from celltrack_jax.representations import Found, Target, losses, sources, voting

EVIDENCE, SHARE, FIRST = 0, 1, 2
"""Channels of the target: evidence, weight of the offset's loss, and the offset's first component."""


def build(**kwargs) -> "Offset":
    """Makes the representation; all constants are given, see `Offset`."""
    return from_mapping(Offset, kwargs, "representation")


@dataclass(frozen=True)
class Offset:
    """Offsets to the centroids. Lengths are in the unit of the spacing."""

    axes: int
    """D."""
    evidence: str
    """What lets a pixel vote. "centre": a Gaussian at the cell's centre, learned by the focal loss; cells are read as
    balls. "foreground": whether the pixel is part of a cell, learned by cross entropy and Dice; cells are the pixels
    that vote for them."""
    radius: float
    """How far from a point its cell, or the field around it, reaches; in label maps cells are themselves."""
    sigma: float
    """"centre": standard deviation of the Gaussian, whose height is 1."""
    max_cells: int
    """K, upper bound on the cells in a crop; in label maps on the dense ids."""
    focal_alpha: float
    focal_beta: float
    """"centre": exponents of the focal loss: of the error, and of the relief around a centre."""
    prior: float
    """Evidence that a raw output of 0 means: what most pixels are, from the first step on."""
    offset_loss: str
    """"smooth_l1"; or "nll", the negative log-likelihood of a Gaussian, one variance for all axes, which also learns
    how uncertain an offset is. Uncertain pixels have less of a vote."""
    offset_scale: float
    """Length of an offset of which the raw output is 1, and its error up to which "smooth_l1" is quadratic; for "nll" the
    least standard deviation, so that the loss is not negative and no vote counts more than 1."""
    offset_weight: float
    """Factor of the offsets' loss."""
    bins: int
    vote_blur: float
    min_votes: float
    min_distance: float
    capture: float
    max_peaks: int
    """How votes are read, see `voting.Ballot`."""
    threshold: float
    """Evidence that the surest pixel of a cell must exceed."""
    foreground_threshold: float
    """"foreground": evidence above which a pixel is part of a cell."""
    marker_radius: float
    """"centre": radius of the ball that stands for a cell in a label map."""

    def __post_init__(self):
        choices = {"evidence": ("centre", "foreground"), "offset_loss": ("smooth_l1", "nll")}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise InputError(f"representation.{name} is {getattr(self, name)!r}: one of {known}")
        for name in ("radius", "sigma", "offset_scale", "vote_blur", "capture", "bins"):
            if getattr(self, name) <= 0:
                raise InputError(f"representation.{name} is {getattr(self, name)}: it must be positive")
        if self.evidence == "centre" and self.radius < 2 * self.sigma:
            raise InputError(
                f"representation.radius {self.radius} is less than twice sigma {self.sigma}: pixels that no offset is "
                "learned for would vote"
            )
        for name in ("prior", "foreground_threshold"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"representation.{name} is {getattr(self, name)}: it lies in (0, 1)")

    @property
    def channels(self) -> int:
        """Evidence, offset, and uncertainty where it is learned."""
        return 1 + self.axes + (self.offset_loss == "nll")

    @property
    def has_threshold(self) -> bool:
        """Reading depends on it."""
        return True

    @property
    def learns_steps(self) -> bool:
        """Points come without steps."""
        return False

    @property
    def directed(self) -> bool:
        """Offsets have directions."""
        return True

    def target(self, labels: jax.Array, spacing: jax.Array) -> Target:
        """The target of the cells' centroids; unknown where labels are -1. A cell that the crop's border cuts has the
        centroid of what is left of it."""
        centres = centroids(labels, self.max_cells)[1:]
        return self._target(sources.of_labels(labels, centres, spacing), centres, labels, spacing)

    def point_target(
        self, points: jax.Array, steps: jax.Array, known: jax.Array, spacing: jax.Array
    ) -> Target:
        """Makes the target of one sample's points; traced into the training step.

        Args:
          points: (K, D) float32 index, also outside of the map; NaN for none.
          steps: not used.
          known: (*S) int32, -1 where the truth is unknown.
          spacing: (D,) float32.

        Returns:
          Channels: evidence in 0..1; 1 over the number of the cell's pixels, 0 in the background; D offsets.
        """
        del steps
        return self._target(sources.of_points(points, known, spacing, self.radius), points, known, spacing)

    def _target(
        self, found: sources.Sources, centres: jax.Array, known: jax.Array, spacing: jax.Array
    ) -> Target:
        evidence = (
            sources.heat(centres, known.shape, spacing, self.sigma)
            if self.evidence == "centre"
            else found.inside
        )
        return Target(jnp.concatenate([evidence, found.share, found.offset], -1), losses.known_weight(known))

    def loss(
        self, prediction: jax.Array, target: Target, step: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The evidence's loss, and the offsets', which is a mean over cells of means over their pixels."""
        del step
        prediction = losses.known(prediction, target.weight)
        truth, share = target.value[..., :1], target.value[..., SHARE:FIRST]
        logits = prediction[..., :1] + losses.logit(self.prior)
        if self.evidence == "centre":
            value = losses.focal(logits, truth, target.weight, self.focal_alpha, self.focal_beta)
            metrics = {"focal": value}
        else:
            bce, dice = losses.bce_and_dice(logits, truth, target.weight)
            value, metrics = bce + dice, {"bce": bce, "dice": dice}
        off = prediction[..., 1 : 1 + self.axes] - target.value[..., FIRST:] / self.offset_scale
        if self.offset_loss == "nll":
            log_variance = jax.nn.softplus(prediction[..., 1 + self.axes :] + self._doubt())
            error = 0.5 * (jnp.square(off) * jnp.exp(-log_variance) + log_variance)
        else:
            error = losses.smooth_l1(off, 1.0)
        metrics["offset"] = losses.weighted_mean(error, target.weight * share)
        return value + self.offset_weight * metrics["offset"], metrics

    def points(self, prediction: np.ndarray, spacing: np.ndarray) -> Found:
        """Reads points from the raw output (*S, C) float32 of one frame; thread-safe.

        Args:
          prediction: of the frame.
          spacing: (D,).
        """
        evidence = self._evidence(prediction)
        weight = evidence
        if self.offset_loss == "nll":
            # exp(-softplus(x)) is sigmoid(-x).
            weight = evidence * special.expit(-prediction[..., 1 + self.axes] - np.float32(self._doubt()))
        ballot = voting.Ballot.of(self)
        return voting.read(self._offset(prediction), weight, evidence, spacing, self.threshold, ballot)

    def read(self, prediction: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, Found]:
        """Balls, or the pixels that vote for each point."""
        found = self.points(prediction, spacing)
        if self.evidence == "centre":
            labels = draw_balls(
                found.position, prediction.shape[:-1], np.asarray(spacing), self.marker_radius
            )
        else:
            mask = self._evidence(prediction) > self.foreground_threshold
            labels = voting.areas(self._offset(prediction), mask, found, spacing, self.capture)
        return labels, found

    def decode(self, prediction: np.ndarray, spacing: np.ndarray) -> np.ndarray:
        """The labels alone."""
        return self.read(prediction, spacing)[0]

    def perfect(self, target: Target) -> jax.Array:
        """Logits of the evidence, the offsets, and no uncertainty."""
        truth = target.value[..., :1]
        logits = losses.heat_logits(truth) if self.evidence == "centre" else losses.saturated(truth)
        parts = [logits - losses.logit(self.prior), target.value[..., FIRST:] / self.offset_scale]
        if self.offset_loss == "nll":
            parts.append(jnp.full_like(logits, -10.0 - self._doubt()))
        return jnp.concatenate(parts, -1)

    def _evidence(self, prediction: np.ndarray) -> np.ndarray:
        return special.expit(prediction[..., EVIDENCE] + np.float32(losses.logit(self.prior)))

    def _offset(self, prediction: np.ndarray) -> np.ndarray:
        return prediction[..., 1 : 1 + self.axes] * np.float32(self.offset_scale)

    def _doubt(self) -> float:
        """Logarithm of the variance, in `offset_scale`, that a raw output of 0 means: offsets are up to `radius` long."""
        return 2 * math.log(max(self.radius / self.offset_scale, 1.0))
