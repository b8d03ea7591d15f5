"""Sources from harmonic embeddings: pixels that are alike and lie near each other are one, by mean shift.

Shapes: V pixels, E numbers of an embedding, D axes, N sources. Lengths are in the unit of the spacing.
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from celltrack_jax.ops import harmonic
from celltrack_jax.ops.mean_shift import mean_shift, nearest_cluster
from celltrack_jax.representations.room import tell

_BLOCK = 4096
"""Pixels that are given to clusters at a time."""


@dataclass(frozen=True)
class Clustering:
    """How embeddings are clustered."""

    frequencies: harmonic.Frequencies
    ball_radius: float
    max_offset: float
    """Largest distance of a pixel from its source's centre; pixels twice as far apart are never one source."""
    bandwidth: float
    iterations: int
    max_voters: int
    """Pixels that are moved, drawn evenly; the others go to the cluster that they are most like."""
    max_peaks: int
    """Most clusters."""


def read(
    relative: np.ndarray, place: np.ndarray, weight: np.ndarray, clustering: Clustering
) -> tuple[np.ndarray, np.ndarray]:
    """Clusters pixels; thread-safe.

    Args:
      relative: (V, E) float32, embeddings of each pixel's centre as seen from the pixel.
      place: (V, D) float32, where the pixels lie.
      weight: (V,) float32, positive.
      clustering: how.

    Returns:
      (V,) int cluster of each pixel, -1 for none, and (N, D) float64 centres; a cluster may be without a pixel.
    """
    count, moving = len(place), clustering.max_voters
    chosen = np.linspace(0, count - 1, min(count, moving)).astype(int) if count else np.zeros(0, int)
    modes, where = _modes(
        _padded(relative[chosen], moving),
        _padded(place[chosen], moving),
        _padded(weight[chosen], moving),
        clustering,
    )
    if len(where) < moving and np.isfinite(where).all():
        tell("max_peaks", clustering.max_peaks)
    owner = np.zeros(count, int)
    for first in range(0, count, _BLOCK):
        part = slice(first, first + _BLOCK)
        found = _owners(
            _padded(relative[part], _BLOCK), _padded(place[part], _BLOCK), modes, where, clustering
        )
        owner[part] = np.asarray(found)[: count - first]
    ours = owner >= 0
    total = np.bincount(owner[ours], weight[ours], len(modes))
    summed = [np.bincount(owner[ours], (weight * along)[ours], len(modes)) for along in place.T]
    middle = np.stack(summed, -1) / np.maximum(total, 1e-12)[:, None]
    return owner, middle + np.asarray(_seen_from(middle.astype(np.float32), modes, clustering))


def _padded(rows: np.ndarray, count: int) -> np.ndarray:
    return np.pad(rows, [(0, count - len(rows))] + [(0, 0)] * (rows.ndim - 1))


@functools.partial(jax.jit, static_argnames="clustering")
def _modes(
    relative: jax.Array, place: jax.Array, weight: jax.Array, clustering: Clustering
) -> tuple[jax.Array, jax.Array]:
    """Modes (N, E) of the heaviest clusters, and places (N, D) of pixels in them; inf for padding."""
    found = mean_shift(
        harmonic.moved(relative, place, jnp.asarray(clustering.frequencies)),
        place,
        weight,
        bandwidth=clustering.bandwidth,
        reach=2 * clustering.max_offset,
        iterations=clustering.iterations,
    )
    mass, row = jax.lax.top_k(
        jnp.where(found.centre, found.mass, -1.0), min(clustering.max_peaks, len(place))
    )
    return found.mode[row], jnp.where((mass > 0)[:, None], place[row], jnp.inf)


@functools.partial(jax.jit, static_argnames="clustering")
def _owners(
    relative: jax.Array, place: jax.Array, modes: jax.Array, where: jax.Array, clustering: Clustering
) -> jax.Array:
    embedding = harmonic.moved(relative, place, jnp.asarray(clustering.frequencies))
    return nearest_cluster(embedding, place, modes, where, 2 * clustering.max_offset)


@functools.partial(jax.jit, static_argnames="clustering")
def _seen_from(middle: jax.Array, modes: jax.Array, clustering: Clustering) -> jax.Array:
    """The way (N, D) from each place (N, D) to the centre that a mode says."""
    back = harmonic.moved(modes, -middle, jnp.asarray(clustering.frequencies))
    return harmonic.phase_offset(back, clustering.frequencies, clustering.ball_radius, clustering.max_offset)
