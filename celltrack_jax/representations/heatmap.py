"""Cells as points: a Gaussian at each cell's centre, and where wanted what lies between pixels and frames.

Shapes: B batch, S spatial axes (Y, X) or (Z, Y, X), D of them, K points of a crop, N points of a frame. Channels: the
heat, or its logit where the loss is "focal" (Law and Deng, CornerNet, ECCV 2018; Zhou et al., Objects as Points, 2019);
D offsets from a centre's pixel to the centre, in pixels, if `offset_weight` is not 0; and D components of a cell's step
to the next frame, in the unit of the spacing, if `step_weight` is not 0.
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from celltrack_jax.config import from_mapping
from celltrack_jax.errors import InputError
from celltrack_jax.ops.balls import draw_balls
from celltrack_jax.ops.blobs import find_blobs
from celltrack_jax.ops.labels import centroids
from celltrack_jax.ops.peaks import Peaks, find_peaks
from celltrack_jax.ops.windowed_peaks import find_windowed_peaks
from celltrack_jax.representations import Found, Target, losses
from celltrack_jax.representations.room import with_room

_LOSSES = ("mse", "l1", "weighted_mse", "focal")


def build(**kwargs) -> "Heatmap":
    """Makes the representation; all constants are given, see `Heatmap`."""
    return from_mapping(Heatmap, kwargs, "representation")


@dataclass(frozen=True)
class Heatmap:
    """Gaussians at the centroids. Lengths are in the unit of the spacing."""

    axes: int
    """D."""
    sigma: float
    """Standard deviation of each Gaussian, whose height is 1."""
    compose: str
    """"max" or "sum" where Gaussians overlap."""
    max_cells: int
    """K, upper bound on the cells in a crop; in label maps on the dense ids."""
    loss_name: str
    """"mse"; "l1"; "weighted_mse", which counts a pixel 1 + peak_weight * heat times; or "focal"."""
    peak_weight: float
    focal_alpha: float
    focal_beta: float
    """Exponents of the focal loss: of the error, and of the relief around a centre."""
    focal_prior: float
    """Heat that a raw output of 0 means under the focal loss: what most pixels are, from the first step on."""
    offset_weight: float
    step_weight: float
    """Factors of the L1 losses of offsets and steps; with 0 the network has no such channels."""
    decoder: str
    """"maxima": local maxima; "log": blobs of the Laplacian of Gaussian over scales; "windowed": the original's, a
    maximum filter and peaks of it that lie far apart."""
    threshold: float
    """Heat, or for "log" scale-normalised response, that a point must exceed; "windowed" has none."""
    min_distance: float
    """"maxima": of two peaks nearer than this the lower is dropped."""
    log_sigma: float
    log_scales: int
    log_overlap: float
    """"log": largest standard deviation and number of scales from 1 pixel on; share of a disc that may be covered."""
    window_size: int
    window_distance: int
    """"windowed": pixels of the filter, and least distance of peaks."""
    max_peaks: int
    """Most points of a frame."""
    marker_radius: float
    """Radius of the ball that stands for a point in a label map."""

    def __post_init__(self):
        choices = {"compose": ("max", "sum"), "loss_name": _LOSSES, "decoder": tuple(_DECODERS)}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise InputError(f"representation.{name} is {getattr(self, name)!r}: one of {known}")
        if self.loss_name == "focal" and self.compose != "max":
            raise InputError(
                'representation.loss_name "focal" needs compose "max": only a centre may reach 1'
            )
        if self.sigma <= 0 or not 0 < self.focal_prior < 1:
            raise InputError(
                f"representation.sigma {self.sigma} is positive, focal_prior {self.focal_prior} in (0, 1)"
            )
        if self.decoder == "windowed" and self.axes != 2:
            raise InputError('representation.decoder "windowed" is for 2D: take "maxima"')

    @property
    def channels(self) -> int:
        """The heat, and what is learned beside it."""
        return 1 + self.axes * len(self._beside())

    @property
    def has_threshold(self) -> bool:
        """Whether the decoder has one."""
        return self.decoder != "windowed"

    @property
    def learns_steps(self) -> bool:
        """Whether points come with their step to the next frame."""
        return self.step_weight > 0

    @property
    def directed(self) -> bool:
        """Whether there are offsets or steps."""
        return self.channels > 1

    def target(self, labels: jax.Array, spacing: jax.Array) -> Target:
        """The target of the cells' centroids, whose steps are unknown; unknown where labels are -1."""
        centres = centroids(labels, self.max_cells)[1:]
        return self.point_target(centres, jnp.full_like(centres, jnp.nan), labels, spacing)

    def point_target(
        self, points: jax.Array, steps: jax.Array, known: jax.Array, spacing: jax.Array
    ) -> Target:
        """Makes the target of one sample's points; traced into the training step.

        Args:
          points: (K, D) float32 index, also outside of the map; NaN for none.
          steps: (K, D) float32 pixels to the place in the next frame, NaN where unknown.
          known: (*S) int32, -1 where the truth is unknown.
          spacing: (D,) float32.

        Returns:
          Channels: heat in 0..1 (more where composed Gaussians add up); 1 at a centre's pixel, and its offset; heat of
          the nearest cell where its step is known, and that step. For the focal loss the Gaussians sit on pixels, as
          it needs pixels that are centres.
        """
        pixel = jnp.round(points)
        centres = pixel if self.loss_name == "focal" else points
        # From heat 1 down to the square root of float32's smallest; cells without a pixel are NaN.
        centres = jnp.where(jnp.isnan(centres), -1e4, centres)
        profiles = [
            jnp.exp(
                -0.5 * jnp.square((jnp.arange(size) - centres[:, axis, None]) * spacing[axis] / self.sigma)
            )
            for axis, size in enumerate(known.shape)
        ]
        combine = jnp.max if self.compose == "max" else jnp.sum
        channels = [combine(_products(profiles), 0)[..., None]]
        if self.offset_weight:
            channels += [_at_pixels(pixel, points - pixel, known.shape)]
        if self.step_weight:
            products = _products(profiles)
            step = (steps * spacing)[products.argmax(0)]
            there = jnp.isfinite(step).all(-1, keepdims=True)
            channels += [
                jnp.where(there, products.max(0)[..., None], 0.0),
                jnp.where(there, step, 0.0),
            ]
        return Target(jnp.concatenate(channels, -1), losses.known_weight(known))

    def loss(
        self, prediction: jax.Array, target: Target, step: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The loss that `loss_name` names, and those of offsets and steps."""
        del step
        prediction = losses.known(prediction, target.weight)
        heat, truth = prediction[..., :1], target.value[..., :1]
        if self.loss_name == "focal":
            value = losses.focal(self._logits(heat), truth, target.weight, self.focal_alpha, self.focal_beta)
        else:
            error = jnp.abs(heat - truth) if self.loss_name == "l1" else jnp.square(heat - truth)
            factor = 1.0 + self.peak_weight * truth if self.loss_name == "weighted_mse" else 1.0
            value = losses.weighted_mean(factor * error, target.weight)
        metrics = {self.loss_name: value}
        for k, (name, weight) in enumerate(self._beside()):
            first = 1 + k * (1 + self.axes)
            near = target.value[..., first : first + 1]
            wanted = target.value[..., first + 1 : first + 1 + self.axes]
            given = prediction[..., 1 + k * self.axes : 1 + (k + 1) * self.axes]
            metrics[name] = losses.weighted_mean(jnp.abs(given - wanted), target.weight * near)
            value = value + weight * metrics[name]
        return value, metrics

    def _beside(self) -> list[tuple[str, float]]:
        """What is learned beside the heat, in the order of its channels, and the factor of its loss."""
        every = (("offset", self.offset_weight), ("step", self.step_weight))
        return [(name, weight) for name, weight in every if weight]

    def _logits(self, raw: jax.Array) -> jax.Array:
        return raw + losses.logit(self.focal_prior)

    def points(self, prediction: np.ndarray, spacing: np.ndarray) -> Found:
        """Reads points from the raw output (*S, C) float32 of one frame; thread-safe.

        Args:
          prediction: of the frame.
          spacing: (D,).
        """
        image, lengths = jnp.asarray(prediction), jnp.asarray(spacing, jnp.float32)

        def find(count: int) -> tuple:
            # One program for all arms that decode alike.
            settings = dataclasses.replace(self, **_NOT_READ, max_peaks=count)
            return _points(image, lengths, self.threshold, settings)

        position, heat, step, valid = with_room(find, self.max_peaks)
        return Found(position[valid], heat[valid], None if step is None else step[valid])

    def read(self, prediction: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, Found]:
        """A ball for each point; where balls meet, each pixel goes to the nearest point."""
        found = self.points(prediction, spacing)
        labels = draw_balls(found.position, prediction.shape[:-1], np.asarray(spacing), self.marker_radius)
        return labels, found

    def decode(self, prediction: np.ndarray, spacing: np.ndarray) -> np.ndarray:
        """The balls alone."""
        return self.read(prediction, spacing)[0]

    def perfect(self, target: Target) -> jax.Array:
        """The heat, or its logit; offsets and steps."""
        heat, *rest = jnp.split(target.value, [1], -1)
        if self.loss_name == "focal":
            heat = losses.heat_logits(heat) - losses.logit(self.focal_prior)
        # Behind each weight come its D components.
        kept = [k for k in range(target.value.shape[-1] - 1) if k % (1 + self.axes)]
        return jnp.concatenate([heat, rest[0][..., kept]], -1) if kept else heat


def _products(profiles: list[jax.Array]) -> jax.Array:
    """Outer products (K, *S) of the rows of (K, size) profiles, one per axis; fused into what reduces them over K."""
    ndim = len(profiles)
    shaped = [
        jnp.expand_dims(rows, [1 + axis for axis in range(ndim) if axis != own])
        for own, rows in enumerate(profiles)
    ]
    return functools.reduce(jnp.multiply, shaped)


def _at_pixels(pixel: jax.Array, values: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Writes (K, D) values, and a 1 before them, to pixels (K, D): (*S, 1 + D) float32, 0 elsewhere."""
    size = jnp.array(shape)
    # Of centres that share a pixel the first one counts: what a scatter leaves of several rows is not defined.
    second = jnp.tril((pixel[:, None] == pixel).all(-1), -1).any(1)
    there = jnp.isfinite(pixel).all(-1) & (pixel >= 0).all(-1) & (pixel < size).all(-1) & ~second
    index = jnp.where(there[:, None], pixel, 0).astype(jnp.int32)
    rows = jnp.concatenate([jnp.ones((len(values), 1)), values], -1)
    # Scatters drop what lies behind the map.
    index = index.at[:, 0].set(jnp.where(there, index[:, 0], shape[0]))
    return jnp.zeros((*shape, rows.shape[1])).at[tuple(index.T)].set(jnp.nan_to_num(rows), mode="drop")


def _maxima(heat: jax.Array, spacing: jax.Array, threshold: jax.Array, settings: Heatmap) -> Peaks:
    return find_peaks(
        heat,
        spacing,
        count=settings.max_peaks,
        threshold=threshold,
        min_distance=settings.min_distance,
    )


def _blobs(heat: jax.Array, spacing: jax.Array, threshold: jax.Array, settings: Heatmap) -> Peaks:
    del spacing
    found = find_blobs(
        heat,
        max_sigma=settings.log_sigma,
        num_sigma=settings.log_scales,
        threshold=threshold,
        overlap=settings.log_overlap,
        count=settings.max_peaks,
    )
    return Peaks(found.position, found.score, found.valid, found.full)


def _windowed(heat: jax.Array, spacing: jax.Array, threshold: jax.Array, settings: Heatmap) -> Peaks:
    del spacing, threshold
    return find_windowed_peaks(
        heat,
        filter_size=settings.window_size,
        min_distance=settings.window_distance,
        count=settings.max_peaks,
    )


_DECODERS: dict[str, Callable[[jax.Array, jax.Array, jax.Array, Heatmap], Peaks]] = {
    "maxima": _maxima,
    "log": _blobs,
    "windowed": _windowed,
}
_NOT_READ = {
    **{"sigma": 1.0, "max_cells": 0, "peak_weight": 0.0, "threshold": 0.0, "marker_radius": 0.0},
    "compose": "max",
}
"""Settings that reading points does not depend on, or is told of."""


@functools.partial(jax.jit, static_argnames="settings")
def _points(
    prediction: jax.Array, spacing: jax.Array, threshold: jax.Array, settings: Heatmap
) -> tuple[jax.Array, jax.Array, jax.Array | None, jax.Array, jax.Array]:
    """Position (K, D), heat (K,), step (K, D) or None, which of the K are points, and whether K was too few."""
    heat = prediction[..., 0]
    if settings.loss_name == "focal":
        heat = jax.nn.sigmoid(settings._logits(heat))
    found = _DECODERS[settings.decoder](heat, spacing, threshold, settings)
    size = jnp.array(heat.shape) - 1
    pixel = jnp.clip(jnp.round(found.position).astype(jnp.int32), 0, size)
    beside = prediction[tuple(pixel.T)]
    position, step = found.position, None
    if settings.offset_weight and settings.decoder == "maxima":
        position = pixel + jnp.clip(beside[:, 1 : 1 + settings.axes], -1, 1)
    if settings.step_weight:
        step = beside[:, -settings.axes :]
    return position, found.score, step, found.valid, found.full
