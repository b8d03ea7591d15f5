"""Cells as star-convex shapes: how surely a pixel is inside of a cell, and how far the cell reaches along rays from it.

StarDist (Schmidt et al., MICCAI 2018; Weigert et al., WACV 2020), with lengths that end between pixels. Measured for
balls of radius 3 and 96 rays: what is drawn from lengths has a mean IoU of 0.94 with the ball, from StarDist's lengths,
which end at the first pixel outside, of 0.69 (launch.bench star).

Shapes: B batch, S spatial axes (Y, X) or (Z, Y, X), D of them, K points of a crop, n rays. Channels: the logit of the
probability, and by how many `radius` each of n lengths is more than one: what a head answers at first, about 0, is a
ball where no cell is likely. Lengths as they are made both of them the slowest to learn.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from celltrack_jax.config import from_mapping
from celltrack_jax.errors import InputError
from celltrack_jax.ops import polyhedra
from celltrack_jax.ops.distance import instance_distance
from celltrack_jax.ops.labels import maxima
from celltrack_jax.ops.polyhedra import Shapes
from celltrack_jax.ops.star import ball_lengths, label_lengths
from celltrack_jax.representations import Found, Target, losses
from celltrack_jax.representations.room import tell

_LEAST = 1e-3
"""Of a length, in pixels: what a network says may be negative."""
_SURE = 1e-4
"""Probabilities of a perfect answer keep so far from 0 and 1."""


def build(**kwargs) -> "Star":
    """Makes the representation; all constants are given, see `Star`."""
    return from_mapping(Star, kwargs, "representation")


@dataclass(frozen=True)
class Star:
    """Star-convex shapes around every pixel of a cell. Lengths are in the unit of the spacing."""

    axes: int
    """D."""
    rays: int
    """n: 32 in 2D, 64 to 128 in 3D."""
    grid: tuple[int, ...]
    """Every so many pixels along each axis lengths are learned and read; the network answers for all pixels."""
    max_cells: int
    """K, upper bound on the cells in a crop; in label maps on the dense ids."""
    max_length: float
    """Longest ray that is learned and read: more than the longest way through a cell."""
    radius: float
    """Length that a raw output of 0 means, as of a usual cell; and radius of the ball around each point that cells are
    learned as, where they are known as points."""
    prior: float
    """Probability that a raw output of 0 means: what most pixels are, from the first step on."""
    neighbours: int
    """Of a point: so many others cut its ball where theirs would overlap it."""
    bce_weight: float
    length_weight: float
    background_weight: float
    """Factors of the losses: of the probability, of the lengths, and of lengths where no cell is. StarDist's are 1, 0.2
    and 2e-5, with lengths in pixels."""
    threshold: float
    """Probability that a pixel must exceed to be a candidate."""
    candidates: str
    """"all" pixels, as StarDist; or the "maxima" of the probability, of which there are few."""
    max_candidates: int
    """Most candidates of a frame; the surest are taken."""
    overlap: str
    """What two shapes share, over the smaller one: "exact" counts pixels as they are drawn; "ball" takes balls as
    large as the shapes in their place, and is meant for cells that are nearly round."""
    max_overlap: float
    """Candidates that overlap a surer one by more are dropped."""

    def __post_init__(self):
        choices = {"candidates": ("all", "maxima"), "overlap": ("exact", "ball"), "axes": (2, 3)}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise InputError(f"representation.{name} is {getattr(self, name)!r}: one of {known}")
        if len(self.grid) != self.axes or min(self.grid) < 1:
            raise InputError(
                f"representation.grid {self.grid} has a step of 1 or more for each of {self.axes} axes"
            )
        if self.rays < 4 * (self.axes - 1):
            raise InputError(
                f"representation.rays {self.rays}: at least {4 * (self.axes - 1)}, which surround a pixel"
            )
        if not 0 < self.radius <= self.max_length or not (0 < self.threshold < 1 and 0 < self.prior < 1):
            raise InputError(
                f"representation.radius {self.radius} is positive and at most max_length {self.max_length}, "
                f"threshold {self.threshold} and prior {self.prior} between 0 and 1"
            )

    @property
    def channels(self) -> int:
        """The logit and the lengths."""
        return 1 + self.rays

    @property
    def has_threshold(self) -> bool:
        """Always."""
        return True

    @property
    def learns_steps(self) -> bool:
        """Never."""
        return False

    @property
    def directed(self) -> bool:
        """Always: a mirrored cell has its lengths on other rays."""
        return True

    def target(self, labels: jax.Array, spacing: jax.Array) -> Target:
        """Distance to the own edge over the cell's largest, and lengths up to where a ray leaves the cell.

        What the map's border or unknown pixels cut is known in part: a length there is negative, the least it can be.

        Returns:
          Values (*S / grid, 1 + n), 0 where no cell is; weights (*S, 1), 0 where labels are -1.
        """
        distance = instance_distance(labels, spacing, self.max_length)
        largest = maxima(distance, labels, self.max_cells)
        share = jnp.where(labels > 0, distance / largest.at[labels].get(mode="clip"), 0.0)
        lengths = label_lengths(labels, spacing, rays=self.rays, max_length=self.max_length, grid=self.grid)
        return self._target(share[self._on_grid()], lengths, labels)

    def point_target(
        self, points: jax.Array, steps: jax.Array, known: jax.Array, spacing: jax.Array
    ) -> Target:
        """Makes the target of one sample's points: balls, whose probability falls with the square of the distance.

        Args:
          points: (K, D) float32 index, also outside of the map; NaN for none.
          steps: are not learned.
          known: (*S) int32, -1 where the truth is unknown.
          spacing: (D,) float32.

        Returns:
          As `target`, but for the borders: balls are known beyond them.
        """
        del steps
        distance, lengths = ball_lengths(
            points,
            known.shape,
            spacing,
            rays=self.rays,
            radius=self.radius,
            neighbours=self.neighbours,
            grid=self.grid,
        )
        return self._target(jnp.maximum(1 - jnp.square(distance / self.radius), 0.0), lengths, known)

    def _target(self, probability: jax.Array, lengths: jax.Array, known: jax.Array) -> Target:
        return Target(jnp.concatenate([probability[..., None], lengths], -1), losses.known_weight(known))

    def _on_grid(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, step) for step in self.grid)

    def loss(
        self, prediction: jax.Array, target: Target, step: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Cross entropy of the probability, above its least; L1 of the lengths, by the true probability.

        Only pixels on the grid count. Of a length that is known to be at least so long only what is missing counts.
        """
        del step
        on_grid = (slice(None), *self._on_grid())
        weight = target.weight[on_grid]
        prediction = losses.known(prediction[on_grid], weight)
        logits = prediction[..., :1] + losses.logit(self.prior)
        lengths = self.radius * (1 + prediction[..., 1:])
        probability, wanted = target.value[..., :1], target.value[..., 1:]
        least = -_times_log(probability) - _times_log(1 - probability)
        bce = losses.binary_cross_entropy(logits, probability, weight) - losses.weighted_mean(least, weight)
        missing = jnp.abs(wanted) - lengths
        error = jnp.where(wanted < 0, jnp.maximum(missing, 0.0), jnp.abs(missing))
        length = losses.weighted_mean(error, weight * probability)
        background = losses.weighted_mean((1 - probability) * jnp.abs(lengths), weight)
        total = self.bce_weight * bce + self.length_weight * length + self.background_weight * background
        return total, {"bce": bce, "length": length, "background": background}

    def decode(self, prediction: np.ndarray, spacing: np.ndarray) -> np.ndarray:
        """The shapes of `read`."""
        return self.read(prediction, spacing)[0]

    def read(self, prediction: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, Found]:
        """Draws the shapes that are left; where they meet, a pixel goes to the surest."""
        shapes, found = self._shapes(prediction, spacing)
        return polyhedra.draw(shapes, prediction.shape[:-1]), found

    def points(self, prediction: np.ndarray, spacing: np.ndarray) -> Found:
        """The shapes' centres of mass."""
        return self._shapes(prediction, spacing)[1]

    def _shapes(self, prediction: np.ndarray, spacing: np.ndarray) -> tuple[Shapes, Found]:
        """Shapes from the surest down, and their centres."""
        spacing = np.asarray(spacing, np.float64)
        pixel, probability = self._candidates(prediction[..., 0][self._on_grid()])
        lengths = self.radius * (1 + prediction[tuple(pixel.T)][:, 1:].astype(np.float32))
        lengths = np.clip(lengths, _LEAST * spacing.min(), self.max_length)
        shapes = Shapes(pixel, lengths, spacing)
        size, offset = polyhedra.sizes_and_centres(shapes)
        kept = _OVERLAPS[self.overlap](shapes, size, offset, self.max_overlap)
        position = pixel[kept] + offset[kept] / spacing
        return shapes.take(kept), Found(position.astype(np.float32), probability[kept], None)

    def _candidates(self, logit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (N, D) on the grid, and their probabilities (N,) float32, from the surest down."""
        logit = logit + np.float32(losses.logit(self.prior))
        surely = logit > losses.logit(self.threshold)
        if self.candidates == "maxima":
            surely &= logit == ndimage.maximum_filter(logit, 3, mode="nearest")
        place = np.flatnonzero(surely)
        height = logit.reshape(-1)[place]
        order = np.argsort(-height, kind="stable")[: self.max_candidates]
        if len(place) > self.max_candidates:
            tell("max_candidates", self.max_candidates)
        pixel = np.stack(np.unravel_index(place[order], logit.shape), -1) * np.array(self.grid)
        return pixel, 1 / (1 + np.exp(-height[order].astype(np.float32)))

    def perfect(self, target: Target) -> jax.Array:
        """Logits of the probability, and the lengths as far as they are known; between the grid's pixels repeated."""
        probability = jnp.clip(target.value[..., :1], _SURE, 1 - _SURE)
        logits = jnp.log(probability) - jnp.log1p(-probability) - losses.logit(self.prior)
        answer = jnp.concatenate([logits, jnp.abs(target.value[..., 1:]) / self.radius - 1], -1)
        shape = target.weight.shape[-1 - self.axes : -1]
        for axis, (step, size) in enumerate(zip(self.grid, shape, strict=True), answer.ndim - 1 - self.axes):
            answer = jnp.repeat(answer, step, axis)
            answer = jax.lax.slice_in_dim(answer, 0, size, axis=axis)
        return answer


def _times_log(share: jax.Array) -> jax.Array:
    """p log p, 0 at 0."""
    return share * jnp.log(jnp.where(share > 0, share, 1.0))


def _exact(shapes: Shapes, size: np.ndarray, offset: np.ndarray, most: float) -> np.ndarray:
    del size, offset
    if not len(shapes.pixel):
        return np.zeros(0, np.int64)
    position, reach = shapes.pixel * shapes.spacing, shapes.lengths.max(1)
    return polyhedra.keep_first(position, reach, polyhedra.pixel_overlaps(shapes), most)


def _ball(shapes: Shapes, size: np.ndarray, offset: np.ndarray, most: float) -> np.ndarray:
    centre = shapes.pixel * shapes.spacing + offset
    reach = polyhedra.ball_radii(size, centre.shape[1])
    return polyhedra.keep_first(centre, reach, polyhedra.ball_overlaps(size, centre), most)


_OVERLAPS: dict[str, Callable[[Shapes, np.ndarray, np.ndarray, float], np.ndarray]] = {
    "exact": _exact,
    "ball": _ball,
}
