"""Mean shift of a fixed number of points, and the clusters that it finds.

Shapes: N points, E numbers of each in the space where they are clustered, D axes of the space where they lie.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from celltrack_jax.ops.peaks import keep_first, pairwise_square


class Clusters(NamedTuple):
    """Where each point went."""

    mode: jax.Array
    """(N, E) float32 that each point arrived at."""
    mass: jax.Array
    """(N,) float32, weight within the bandwidth of it; 0 for points without weight."""
    centre: jax.Array
    """(N,) bool: its mode is one of the clusters'."""


def mean_shift(
    points: jax.Array,
    position: jax.Array,
    weight: jax.Array,
    *,
    bandwidth: float,
    reach: float,
    iterations: int,
) -> Clusters:
    """Moves each point to the mean of all points within a bandwidth of it, again and again.

    The kernel is flat (Comaniciu and Meer, IEEE TPAMI 2002). Only points whose positions lie near each other see each
    other, so that what happens to look alike far away stays apart. Memory is N^2.

    Args:
      points: (N, E) float32.
      position: (N, D) float32.
      weight: (N,) float32, 0 for padding.
      bandwidth: in the points' space. Modes nearer than this are one cluster, that of the greatest mass.
      reach: least distance of positions from which points do not see each other.
      iterations: static.
    """
    near = (pairwise_square(position) < reach**2) * weight

    def within(modes: jax.Array) -> jax.Array:
        return jnp.where(_squares(modes, points) < bandwidth**2, near, 0.0)

    def shift(_: int, modes: jax.Array) -> jax.Array:
        kernel = within(modes)
        total = kernel.sum(-1, keepdims=True)
        mean = jnp.matmul(kernel, points, precision="highest") / jnp.maximum(total, 1e-12)
        return jnp.where(total > 0, mean, modes)

    modes = lax.fori_loop(0, iterations, shift, points)
    mass = jnp.where(weight > 0, within(modes).sum(-1), 0.0)
    order = jnp.argsort(-mass, stable=True)
    rivals = (_squares(modes, modes) < bandwidth**2) & (pairwise_square(position) < reach**2)
    kept = keep_first(rivals[order][:, order], mass[order] > 0)
    return Clusters(modes, mass, jnp.zeros(len(points), bool).at[order].set(kept))


def nearest_cluster(
    points: jax.Array, position: jax.Array, modes: jax.Array, mode_position: jax.Array, reach: float
) -> jax.Array:
    """The cluster whose mode is nearest among those that lie near enough.

    Args:
      points: (V, E) float32.
      position: (V, D) float32.
      modes: (K, E) float32.
      mode_position: (K, D) float32, inf for padding.
      reach: distance of positions from which clusters are out of question.

    Returns:
      (V,) int32, -1 for none. Memory is V K.
    """
    apart = jnp.square(position[:, None] - mode_position).sum(-1)
    square = jnp.where(apart < reach**2, _squares(points, modes), jnp.inf)
    return jnp.where(jnp.isfinite(square.min(-1)), square.argmin(-1), -1)


def _squares(one: jax.Array, other: jax.Array) -> jax.Array:
    """(N, M) squared distances of (N, E) and (M, E)."""
    product = jnp.matmul(one, other.T, precision="highest")
    return jnp.maximum(jnp.square(one).sum(-1)[:, None] + jnp.square(other).sum(-1) - 2 * product, 0.0)
