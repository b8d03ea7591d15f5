"""Random geometry and light for one crop, inside the compiled training step.

The order is that of the microscope: geometry, then the object's brightness curve (gamma), the optics (blur),
the exposure (contrast), the camera (noise), and last what normalisation makes of the result (renormalise,
brightness).

Shapes: S the crop (Y, X) or (Z, Y, X), R the larger size that was read, C channels. Intensities are
normalised: 0 and 1 are the 1st and 99.8th percentile of the frame. Rotation, zoom, shear, elastic deformation
and blur act in the y-x plane, whose pixels are square; z is only mirrored, because its spacing differs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import jax
import jax.numpy as jnp

from celltrack_jax.errors import InputError
from celltrack_jax.ops import gaussian, warp

_ROUNDS = 8
"""Of the fixed point that inverts a bend: each leaves at most a third of the error at the default's steepest bends."""
UNKNOWN = -1
"""Label of what lies outside the image."""
BACKGROUND_QUANTILE = 0.25
"""The background level of a crop: background also where cells cover two thirds of it, unlike the median."""
PERCENTILE_SPREAD = (2.33, 2.88)
"""The 1st and 99.8th percentile of Gaussian noise, in standard deviations from its mean."""
_DRAWS = (
    *("mirror_0", "mirror_1", "mirror_2", "turned", "turn", "deformed", "angle", "zoom", "shear", "bent"),
    *("gamma", "blur", "contrast", "noise", "shot_noise", "renormalised", "brightness", "brightness_gain"),
)
"""Rows of the sample's uniform numbers; a kind that is off leaves the other rows as they are."""
_SAMPLE = 4096
"""Pixels, at most, that a crop's quantile is taken of: a sort of all would cost more than the whole warp."""


@dataclass(frozen=True)
class AugmentSpec:
    """Strength and probability of each kind. A kind with strength 0 or probability 0 is not even compiled."""

    flip_probability: float
    """Of mirroring, for each axis on its own."""
    rot90_probability: float
    """Of a turn by a multiple of 90 degrees (0 included) in the y-x plane; half turns only unless Y = X."""

    affine_probability: float
    rotation_deg: float
    """Uniform in +- this."""
    zoom: float
    """Magnification log-uniform between 1 / (1 + zoom) and 1 + zoom."""
    shear: float
    """Uniform in +- this, in pixels per pixel."""

    elastic_probability: float
    elastic_px: float
    """Standard deviation of the control points' displacement; the field between them moves half as far."""
    elastic_spacing_px: int
    """Distance of the control points of the cubic B-spline; several times elastic_px, or the field folds."""

    gamma_probability: float
    gamma_octaves: float
    """The exponent is 2^u, u uniform in +- this."""

    blur_probability: float
    blur_px: float
    """Standard deviation uniform in 0..this."""

    contrast_probability: float
    contrast_down_octaves: float
    contrast_up_octaves: float
    """Gain about the background level 2^u, u uniform in -down..up; 3.3 octaves down is a gain of 0.1."""

    noise_probability: float
    noise_std: float
    """Standard deviation of Gaussian noise uniform in 0..this, added after contrast, where it counts most."""
    shot_noise_std: float
    """Standard deviation of signal-dependent noise at intensity 1 uniform in 0..this; grows as the root."""

    renormalise_probability: float
    """Of scaling the crop as percentile normalisation would scale a frame of such contrast and noise: that is
    how a dim movie reaches the network."""

    brightness_probability: float
    brightness_offset: float
    """Uniform in +- this."""
    brightness_gain_octaves: float
    """Gain 2^u about 0, u uniform in +- this."""

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if value < 0 or (field.name.endswith("_probability") and value > 1):
                raise InputError(
                    f"augment.{field.name} is {value}: probabilities lie in 0..1, strengths in 0.."
                )
        if self.elastic_probability and self.elastic_px and self.elastic_spacing_px < 1:
            raise InputError(f"augment.elastic_spacing_px is {self.elastic_spacing_px}: at least 1 pixel")

    @classmethod
    def none(cls) -> "AugmentSpec":
        """The identity."""
        return cls(**{field.name: 0 for field in fields(cls)})


def augment(
    image: jax.Array, labels: jax.Array, key: jax.Array, *, size: Sequence[int], spec: AugmentSpec
) -> tuple[jax.Array, jax.Array]:
    """Deforms, turns and degrades one sample; vmapped by the caller.

    Args:
      image: (*R, C) float32, normalised.
      labels: (*R) int32, -1 unknown.
      key: random key; switching one kind off changes no other.
      size: *S, at most R; the crop is made of the middle of what was read.
      spec: strengths.

    Returns:
      image (*S, C) float32, mirrored about its edge where the deformation reaches outside R, and labels (*S)
      int32, -1 there. With `AugmentSpec.none()` exactly the middle of the input.
    """
    moved = geometry(labels.shape, key, size=size, spec=spec)
    return light(moved.image(image), key, spec=spec), moved.labels(labels)


def geometry(read: Sequence[int], key: jax.Array, *, size: Sequence[int], spec: AugmentSpec) -> "Geometry":
    """Draws how one sample is mirrored, turned, zoomed, sheared and bent.

    Args:
      read: *R.
      key: random key, of the whole sample: the frames of a clip share it.
      size: *S, at most R; the crop is made of the middle of what was read.
      spec: strengths.
    """
    size, read = tuple(size), tuple(read)
    if len(size) not in (2, 3) or len(read) != len(size):
        raise ValueError(f"size {size} does not go with what was read, {read}")
    if any(s > r for s, r in zip(size, read, strict=True)):
        raise ValueError(f"a crop of {size} does not fit into what was read, {read}")
    drawn_key, elastic_key, _ = jax.random.split(key, 3)
    return Geometry(read, size, _drawn(drawn_key, 1), elastic_key, spec)


def light(image: jax.Array, key: jax.Array, *, spec: AugmentSpec) -> jax.Array:
    """Degrades one frame: (*S, C) float32 to the same shape.

    Args:
      image: normalised.
      key: random key; frames of a clip have one each.
      spec: strengths.
    """
    drawn_key, _, noise_key = jax.random.split(key, 3)
    u = _drawn(drawn_key, image.shape[-1])
    image = _gamma(image, u, spec)
    image = _blur(image, u, spec)
    level = _background_level(image)
    image, gain = _contrast(image, level, u, spec)
    image, noise = _noise(image, u, noise_key, spec)
    image = _renormalise(image, level, gain, noise, u, spec)
    return _brightness(image, u, spec)


def _drawn(key: jax.Array, channels: int) -> dict[str, jax.Array]:
    # One draw for all small numbers: separate ones take seconds longer to compile. The first channel's are those of an
    # image with one channel, so that what turns a sample is drawn apart from what lights it, whatever the channels.
    return dict(zip(_DRAWS, _flat(jax.random.uniform, key, (channels, len(_DRAWS))).T, strict=True))


# --------------------------------------------------------------------------------------------------- geometry


class Geometry:
    """One resampling of the y-x plane that is mirror, turn, rotation, zoom, shear and bend in one; z is only mirrored.

    Mirrors and quarter turns land on whole coordinates, so they are exact; as selections behind the gather
    they would make XLA's fusion compute the gather once for each branch (134 instead of 15 ms of CPU time).
    """

    def __init__(
        self,
        read: tuple[int, ...],
        size: tuple[int, ...],
        u: dict[str, jax.Array],
        elastic_key: jax.Array,
        spec: AugmentSpec,
    ):
        """Takes what `geometry` drew."""
        self._read, self._size = read, size
        affine = _on(spec.affine_probability, spec.rotation_deg + spec.zoom + spec.shear)
        elastic = _on(spec.elastic_probability, spec.elastic_px)
        self._still = not (affine or elastic or spec.flip_probability or spec.rot90_probability)
        if self._still:
            return
        mirrored = [u[f"mirror_{axis}"][0] < spec.flip_probability for axis in range(len(size))]
        self._z_mirrored = mirrored[0]
        plane = size[-2:]
        matrix = _quarter_turn(u, plane, spec) * jnp.where(jnp.stack(mirrored[-2:]), -1.0, 1.0)
        if affine:
            # Not jnp.matmul: reduced precision on matrix units would move pixels.
            matrix = (_affine_matrix(u, spec)[:, :, None] * matrix[None]).sum(1)
        self._matrix = matrix
        self._bend = _displacement(u, elastic_key, plane, spec) if elastic else None
        self._coordinates = warp.plane_coordinates(read[-2:], plane, matrix)
        if self._bend is not None:
            self._coordinates += self._bend

    def image(self, image: jax.Array) -> jax.Array:
        """(*R, C) float32 to (*S, C), mirrored about its edge where the deformation reaches outside."""
        if self._still:
            return image[_middle(self._read, self._size)]
        return self._columns(image, lambda values: warp.sample_linear(values, self._coordinates))

    def labels(self, labels: jax.Array) -> jax.Array:
        """(*R) int32 to (*S), -1 where the deformation reaches outside."""
        if self._still:
            return labels[_middle(self._read, self._size)]
        return self._columns(
            labels, lambda values: warp.sample_nearest(values, self._coordinates, outside=UNKNOWN)
        )

    def points(self, points: jax.Array) -> jax.Array:
        """Moves points with the image.

        Args:
          points: (..., ndim) float32, index z, y, x or y, x in what was read; NaN stays.

        Returns:
          (..., ndim) float32, index in the crop; may lie outside of it.
        """
        first = jnp.array([(r - s) // 2 for r, s in zip(self._read, self._size, strict=True)], points.dtype)
        if self._still:
            return points - first
        depth = points[..., :-2] - first[:-2]
        if len(self._size) == 3:
            depth = jnp.where(self._z_mirrored, self._size[0] - 1 - depth, depth)
        return jnp.concatenate([depth, self._plane_points(points[..., -2:], first[-2:])], -1)

    def _plane_points(self, points: jax.Array, first: jax.Array) -> jax.Array:
        """The inverse of the coordinates; the bend's by fixed point, which contracts where the field does not fold."""
        middle = jnp.array([(s - 1) / 2 for s in self._size[-2:]], points.dtype)
        (a, b), (c, d) = self._matrix
        inverse = jnp.array([[d, -b], [-c, a]]) / (a * d - b * c)

        def back(offset: jax.Array) -> jax.Array:
            return (inverse * offset[..., None, :]).sum(-1) + middle

        offset = points - first - middle
        made = back(offset)
        if self._bend is None:
            return made
        bend = jnp.moveaxis(self._bend, 0, -1)
        last = jnp.array(self._size[-2:], points.dtype) - 1
        for _ in range(_ROUNDS):
            inside = jnp.clip(jnp.nan_to_num(made), 0, last)
            made = back(offset - warp.sample_linear(bend, jnp.moveaxis(inside, -1, 0)))
        return made

    def _columns(self, values: jax.Array, sample: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """Samples the plane; z planes share its coordinates, so that each gather moves a whole column."""
        if len(self._size) == 2:
            return sample(values)
        depth = values[_middle(self._read[:1], self._size[:1])]
        depth = jnp.moveaxis(jnp.where(self._z_mirrored, depth[::-1], depth), 0, 2)
        return jnp.moveaxis(sample(depth), 2, 0)


def _quarter_turn(u, plane, spec):
    """(2, 2) matrix of a turn by a multiple of 90 degrees, of 180 where the plane is not square."""
    step = 1 if plane[0] == plane[1] else 2
    turns = step * jnp.floor(u["turn"][0] * (4 // step)).astype(jnp.int32)
    turns = jnp.where(u["turned"][0] < spec.rot90_probability, turns, 0)
    cos, sin = jnp.array([1.0, 0.0, -1.0, 0.0])[turns], jnp.array([0.0, 1.0, 0.0, -1.0])[turns]
    return jnp.array([[cos, -sin], [sin, cos]])


def _affine_matrix(u, spec):
    """(2, 2) map from made to read offsets; exactly the identity where it is not drawn."""
    angle, zoom, shear = (2 * u[name][0] - 1 for name in ("angle", "zoom", "shear"))
    angle, shear = jnp.deg2rad(spec.rotation_deg) * angle, spec.shear * shear
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    matrix = jnp.array([[cos - shear * sin, -sin], [sin + shear * cos, cos]]) * (1 + spec.zoom) ** zoom
    return jnp.where(u["deformed"][0] < spec.affine_probability, matrix, jnp.eye(2))


def _displacement(u, key, plane, spec):
    """(2, y, x) pixels; exactly 0 where it is not drawn."""
    points = warp.control_points(plane, spec.elastic_spacing_px)
    control = spec.elastic_px * _flat(jax.random.normal, key, (2, *points))
    control = jnp.where(u["bent"][0] < spec.elastic_probability, control, 0.0)
    return warp.spline_field(control, plane, spec.elastic_spacing_px)


# ------------------------------------------------------------------------------------------------------ light


def _gamma(image, u, spec):
    if not _on(spec.gamma_probability, spec.gamma_octaves):
        return image
    octaves = _between(u, "gamma", spec.gamma_probability, -spec.gamma_octaves, spec.gamma_octaves)
    # |x|^g keeps the noise below the background percentile, which is negative.
    curved = jnp.sign(image) * jnp.exp(jnp.exp2(octaves) * jnp.log(jnp.maximum(jnp.abs(image), 1e-6)))
    return jnp.where(octaves == 0, image, curved)


def _blur(image, u, spec):
    if not _on(spec.blur_probability, spec.blur_px):
        return image
    sigma = _between(u, "blur", spec.blur_probability, 0.0, spec.blur_px)[0]
    radius = math.ceil(3 * spec.blur_px)
    along_z = (0,) * (image.ndim - 3)
    return gaussian.blur(image, (*along_z, sigma, sigma), (*along_z, radius, radius))


def _background_level(image):
    """(C,) float32, from a regular sample of at most `_SAMPLE` pixels."""
    sizes = image.shape[:-1]
    stride = 1
    while math.prod(-(-n // stride) for n in sizes) > _SAMPLE:
        stride += 1
    sample = image[tuple(slice(None, None, stride) for _ in sizes)].reshape(-1, image.shape[-1])
    return jnp.sort(sample, 0)[int(BACKGROUND_QUANTILE * len(sample))]


def _contrast(image, level, u, spec):
    """Gain about the background level. Returns the image and the (C,) gain."""
    if not _on(spec.contrast_probability, spec.contrast_down_octaves + spec.contrast_up_octaves):
        return image, jnp.ones_like(level)
    low, high = -spec.contrast_down_octaves, spec.contrast_up_octaves
    octaves = _between(u, "contrast", spec.contrast_probability, low, high)
    gain = jnp.exp2(octaves)
    return jnp.where(octaves == 0, image, level + gain * (image - level)), gain


def _noise(image, u, key, spec):
    """Gaussian and signal-dependent noise. Returns the image and the (C,) Gaussian standard deviation."""
    if not _on(spec.noise_probability, spec.noise_std + spec.shot_noise_std):
        return image, jnp.zeros(image.shape[-1])
    camera = _between(u, "noise", spec.noise_probability, 0.0, spec.noise_std)
    shot = _between(u, "shot_noise", spec.noise_probability, 0.0, spec.shot_noise_std)
    deviation = jnp.sqrt(camera**2 + shot**2 * jnp.maximum(image, 0.0))
    return image + deviation * _flat(jax.random.normal, key, image.shape), camera


def _renormalise(image, level, gain, noise, u, spec):
    """Maps what the 1st and 99.8th percentile have become back to 0 and 1.

    Noise and signal add in quadrature, which is exact where one of them rules.
    """
    if spec.renormalise_probability == 0:
        return image
    low = level - jnp.hypot(gain * level, PERCENTILE_SPREAD[0] * noise)
    high = level + jnp.hypot(gain * (1 - level), PERCENTILE_SPREAD[1] * noise)
    drawn = (u["renormalised"] < spec.renormalise_probability) & ((gain != 1) | (noise != 0))
    return jnp.where(drawn, (image - low) / jnp.maximum(high - low, 1e-3), image)


def _brightness(image, u, spec):
    if not _on(spec.brightness_probability, spec.brightness_offset + spec.brightness_gain_octaves):
        return image
    probability, octaves = spec.brightness_probability, spec.brightness_gain_octaves
    gain = jnp.exp2(_between(u, "brightness_gain", probability, -octaves, octaves))
    offset = _between(u, "brightness", probability, -spec.brightness_offset, spec.brightness_offset)
    return image * gain + offset


def _on(probability: float, strength: float) -> bool:
    return probability > 0 and strength > 0


def _between(u, kind, probability, low, high):
    """(C,) uniform in low..high with a probability, else 0; each channel on its own."""
    # One number says both whether and how much: below the probability it is uniform up to there.
    drawn = u[kind] < probability
    return jnp.where(drawn, low + (high - low) * u[kind] / probability, 0.0)


def _flat(draw, key, shape):
    # A draw of (2, 11, 11) takes XLA's CPU backend 2.4 s to compile, one of (242,) 0.25 s.
    return draw(key, (math.prod(shape),)).reshape(shape)


def _middle(read: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice((r - s) // 2, (r - s) // 2 + s) for r, s in zip(read, size, strict=True))
