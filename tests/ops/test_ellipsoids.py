"""Overlaps in closed form against fine grids; ellipsoids drawn against one pixel after the other."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.ops.balls import draw_balls, draw_ellipsoids
from celltrack_jax.ops.ellipsoids import ball_radius, common_volume, overlap, volume

shared = jax.jit(common_volume, static_argnums=3)
overlaps = jax.jit(overlap)


def on_grid(position, radii, count):
    """Shared volume over that of the smaller of two ellipsoids, counted on a grid over both."""
    low, high = (position - radii).min(0), (position + radii).max(0)
    lines = [(np.arange(count) + 0.5) / count * (b - a) + a for a, b in zip(low, high, strict=True)]
    nodes = np.stack(np.meshgrid(*lines, indexing="ij"), -1)
    one, other = (((nodes - p) / r) ** 2 for p, r in zip(position, radii, strict=True))
    one, other = one.sum(-1) <= 1, other.sum(-1) <= 1
    return (one & other).sum() / min(one.sum(), other.sum())


@pytest.mark.parametrize(("axes", "count"), [(2, 500), (3, 90)])
@pytest.mark.parametrize(
    ("distance", "first", "second"),
    [(1.0, 1.0, 1.0), (1.5, 0.8, 1.4), (1.1, 0.6, 1.4), (0.3, 0.5, 1.4), (0.0, 1.0, 1.0), (2.5, 1.0, 1.4)],
)
def test_the_volume_that_balls_share(axes, count, distance, first, second):
    position, radii = np.zeros((2, axes)), np.array([[first], [second]]) * np.ones(axes)
    position[1, 0] = distance
    expected = on_grid(position, radii, count) * float(volume(jnp.asarray(radii)).min())
    for a, b in ((first, second), (second, first)):
        found = float(shared(jnp.full(1, distance), jnp.full(1, a), jnp.full(1, b), axes)[0])
        assert found == pytest.approx(expected, abs=0.02)


def test_volumes_and_the_radii_of_balls():
    assert float(volume(jnp.array([1.0, 2.0, 3.0]))) == pytest.approx(8 * math.pi)
    assert float(volume(jnp.array([2.0, 3.0]))) == pytest.approx(6 * math.pi)
    assert float(ball_radius(volume(jnp.full(3, 1.7)), 3)) == pytest.approx(1.7, rel=1e-5)
    assert float(ball_radius(volume(jnp.full(2, 1.7)), 2)) == pytest.approx(1.7, rel=1e-5)


@pytest.mark.parametrize("alike", [True, False], ids=["of one shape", "of two shapes"])
@pytest.mark.parametrize("axes", [2, 3])
def test_the_overlap_of_ellipsoids(axes, alike):
    """Of two shapes it is near: over 150 pairs such as these 0.01 off in the mean, 0.07 at most."""
    rng = np.random.default_rng(axes)
    errors = []
    for _ in range(10):
        radii = rng.uniform(0.8, 1.4, (2, axes))
        if alike:
            radii[1] = radii[0] * rng.uniform(0.5, 1)
        position = rng.uniform(-0.7, 0.7, (2, axes))
        found = np.asarray(overlaps(jnp.asarray(position, jnp.float32), jnp.asarray(radii, jnp.float32)))
        np.testing.assert_allclose(found, found.T, atol=1e-6)
        np.testing.assert_allclose(np.diag(found), 1, atol=1e-4)
        errors.append(found[0, 1] - on_grid(position, radii, 300 if axes == 2 else 60))
    assert np.abs(errors).max() < (0.01 if alike else 0.1)
    assert np.abs(errors).mean() < 0.03


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 8),
    canvas=st.sampled_from([((13, 17), (1.0, 1.0)), ((5, 9, 8), (3.0, 1.0, 0.7))]),
)
def test_ellipsoids_are_drawn_as_one_by_one(seed, count, canvas):
    shape, spacing = canvas
    rng = np.random.default_rng(seed)
    position = rng.uniform(-0.5, np.array(shape) - 0.5, (count, len(shape)))
    radii = rng.uniform(0.3, 4.0, (count, len(shape)))
    expected = np.zeros(shape, np.int32)
    middle = np.clip(np.rint(position), 0, np.array(shape) - 1)
    for pixel in np.ndindex(*shape):
        depth = (((np.array(pixel) - position) * spacing / radii) ** 2).sum(1)
        ours = np.flatnonzero((depth <= 1) | (middle == pixel).all(1))
        if len(ours):
            expected[pixel] = ours[depth[ours].argmin()] + 1
    np.testing.assert_array_equal(draw_ellipsoids(position, radii, shape, np.array(spacing)), expected)


def test_ellipsoids_of_one_radius_are_balls():
    rng = np.random.default_rng(0)
    shape, spacing = (9, 20, 21), np.array([2.0, 1.0, 1.0])
    position = rng.uniform(0, np.array(shape) - 1, (12, 3))
    np.testing.assert_array_equal(
        draw_ellipsoids(position, np.full((12, 3), 3.3), shape, spacing),
        draw_balls(position, shape, spacing, 3.3),
    )
