"""The distance to the nearest point, with the way to it or a segmentation beside it where wanted.

The kinetochore system's distance-transform regression and its two-headed network (docs/originals.md, 2.7 and 2.3 d),
each as published and in a form that can work. Shapes: B batch, S spatial axes (Y, X) or (Z, Y, X), D of them, K
points of a crop, F frames. Channels: of each frame the distance, then D components of the way to the point if `vectors`;
last, if `segment` is not 0, the logit of a ball around each point of the sample's own frame.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage
from skimage import filters

from celltrack_jax.config import from_mapping
from celltrack_jax.errors import InputError
from celltrack_jax.ops.balls import draw_balls
from celltrack_jax.ops.labels import centroids
from celltrack_jax.ops.nearest_point import nearest_point
from celltrack_jax.ops.peaks import find_peaks
from celltrack_jax.representations import Found, Target, losses, overlap
from celltrack_jax.representations.overlap import Kernel
from celltrack_jax.representations.room import with_room

FORMS = ("minmax", "truncated", "exponential")


def build(**kwargs) -> "PointDistance":
    """Makes the representation; all constants are given, see `PointDistance`."""
    return from_mapping(PointDistance, kwargs, "representation")


@dataclass(frozen=True)
class PointDistance:
    """A map of distances. Lengths are in the unit of the spacing."""

    axes: int
    """D."""
    max_cells: int
    """K, upper bound on the points of a crop."""
    form: str
    """"minmax", as published: the distance in voxels, whatever their shape, over the largest of the crop, 0 at points;
    "truncated": 1 - distance / reach, at least 0; "exponential": exp(-(distance / reach)^2)."""
    reach: float
    vectors: bool
    """Whether the way to the point is told too, in units of `reach` and within it."""
    around: tuple[int, ...]
    """Other frames whose points are targets too, as offsets."""
    loss_name: str
    """Of the distance: "mse" or "smooth_l1"."""
    segment: float
    """Factor of the loss of the segmentation, "gaussian_dice"; 0 for none."""
    segment_radius: float
    kernel: Any
    """`overlap.Kernel` of that loss."""
    published_sign: bool
    """As published the two heads minimise the Dice coefficient of the logits: they reward that nothing overlaps."""
    threshold: float
    """Least height of a maximum; "minmax" takes Otsu's threshold."""
    smoothing: float
    """Standard deviation of a Gaussian on the map before its maxima are found."""
    min_distance: float
    """Of two maxima nearer than this the lower is dropped."""
    max_peaks: int
    marker_radius: float
    """Radius of the ball that stands for a point in a label map."""

    def __post_init__(self):
        if not isinstance(self.kernel, Kernel):
            object.__setattr__(self, "kernel", overlap.build_kernel(self.kernel, self.axes))
        object.__setattr__(self, "around", tuple(self.around))
        for name, known in {"form": FORMS, "loss_name": ("mse", "smooth_l1")}.items():
            if getattr(self, name) not in known:
                raise InputError(f"representation.{name} is {getattr(self, name)!r}: one of {known}")
        if self.reach <= 0:
            raise InputError(f"representation.reach is {self.reach}: a positive length")
        if self.published_sign and not self.segment:
            raise InputError(
                "representation.published_sign is that of the segmentation: set representation.segment"
            )

    @property
    def channels(self) -> int:
        """Of all frames, and of the segmentation."""
        return (1 + len(self.around)) * self._each + (self.segment > 0)

    @property
    def _each(self) -> int:
        """Channels of a frame."""
        return 1 + self.axes * self.vectors

    @property
    def has_threshold(self) -> bool:
        """Whether it is not Otsu's."""
        return self.form != "minmax"

    @property
    def learns_steps(self) -> bool:
        """No."""
        return False

    @property
    def directed(self) -> bool:
        """Whether there are vectors."""
        return self.vectors

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
        """Measures; as of `spots.Spots.point_target`."""
        del steps
        frames = [points] if around is None else [points, *around]
        maps = [channel for each in frames for channel in self._measured(each, known.shape, spacing)]
        if self.segment:
            square = nearest_point(points, known.shape, spacing).square
            maps.append((square <= self.segment_radius**2).astype(jnp.float32)[..., None])
        return Target(jnp.concatenate(maps, -1), losses.known_weight(known))

    def _measured(self, points: jax.Array, shape: tuple[int, ...], spacing: jax.Array) -> list[jax.Array]:
        """(*S, 1) distance and, where wanted, (*S, D) ways."""
        if self.form == "minmax":
            # As published a source is the voxel that holds the point.
            nearest = nearest_point(jnp.round(points), shape, jnp.ones(self.axes))
            # Without a point everything is as far as can be.
            distance = jnp.sqrt(jnp.where(jnp.isfinite(nearest.square), nearest.square, 1.0))
            value = distance / jnp.maximum(distance.max(), 1e-6)
        else:
            nearest = nearest_point(points, shape, spacing)
            distance = jnp.sqrt(nearest.square) / self.reach
            value = jnp.maximum(1 - distance, 0) if self.form == "truncated" else jnp.exp(-(distance**2))
        if not self.vectors:
            return [value[..., None]]
        way = nearest_point(points, shape, spacing)
        near = (way.square <= self.reach**2)[..., None]
        return [value[..., None], jnp.where(near, way.offset / self.reach, 0.0)]

    def loss(
        self, prediction: jax.Array, target: Target, step: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The regression's, and the segmentation's."""
        maps = prediction.shape[-1] - (self.segment > 0)
        off = losses.known(prediction[..., :maps], target.weight) - target.value[..., :maps]
        each = jnp.square(off) if self.loss_name == "mse" else losses.smooth_l1(off, 1.0)
        value = losses.weighted_mean(each, target.weight)
        metrics = {"distance": value}
        if not self.segment:
            return value, metrics
        logits, truth = prediction[..., maps:], target.value[..., maps:]
        if self.published_sign:
            weight = (target.weight > 0).astype(jnp.float32)
            p, g = (overlap.channels_first(each * weight) for each in (losses.known(logits, weight), truth))
            metrics["segmentation"] = overlap.dice(self.kernel.smooth(p, step), self.kernel.smooth(g, step))
        else:
            metrics["segmentation"] = overlap.loss(
                "gaussian_dice", logits, truth, target.weight, self.kernel, step
            )
        return value + self.segment * metrics["segmentation"], metrics

    def points(self, prediction: np.ndarray, spacing: np.ndarray) -> Found:
        """Reads the maxima of the map, which "minmax" turns upside down; thread-safe."""
        height = np.asarray(prediction[..., 0], np.float32)
        sigma = self.smoothing / np.asarray(spacing, np.float64)
        height = ndimage.gaussian_filter(-height if self.form == "minmax" else height, sigma)
        threshold = self.threshold
        if self.form == "minmax":
            threshold = float(filters.threshold_otsu(height)) if np.ptp(height) > 0 else np.inf
        settings = {"threshold": threshold, "min_distance": self.min_distance}
        lengths = jnp.asarray(spacing, jnp.float32)
        find = functools.partial(_peaks, height, lengths, **settings)
        position, heat, valid = with_room(lambda count: find(count=count), self.max_peaks)
        heat = np.where(valid, heat + (1.0 if self.form == "minmax" else 0.0), 0.0)
        return Found(position[valid], heat[valid].astype(np.float32), None)

    def read(self, prediction: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, Found]:
        """A ball for each point; where balls meet, each voxel goes to the nearest point."""
        found = self.points(prediction, spacing)
        return draw_balls(
            found.position, prediction.shape[:-1], np.asarray(spacing), self.marker_radius
        ), found

    def decode(self, prediction: np.ndarray, spacing: np.ndarray) -> np.ndarray:
        """The balls alone."""
        return self.read(prediction, spacing)[0]

    def perfect(self, target: Target) -> jax.Array:
        """The maps themselves, and a logit beyond doubt."""
        if not self.segment:
            return target.value
        return jnp.concatenate([target.value[..., :-1], losses.saturated(target.value[..., -1:])], -1)


_peaks = jax.jit(find_peaks, static_argnames=("count",))
