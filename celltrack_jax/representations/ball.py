"""Cells as balls, or ellipsoids along the axes: their centres, and their radii there.

A star-convex shape (Weigert et al., WACV 2020) of one radius per axis: for cells so small, or so round, that more rays
say nothing, and whose overlap has a closed form.

Shapes: B batch, S spatial axes (Y, X) or (Z, Y, X), D of them, K points of a crop. Channels: the logit of the centre's
heat; D components of the way from the pixel to the centre, in the unit of the spacing; and the logarithm of each radius
over `radius`, one for balls, D for ellipsoids.
"""

import dataclasses
import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from celltrack_jax.config import from_mapping
from celltrack_jax.errors import InputError
from celltrack_jax.ops import ellipsoids
from celltrack_jax.ops.balls import draw_ellipsoids
from celltrack_jax.ops.labels import centroids, sizes, variances
from celltrack_jax.ops.peaks import find_peaks, keep_first
from celltrack_jax.representations import Found, Target, losses, sources
from celltrack_jax.representations.room import with_room

HEAT, SHARE, FIRST = 0, 1, 2
"""Channels of the target: heat, weight of the regressions' loss, and the offset's first component."""
_LARGEST = 3.0
"""Logarithm of a radius, up or down, that is read: beyond it a network says nothing of use."""


def build(**kwargs) -> "Ball":
    """Makes the representation; all constants are given, see `Ball`."""
    return from_mapping(Ball, kwargs, "representation")


@dataclass(frozen=True)
class Ball:
    """Centres and radii. Lengths are in the unit of the spacing."""

    axes: int
    """D."""
    form: str
    """"ball": one radius, that of the ball of the cell's volume; "ellipsoid": a semi-axis along each axis, as the second
    moments of the cell say, all scaled to the cell's volume."""
    radius: float
    """Of a cell that is a point, and what a raw output of 0 means."""
    core: float
    """How far from a centre the pixels lie that learn offset and radii; at least the one that holds it does."""
    sigma: float
    """Standard deviation of the Gaussian at each centre's pixel, whose height is 1."""
    max_cells: int
    """K, upper bound on the cells in a crop; in label maps on the dense ids."""
    focal_alpha: float
    focal_beta: float
    """Exponents of the focal loss: of the error, and of the relief around a centre."""
    prior: float
    """Heat that a raw output of 0 means: what most pixels are, from the first step on."""
    offset_weight: float
    radius_weight: float
    """Factors of the L1 losses, of the offsets over `radius` and of the logarithms of the radii."""
    threshold: float
    """Heat that a point must exceed."""
    min_distance: float
    """Of two peaks of the heat nearer than this the lower is dropped."""
    max_overlap: float
    """Of two cells of which more than this share of the smaller one overlaps the lower is dropped."""
    max_peaks: int
    """Most points of a frame."""

    def __post_init__(self):
        if self.form not in ("ball", "ellipsoid"):
            raise InputError(f'representation.form is {self.form!r}: "ball" or "ellipsoid"')
        for name in ("radius", "core", "sigma"):
            if getattr(self, name) <= 0:
                raise InputError(f"representation.{name} is {getattr(self, name)}: it must be positive")
        if not 0 < self.prior < 1:
            raise InputError(f"representation.prior is {self.prior}: it lies in (0, 1)")

    @property
    def channels(self) -> int:
        """Heat, offset, radii."""
        return 1 + self.axes + self._radii

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

    @property
    def _radii(self) -> int:
        return 1 if self.form == "ball" else self.axes

    def target(self, labels: jax.Array, spacing: jax.Array) -> Target:
        """The target of the cells' centroids and sizes; unknown where labels are -1. A cell that the crop's border cuts
        is as large as what is left of it."""
        centres = centroids(labels, self.max_cells)
        voxels = sizes(labels, self.max_cells)[1:] * jnp.prod(spacing)
        ball = ellipsoids.ball_radius(voxels, self.axes)[:, None]
        if self.form == "ball":
            return self._target(centres[1:], ball, labels, spacing)
        # Of a full ellipsoid, whose variance is its semi-axis squared over D + 2.
        radii = jnp.sqrt((self.axes + 2) * variances(labels, centres)[1:]) * spacing
        radii *= ball / ellipsoids.ball_radius(ellipsoids.volume(radii), self.axes)[:, None]
        return self._target(centres[1:], radii, labels, spacing)

    def point_target(
        self, points: jax.Array, steps: jax.Array, known: jax.Array, spacing: jax.Array
    ) -> Target:
        """Makes the target of one sample's points, which all have the same radius; traced into the training step.

        Args:
          points: (K, D) float32 index, also outside of the map; NaN for none.
          steps: not used.
          known: (*S) int32, -1 where the truth is unknown.
          spacing: (D,) float32.

        Returns:
          Channels: heat in 0..1; 1 over the number of pixels that are near the own centre, 0 elsewhere; D offsets; the
          logarithms of the radii over `radius`.
        """
        del steps
        radii = jnp.full((len(points), self._radii), self.radius)
        return self._target(points, radii, known, spacing)

    def _target(self, centres: jax.Array, radii: jax.Array, known: jax.Array, spacing: jax.Array) -> Target:
        near = sources.of_points(centres, known, spacing, self.core)
        inside = near.inside > 0
        own = radii.at[jnp.maximum(near.row, 0)].get()
        levels = jnp.where(inside, jnp.log(jnp.where(inside, own, self.radius) / self.radius), 0.0)
        heat = sources.heat(centres, known.shape, spacing, self.sigma)
        return Target(
            jnp.concatenate([heat, near.share, near.offset, levels], -1), losses.known_weight(known)
        )

    def loss(
        self, prediction: jax.Array, target: Target, step: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The focal loss of the heat, and L1 of offsets and radii near the centres, where every cell counts alike."""
        del step
        prediction = losses.known(prediction, target.weight)
        heat, share = target.value[..., :1], target.value[..., SHARE:FIRST]
        logits = prediction[..., :1] + losses.logit(self.prior)
        focal = losses.focal(logits, heat, target.weight, self.focal_alpha, self.focal_beta)
        error = jnp.abs(prediction[..., 1:] - target.value[..., FIRST:])
        offset, radii = (
            losses.weighted_mean(part, target.weight * share)
            for part in (error[..., : self.axes] / self.radius, error[..., self.axes :])
        )
        total = focal + self.offset_weight * offset + self.radius_weight * radii
        return total, {"focal": focal, "offset": offset, "radius": radii}

    def points(self, prediction: np.ndarray, spacing: np.ndarray) -> Found:
        """Reads points from the raw output (*S, C) float32 of one frame; thread-safe.

        Args:
          prediction: of the frame.
          spacing: (D,).
        """
        return self._found(prediction, spacing)[0]

    def read(self, prediction: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, Found]:
        """Ellipsoids; where they meet, each pixel goes to the one it lies deepest in."""
        found, radii = self._found(prediction, spacing)
        return draw_ellipsoids(found.position, radii, prediction.shape[:-1], np.asarray(spacing)), found

    def decode(self, prediction: np.ndarray, spacing: np.ndarray) -> np.ndarray:
        """The ellipsoids alone."""
        return self.read(prediction, spacing)[0]

    def perfect(self, target: Target) -> jax.Array:
        """Logits of the heat, offsets and radii."""
        logits = losses.heat_logits(target.value[..., :1]) - losses.logit(self.prior)
        return jnp.concatenate([logits, target.value[..., FIRST:]], -1)

    def _found(self, prediction: np.ndarray, spacing: np.ndarray) -> tuple[Found, np.ndarray]:
        """Points, and their semi-axes (N, D)."""
        image, lengths = jnp.asarray(prediction), jnp.asarray(spacing, jnp.float32)

        def find(count: int) -> tuple:
            settings = dataclasses.replace(
                self, threshold=0.0, max_peaks=count
            )  # one program for all thresholds
            return _ellipsoids(image, lengths, self.threshold, settings)

        position, heat, radii, valid = with_room(find, self.max_peaks)
        return Found(position[valid], heat[valid], None), radii[valid]


@functools.partial(jax.jit, static_argnames="settings")
def _ellipsoids(
    prediction: jax.Array, spacing: jax.Array, threshold: jax.Array, settings: Ball
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """Position (K, D), heat (K,), semi-axes (K, D), which of the K are cells, and whether K was too few."""
    heat = jax.nn.sigmoid(prediction[..., HEAT] + losses.logit(settings.prior))
    peaks = find_peaks(
        heat,
        spacing,
        count=settings.max_peaks,
        threshold=threshold,
        min_distance=settings.min_distance,
    )
    pixel = jnp.clip(jnp.round(peaks.position).astype(jnp.int32), 0, jnp.array(heat.shape) - 1)
    beside = prediction[tuple(pixel.T)][:, 1:]
    # No farther than where offsets are learned.
    reach = jnp.maximum(settings.core, 0.5 * spacing)
    position = pixel + jnp.clip(beside[:, : settings.axes], -reach, reach) / spacing
    level = jnp.clip(beside[:, settings.axes :], -_LARGEST, _LARGEST)
    radii = jnp.broadcast_to(settings.radius * jnp.exp(level), position.shape)
    rivals = ellipsoids.overlap(position * spacing, radii) > settings.max_overlap
    return position, peaks.score, radii, keep_first(rivals, peaks.valid), peaks.full
