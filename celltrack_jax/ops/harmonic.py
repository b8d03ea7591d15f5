"""Harmonic guides: plane waves whose mean over an object tells where its centre is.

The guides of a frequency f, in cycles per unit length along each axis, are cos(2 pi f.x) and sin(2 pi f.x), x in the
unit of the spacing. Their means over a ball of radius R are A(2 pi |f| R) times their values at its centre (Kulikov and
Lempitsky, Instance Segmentation of Biological Images Using Harmonic Embeddings, CVPR 2020, has sines over 2D images).
So an embedding is a phase per frequency, moving an object turns the phases, and the distance of two embeddings depends
on the way between their centres alone.

Shapes: D axes, F frequencies, E = 2 F numbers of an embedding, all cosines before all sines.
"""

import math
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

Frequencies: TypeAlias = tuple[tuple[float, ...], ...]
"""F rows of D, hashable."""
_NODES = 48
"""Of the quadrature over a disc's chords; exact to float32 for u up to 80."""
_PHASE_ERROR = 0.05
"""Cycles by which a phase may be off, for the weights of the frequencies while phases are unwrapped."""


def amplitude(u: jax.Array, axes: int) -> jax.Array:
    """Mean of cos(2 pi f.x) over a ball around 0 (or a disc), u = 2 pi |f| R: 1 at 0, and first 0 at 4.49 (3.83).

    Args:
      u: float32, any shape.
      axes: 3: 3 (sin u - u cos u) / u^3; 2: 2 J1(u) / u, as a mean over chords.
    """
    if axes == 2:
        angle = jnp.arange(1, _NODES + 1) * (math.pi / (_NODES + 1))
        weight = jnp.square(jnp.sin(angle)) * (2 / (_NODES + 1))
        return (weight * jnp.cos(u[..., None] * jnp.cos(angle))).sum(-1)
    small = u < 0.5
    # Near 0 the closed form is a difference of nearly equal numbers.
    square = jnp.square(jnp.where(small, u, 0.0))
    series = 1 - square / 10 * (1 - square / 28 * (1 - square / 54))
    v = jnp.where(small, 1.0, u)
    return jnp.where(small, series, 3 * (jnp.sin(v) - v * jnp.cos(v)) / v**3)


def amplitudes(frequencies: jax.Array, ball_radius: float) -> jax.Array:
    """(F,) amplitudes of frequencies (F, D) over a ball; 1 for radius 0."""
    size = jnp.sqrt(jnp.square(frequencies).sum(-1))
    return amplitude(2 * math.pi * ball_radius * size, frequencies.shape[-1])


def embed(offset: jax.Array, frequencies: jax.Array, ball_radius: float) -> jax.Array:
    """Embedding of a centre at an offset from the guides' origin: (..., E) float32 from (..., D)."""
    phase = 2 * math.pi * _dot(offset, frequencies)
    height = amplitudes(frequencies, ball_radius)
    return jnp.concatenate([height * jnp.cos(phase), height * jnp.sin(phase)], -1)


def moved(embedding: jax.Array, way: jax.Array, frequencies: jax.Array) -> jax.Array:
    """The embeddings (..., E) of objects that moved by (..., D), or of guides whose origin moved by minus that."""
    phase = 2 * math.pi * _dot(way, frequencies)
    cos, sin = jnp.split(embedding, 2, -1)
    turn_cos, turn_sin = jnp.cos(phase), jnp.sin(phase)
    return jnp.concatenate([cos * turn_cos - sin * turn_sin, sin * turn_cos + cos * turn_sin], -1)


def square_distance(way: jax.Array, frequencies: jax.Array, ball_radius: float) -> jax.Array:
    """Squared distance of the embeddings of two balls: (...,) float32.

    Args:
      way: (..., D) from one centre to the other.
      frequencies: (F, D).
      ball_radius: of both.
    """
    height = amplitudes(frequencies, ball_radius)
    return (2 * jnp.square(height) * (1 - jnp.cos(2 * math.pi * _dot(way, frequencies)))).sum(-1)


def phase_offset(
    embedding: jax.Array, frequencies: Frequencies, ball_radius: float, radius: float
) -> jax.Array:
    """The offset within a ball that an embedding says.

    Phases are whole cycles apart from the truth. From the longest wavelength to the shortest each is unwrapped about
    what the ones before it say, and before all of them the offset is near 0; in between they are weighted as a Kalman
    filter does. The result fits all unwrapped phases in least squares. It is exact for noiseless embeddings if
    `unwraps`.

    Args:
      embedding: (..., E) float32.
      frequencies: F rows of D; static.
      ball_radius: as in `embed`.
      radius: of the ball in which the offset lies.

    Returns:
      (..., D) float32.
    """
    order, gains = _gains(frequencies, radius)
    waves = np.asarray(frequencies, np.float64)[order]
    cos, sin = jnp.split(embedding, 2, -1)
    sign = jnp.where(amplitudes(jnp.asarray(frequencies), ball_radius) < 0, -1.0, 1.0)
    cycles = (jnp.arctan2(sin * sign, cos * sign) / (2 * math.pi))[..., order]
    estimate = jnp.zeros((*embedding.shape[:-1], waves.shape[1]))
    unwrapped = []
    for k, wave in enumerate(waves):
        expected = (estimate * jnp.asarray(wave, jnp.float32)).sum(-1)
        off = cycles[..., k] - expected
        off -= jnp.round(off)
        unwrapped.append(expected + off)
        estimate += off[..., None] * jnp.asarray(gains[k], jnp.float32)
    return _dot(jnp.stack(unwrapped, -1), jnp.asarray(np.linalg.pinv(waves), jnp.float32))


def unwraps(frequencies: Frequencies, radius: float) -> bool:
    """Whether `phase_offset` is exact for all offsets in a ball, as far as 512 of them tell, most of them far out."""
    waves = np.asarray(frequencies, np.float64)
    axes = waves.shape[1]
    if np.linalg.matrix_rank(waves) < axes:
        return False
    direction = np.random.default_rng(0).normal(size=(512, axes))
    offset = direction / np.linalg.norm(direction, axis=1, keepdims=True)
    offset *= radius * np.linspace(0.2, 1, len(offset))[:, None]

    @jax.jit
    def error(offset: jax.Array) -> jax.Array:
        embedding = embed(offset, jnp.asarray(frequencies), 0.0)
        return jnp.abs(phase_offset(embedding, frequencies, 0.0, radius) - offset).max()

    return bool(error(offset.astype(np.float32)) < 1e-3 * radius)


def _gains(frequencies: Frequencies, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Order of the frequencies (F,) from the longest wavelength on, and how each moves the estimate (F, D)."""
    waves = np.asarray(frequencies, np.float64)
    order = np.argsort(np.linalg.norm(waves, axis=1), kind="stable")
    axes = waves.shape[1]
    # Of a point anywhere in a ball.
    covariance = np.eye(axes) * radius**2 / (axes + 2)
    gains = []
    for wave in waves[order]:
        carried = covariance @ wave
        gain = carried / (wave @ carried + _PHASE_ERROR**2)
        covariance -= np.outer(gain, carried)
        gains.append(gain)
    return order, np.array(gains)


def _dot(offset: jax.Array, frequencies: jax.Array) -> jax.Array:
    """(..., F) from (..., D) and (F, D), in float32 also where matrix products are rounded."""
    return jnp.einsum("...d,fd->...f", offset, frequencies, precision="highest")
