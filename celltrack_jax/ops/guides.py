"""Frequencies of harmonic guides: chosen by octaves, or fitted to where objects lie; and whether they tell them apart.

Shapes: P pairs, D axes, F frequencies. Lengths are in one unit, frequencies in cycles per that.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import spatial

from celltrack_jax.errors import InputError
from celltrack_jax.ops.harmonic import Frequencies, amplitudes, square_distance, unwraps


def octaves(axes: int, longest: float, count: int) -> Frequencies:
    """Frequencies along each axis: `count` wavelengths from the longest on, each half of the one before."""
    return tuple(
        tuple(2.0**k / longest if along == axis else 0.0 for along in range(axes))
        for k in range(count)
        for axis in range(axes)
    )


def pair_offsets(centres: list[np.ndarray], within: float) -> np.ndarray:
    """Ways between objects that lie within a distance of each other.

    Args:
      centres: (N, D) of each frame.
      within: distance.

    Returns:
      (P, D), each pair once.
    """
    ways = []
    for points in centres:
        first, second = spatial.KDTree(points).query_pairs(within, output_type="ndarray").T
        ways.append(points[second] - points[first])
    return np.concatenate(ways)


def margin(frequencies: Frequencies, offsets: np.ndarray, ball_radius: float) -> float:
    """Least squared distance of the embeddings of two objects, over the ways (P, D) between them."""
    waves, ways = jnp.asarray(frequencies), jnp.asarray(offsets, jnp.float32)
    return float(square_distance(ways, waves, ball_radius).min())


def check(
    frequencies: Frequencies, offsets: np.ndarray, *, ball_radius: float, radius: float, least: float
) -> float:
    """Validates guides before a network learns them.

    Args:
      frequencies: F rows of D.
      offsets: (P, D) ways between objects, as from `pair_offsets`.
      ball_radius: of the balls that guides are averaged over.
      radius: largest distance of an object's pixel from its centre.
      least: the margin that is needed: the squared bandwidth of mean shift.

    Returns:
      The margin.

    Raises:
      InputError: phases cannot be unwrapped, or two objects are too similar; says what to change.
    """
    check_phases(frequencies, ball_radius, radius)
    found = margin(frequencies, offsets, ball_radius)
    if found < least:
        apart = square_distance(jnp.asarray(offsets), jnp.asarray(frequencies), ball_radius)
        way = np.asarray(offsets)[int(np.argmin(apart))]
        raise InputError(
            f"harmonic guides tell objects {np.linalg.norm(way):.3g} apart ({np.round(way, 3).tolist()}) by a squared "
            f"distance of {found:.3g}, less than the margin {least:.3g}: no network can learn to separate them. Take "
            f"more or shorter wavelengths (the shortest is {_shortest(frequencies):.3g}), or a smaller margin"
        )
    return found


def check_phases(frequencies: Frequencies, ball_radius: float, radius: float) -> None:
    """Raises InputError where an embedding does not say an offset within `radius`."""
    waves = np.asarray(frequencies, np.float64)
    if waves.ndim != 2 or len(waves) == 0 or not np.linalg.norm(waves, axis=1).all():
        raise InputError("harmonic frequencies are rows of one number per axis, none of them all 0")
    if not _unwraps(frequencies, radius):
        raise InputError(
            f"harmonic frequencies do not tell offsets of up to {radius:.3g} from each other: there must be wavelengths "
            f"longer than {2 * radius:.3g} along every axis, and the steps to the shorter ones about a half (the longest "
            f"is {1 / np.linalg.norm(waves, axis=1).min():.3g})"
        )
    height = np.abs(np.asarray(amplitudes(jnp.asarray(frequencies), ball_radius)))
    if height.min() < 0.05:
        raise InputError(
            f"a guide of wavelength {1 / np.linalg.norm(waves[height.argmin()]):.3g} is about 0 in the mean over a ball "
            f"of radius {ball_radius:.3g}: take wavelengths of at least {2 * ball_radius:.3g}"
        )


def fit(
    offsets: np.ndarray,
    *,
    count: int,
    longest: float,
    shortest: float,
    ball_radius: float,
    least: float,
    steps: int,
    seed: int,
) -> Frequencies:
    """Fits frequencies so that objects differ: mean over pairs of max(0, least - squared distance) goes down.

    The longest wave runs along each axis and is not fitted, so that phases can be unwrapped from it on; the others start
    in random directions, their wavelengths evenly spread in octaves, and stay between the two wavelengths.

    Args:
      offsets: (P, D) ways between objects, as from `pair_offsets`.
      count: F, more than D.
      longest: wavelength, more than twice the largest distance of a pixel from its object's centre.
      shortest: wavelength, about twice the diameter of an object.
      ball_radius: of an object; 0 for points.
      least: margin to reach.
      steps: of Adam.
      seed: of the start.
    """
    offsets = np.asarray(offsets, np.float32)
    axes = offsets.shape[1]
    if count <= axes or not 0 < shortest < longest:
        raise InputError(
            f"harmonic guides: count {count} is more than the {axes} axes, and shortest {shortest} less than longest "
            f"{longest}"
        )
    rng = np.random.default_rng(seed)
    free = count - axes
    share = (np.arange(free) + 0.5) / free
    start = {
        "direction": jnp.asarray(rng.normal(size=(free, axes)), jnp.float32),
        "level": jnp.asarray(np.log(share / (1 - share)), jnp.float32),
    }
    fitted = _descended(start, jnp.asarray(offsets), longest, shortest, ball_radius, least, steps)
    return tuple(tuple(float(f) for f in wave) for wave in np.asarray(fitted))


@functools.partial(jax.jit, static_argnames="steps")
def _descended(
    start: dict[str, jax.Array],
    offsets: jax.Array,
    longest: float,
    shortest: float,
    ball_radius: float,
    least: float,
    steps: int,
) -> jax.Array:
    axes = offsets.shape[1]

    def waves(values: dict[str, jax.Array]) -> jax.Array:
        direction = values["direction"]
        direction /= jnp.linalg.norm(direction, axis=-1, keepdims=True)
        octave = jax.nn.sigmoid(values["level"]) * jnp.log(longest / shortest)
        return jnp.concatenate([jnp.eye(axes) / longest, direction * (jnp.exp(octave) / longest)[:, None]])

    def loss(values: dict[str, jax.Array]) -> jax.Array:
        return jax.nn.relu(least - square_distance(offsets, waves(values), ball_radius)).mean()

    adam = optax.adam(0.03)

    def descend(_: int, state: tuple) -> tuple:
        values, moments = state
        update, moments = adam.update(jax.grad(loss)(values), moments)
        return optax.apply_updates(values, update), moments

    values, _ = jax.lax.fori_loop(0, steps, descend, (start, adam.init(start)))
    return waves(values)


@functools.lru_cache(maxsize=256)
def _unwraps(frequencies: Frequencies, radius: float) -> bool:
    return unwraps(frequencies, radius)


def _shortest(frequencies: Frequencies) -> float:
    return 1 / max(math.hypot(*wave) for wave in frequencies)
