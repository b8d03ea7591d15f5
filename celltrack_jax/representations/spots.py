"""Points as a probability map: single voxels, dilated ones or balls, learned by losses of overlap or of regression.

What the kinetochore system trained (docs/originals.md, 2.2 to 2.6), its temporal losses in the form that they
were meant to have, and as published. Shapes: B batch, S spatial axes (Y, X) or (Z, Y, X), D of them, K points of a crop,
F frames. Channels: one logit per frame: of the sample's own, and of those around it.
"""

import functools
import itertools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from skimage import filters, segmentation

from celltrack_jax.config import from_mapping
from celltrack_jax.errors import InputError
from celltrack_jax.ops import gaussian
from celltrack_jax.ops.balls import draw_balls
from celltrack_jax.ops.labels import centroids
from celltrack_jax.ops.nearest_point import nearest_point
from celltrack_jax.ops.peaks import find_peaks
from celltrack_jax.representations import Found, Target, losses, overlap
from celltrack_jax.representations.overlap import Kernel
from celltrack_jax.representations.room import with_room

SHAPES = ("voxel", "dilated", "ball_voxels", "ball", "gaussian")
DECODERS = ("maxima", "segmentation")
TEMPORAL = ("none", "dice", "distribution")
_REACH = 3
"""Voxels that the smoothing before decoding reaches at most."""


def build(**kwargs) -> "Spots":
    """Makes the representation; all constants are given, see `Spots`."""
    return from_mapping(Spots, kwargs, "representation")


@dataclass(frozen=True)
class Spots:
    """A probability that a voxel belongs to a point. Lengths are in the unit of the spacing."""

    axes: int
    """D."""
    max_cells: int
    """K, upper bound on the points of a crop."""
    shape: str
    """What a point becomes: "voxel", the nearest; "dilated", all within `radius` steps through faces; "ball_voxels",
    within `radius` voxels, whatever their shape; "ball", within `radius`; "gaussian" of standard deviation `radius`."""
    radius: float
    loss_name: str
    """One of `overlap.NAMES`."""
    kernel: Any
    """`overlap.Kernel`, of "gaussian_dice"."""
    around: tuple[int, ...]
    """Other frames whose points are targets too, as offsets: (-1, 1); () for none."""
    temporal: str
    """What ties consecutive frames: "none"; "dice" of them; "distribution": and their means and deviations."""
    temporal_weight: float
    published_sign: bool
    """As published the temporal losses are 1 - (agreement with the truth + disagreement of frames), without weight: they
    reward that frames disagree."""
    decoder: str
    """"maxima": local maxima; "segmentation": maxima above Otsu's threshold, in balls that a watershed keeps apart."""
    threshold: float
    """Smoothed probability that a maximum must exceed; not of "segmentation"."""
    smoothing: float
    """Standard deviation of a Gaussian on the probability before its maxima are found: flat tops get one."""
    refine: str
    """Between voxels by "parabola", or by "centroid" of the probability in the 3^D voxels around."""
    min_distance: float
    """Of two maxima nearer than this the lower is dropped."""
    max_peaks: int
    marker_radius: float
    """Radius of the ball that stands for a point in a label map."""

    def __post_init__(self):
        if not isinstance(self.kernel, Kernel):
            object.__setattr__(self, "kernel", overlap.build_kernel(self.kernel, self.axes))
        object.__setattr__(self, "around", tuple(self.around))
        choices = {
            **{"shape": SHAPES, "loss_name": overlap.NAMES, "temporal": TEMPORAL},
            **{"decoder": DECODERS, "refine": ("parabola", "centroid")},
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise InputError(f"representation.{name} is {getattr(self, name)!r}: one of {known}")
        if self.shape == "dilated" and (self.radius < 1 or self.radius != int(self.radius)):
            raise InputError(
                f'representation.radius is {self.radius}: "dilated" takes a number of steps, 1 or more'
            )
        if self.shape != "voxel" and self.radius <= 0:
            raise InputError(
                f"representation.radius is {self.radius}: it must be positive for {self.shape!r}"
            )
        if self.temporal != "none" and not self.around:
            raise InputError(
                f"representation.temporal {self.temporal!r} ties frames: set representation.around, to (-1, 1) say"
            )
        if 0 in self.around:
            raise InputError(
                f"representation.around is {self.around}: 0 is the sample's own frame, leave it out"
            )

    @property
    def channels(self) -> int:
        """One per frame."""
        return 1 + len(self.around)

    @property
    def has_threshold(self) -> bool:
        """Whether the decoder has one."""
        return self.decoder == "maxima"

    @property
    def learns_steps(self) -> bool:
        """No."""
        return False

    @property
    def directed(self) -> bool:
        """No."""
        return False

    def target(self, labels: jax.Array, spacing: jax.Array) -> Target:
        """The target of the cells' centroids."""
        centres = centroids(labels, self.max_cells)[1:]
        return self.point_target(centres, jnp.full_like(centres, jnp.nan), labels, spacing)

    def point_target(
        self,
        points: jax.Array,
        steps: jax.Array,
        known: jax.Array,
        spacing: jax.Array,
        around: jax.Array | None = None,
    ) -> Target:
        """Draws the points.

        Args:
          points: as of `PointRepresentation`.
          steps: not used.
          known: (*S).
          spacing: (D,).
          around: (F - 1, K, D) points of the frames around.
        """
        del steps
        frames = [points] if around is None else [points, *around]
        if len(frames) != self.channels:
            raise ValueError(f"the points of {self.channels} frames are drawn, not of {len(frames)}")
        drawn = [self._drawn(each, known.shape, spacing) for each in frames]
        return Target(jnp.stack(drawn, -1), losses.known_weight(known))

    def _drawn(self, points: jax.Array, shape: tuple[int, ...], spacing: jax.Array) -> jax.Array:
        """(*S) float32 in [0, 1]."""
        voxels = jnp.ones(self.axes)
        if self.shape == "gaussian":
            return jnp.exp(-0.5 * nearest_point(points, shape, spacing).square / self.radius**2)
        # What lies outside grows into the crop too.
        grow = int(self.radius) if self.shape == "dilated" else 0
        shape = tuple(size + 2 * grow for size in shape)
        # A ball smaller than a voxel has its nearest one.
        nearest = nearest_point(jnp.round(points) + grow, shape, voxels).square
        drawn = nearest <= (self.radius**2 if self.shape == "ball_voxels" else 0.5)
        if self.shape == "ball":
            drawn |= nearest_point(points, shape, spacing).square <= self.radius**2
        drawn = drawn.astype(jnp.float32)
        for _ in range(grow):
            drawn = _dilated(drawn)
        return drawn[tuple(slice(grow, size - grow) for size in drawn.shape)]

    def loss(
        self, prediction: jax.Array, target: Target, step: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The loss that `loss_name` names, and what ties frames; "dice" is always told, for comparison."""
        value = overlap.loss(self.loss_name, prediction, target.value, target.weight, self.kernel, step)
        known = (target.weight > 0).astype(jnp.float32)
        p = overlap.channels_first(jax.nn.sigmoid(losses.known(prediction, target.weight)) * known)
        g = overlap.channels_first(target.value * known)
        metrics = {self.loss_name: value, "dice": 1 - overlap.dice(p, g)}
        if self.temporal == "none":
            return value, metrics
        apart = self._apart(p, step)
        metrics["apart"] = apart
        if self.published_sign:
            return 1 - jnp.mean((1 - value) + apart), metrics
        return value + self.temporal_weight * apart, metrics

    def _apart(self, p: jax.Array, step: jax.Array) -> jax.Array:
        """How much consecutive frames (B, F, *S) disagree, smoothed so that motion between them costs little."""
        order = sorted(range(self.channels), key=lambda k: (0, *self.around)[k])
        maps = p if self.published_sign else self.kernel.smooth(p, step)
        total = jnp.zeros(())
        for before, after in itertools.pairwise(order):
            total += 1 - overlap.agreement(maps[:, before], maps[:, after])
            if self.temporal == "distribution":
                total += overlap.distribution_gap(maps[:, before], maps[:, after])
        return total

    def points(self, prediction: np.ndarray, spacing: np.ndarray) -> Found:
        """Reads points from the raw output (*S, C) float32 of one frame; thread-safe."""
        lengths = jnp.asarray(spacing, jnp.float32)
        smooth = _smooth(jnp.asarray(prediction[..., 0]), lengths, self.smoothing)
        threshold = self.threshold
        if self.decoder == "segmentation":
            flat = np.asarray(smooth)
            threshold = float(filters.threshold_otsu(flat)) if np.ptp(flat) > 0 else np.inf
        find = functools.partial(
            _peaks, smooth, lengths, threshold=threshold, min_distance=self.min_distance, refine=self.refine
        )
        position, heat, valid = with_room(lambda count: find(count=count), self.max_peaks)
        return Found(position[valid], heat[valid], None)

    def read(self, prediction: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, Found]:
        """A ball for each point; "segmentation" divides them by a watershed of the probability."""
        found = self.points(prediction, spacing)
        balls = draw_balls(found.position, prediction.shape[:-1], np.asarray(spacing), self.marker_radius)
        if self.decoder == "maxima":
            return balls, found
        seeds = draw_balls(found.position, prediction.shape[:-1], np.asarray(spacing), 0.0)
        divided = segmentation.watershed(-prediction[..., 0], seeds, mask=balls > 0)
        return divided.astype(np.int32), found

    def decode(self, prediction: np.ndarray, spacing: np.ndarray) -> np.ndarray:
        """The label map alone."""
        return self.read(prediction, spacing)[0]

    def perfect(self, target: Target) -> jax.Array:
        """Logits beyond doubt, or of the Gaussian."""
        if self.shape != "gaussian":
            return losses.saturated(target.value)
        p = jnp.clip(target.value, 1e-4, 1 - 1e-4)
        return jnp.log(p) - jnp.log1p(-p)


def _dilated(drawn: jax.Array) -> jax.Array:
    """Grows (*S) through faces by one voxel."""
    grown = drawn
    for axis, size in enumerate(drawn.shape):
        pads = [(int(axis == k), int(axis == k)) for k in range(drawn.ndim)]
        padded = jnp.pad(drawn, pads)
        for first in (0, 2):
            grown = jnp.maximum(grown, jax.lax.slice_in_dim(padded, first, first + size, axis=axis))
    return grown


_peaks = jax.jit(find_peaks, static_argnames=("count", "refine"))


@jax.jit
def _smooth(logits: jax.Array, spacing: jax.Array, smoothing: jax.Array) -> jax.Array:
    """The smoothed probability (*S)."""
    return gaussian.blur(jax.nn.sigmoid(logits), list(smoothing / spacing), (_REACH,) * logits.ndim)
