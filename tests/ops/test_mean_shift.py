import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celltrack_jax.ops.mean_shift import mean_shift, nearest_cluster

shifted = jax.jit(mean_shift, static_argnames="iterations")


def one_by_one(points, position, weight, bandwidth, reach, iterations):
    """Moves one point after the other, and keeps modes that no heavier one is near to."""
    modes = points.astype(np.float64)

    def shifts():
        return [
            shift(m, p, points, position, weight, bandwidth, reach)
            for m, p in zip(modes, position, strict=True)
        ]

    for _ in range(iterations):
        modes = np.stack([mode for mode, _ in shifts()])
    mass = [total for _, total in shifts()]
    kept = []
    for k in np.argsort(-np.array(mass), kind="stable"):
        alike = [
            j
            for j in kept
            if np.linalg.norm(modes[j] - modes[k]) < bandwidth
            and np.linalg.norm(position[j] - position[k]) < reach
        ]
        if weight[k] > 0 and not alike:
            kept.append(k)
    return modes, np.array(mass), sorted(kept)


def shift(mode, where, points, position, weight, bandwidth, reach):
    near = np.linalg.norm(position - where, axis=1) < reach
    kernel = weight * (near & (np.linalg.norm(points - mode, axis=1) < bandwidth))
    return (kernel @ points / kernel.sum() if kernel.sum() > 0 else mode), kernel.sum()


def blobs(seed, noise):
    rng = np.random.default_rng(seed)
    middle = rng.uniform(-4, 4, (5, 3))
    owner = rng.integers(0, 5, 60)
    points = (middle[owner] + rng.normal(0, noise, (60, 3))).astype(np.float32)
    return points, rng.uniform(0, 10, (60, 2)).astype(np.float32), owner


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("reach", [4.0, 100.0])
def test_is_one_point_after_the_other(seed, reach):
    points, position, _ = blobs(seed, 0.4)
    weight = np.random.default_rng(seed).uniform(0.2, 1, 60).astype(np.float32)
    weight[:6] = 0
    found = shifted(points, position, weight, bandwidth=1.1, reach=reach, iterations=4)
    modes, mass, kept = one_by_one(points, position, weight, 1.1, reach, 4)
    real = weight > 0
    np.testing.assert_allclose(np.asarray(found.mode)[real], modes[real], atol=1e-4)
    np.testing.assert_allclose(np.asarray(found.mass)[real], mass[real], rtol=1e-4)
    assert not np.asarray(found.mass)[~real].any()
    assert np.flatnonzero(found.centre).tolist() == kept


def test_tight_blobs_are_the_clusters_and_padding_is_none():
    points, position, owner = blobs(2, 0.02)
    weight = np.ones(60, np.float32)
    weight[50:] = 0
    found = shifted(points, position, weight, bandwidth=1.0, reach=100.0, iterations=3)
    centre = np.flatnonzero(found.centre)
    assert sorted(owner[centre]) == sorted(set(owner[:50]))
    assert (centre < 50).all()
    own = jax.jit(functools.partial(nearest_cluster, reach=100.0))(
        points, position, found.mode[centre], position[centre]
    )
    np.testing.assert_array_equal(owner[centre][np.asarray(own)], owner)


def test_what_is_alike_but_far_away_is_another_cluster():
    points = np.zeros((6, 2), np.float32)
    position = np.array([[0, 0], [1, 0], [0, 1], [50, 0], [51, 0], [50, 1]], np.float32)
    found = shifted(points, position, np.ones(6, np.float32), bandwidth=1.0, reach=5.0, iterations=2)
    assert np.flatnonzero(found.centre).tolist() == [0, 3]
    np.testing.assert_array_equal(found.mass, [3] * 6)


def test_pixels_that_no_cluster_is_near_to_belong_to_none():
    modes, where = jnp.zeros((2, 2)), jnp.array([[0.0, 0.0], [jnp.inf, jnp.inf]])
    own = nearest_cluster(jnp.zeros((2, 2)), jnp.array([[1.0, 1.0], [9.0, 9.0]]), modes, where, 5.0)
    assert np.asarray(own).tolist() == [0, -1]
