"""Harmonic embeddings against means over voxels, and offsets that are read from their phases."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from celltrack_jax.ops.guides import octaves
from celltrack_jax.ops.harmonic import (
    amplitude,
    embed,
    moved,
    phase_offset,
    square_distance,
    unwraps,
)

WAVES = (*octaves(3, 2.4, 2), (0.7, -0.4, 1.1), (-1.2, 0.9, 0.3))
FREQUENCIES = np.array(WAVES, np.float32)
offset_of = jax.jit(phase_offset, static_argnums=(1, 2, 3))
height = jax.jit(amplitude, static_argnums=1)


def ball(radius, axes, count):
    """Nodes of a fine grid within a ball around 0."""
    line = (np.arange(count) + 0.5) / count * 2 - 1
    nodes = np.stack(np.meshgrid(*[line] * axes, indexing="ij"), -1).reshape(-1, axes)
    return radius * nodes[(nodes**2).sum(-1) <= 1]


@pytest.mark.parametrize(("axes", "count"), [(2, 400), (3, 90)])
@pytest.mark.parametrize("u", [0.0, 0.3, 0.6, 2.0, 4.2, 7.0])
def test_the_amplitude_is_the_mean_of_a_wave_over_a_ball(axes, count, u):
    mean = np.cos(u * ball(1.0, axes, count)[:, 0]).mean()
    assert float(height(jnp.full(200, u), axes)[0]) == pytest.approx(mean, abs=2e-3)


def test_the_amplitude_of_a_disc_is_a_bessel_function():
    u = np.linspace(0.01, 60, 200)
    np.testing.assert_allclose(amplitude(jnp.asarray(u, jnp.float32), 2), 2 * special.j1(u) / u, atol=3e-6)


def test_the_series_meets_the_closed_form():
    u = np.linspace(0.4, 0.6, 21)
    exact = 3 * (np.sin(u) - u * np.cos(u)) / u**3
    np.testing.assert_allclose(amplitude(jnp.asarray(u, jnp.float32), 3), exact, atol=3e-6)
    slope = jax.vmap(jax.grad(functools.partial(amplitude, axes=3)))(jnp.array([0.0, 0.1, 3.0]))
    assert np.isfinite(slope).all()


def test_an_embedding_is_the_mean_of_the_guides_over_the_ball():
    centre, radius = np.array([0.8, -0.3, 0.5]), 0.3
    phase = 2 * math.pi * (centre + ball(radius, 3, 90)) @ FREQUENCIES.T
    mean = np.concatenate([np.cos(phase).mean(0), np.sin(phase).mean(0)])
    found = embed(jnp.asarray(centre, jnp.float32), jnp.asarray(FREQUENCIES), radius)
    np.testing.assert_allclose(found, mean, atol=2e-3)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), radius=st.sampled_from([0.0, 0.3]))
def test_distances_have_a_closed_form_and_do_not_change_with_the_origin(seed, radius):
    rng = np.random.default_rng(seed)
    one, other, origin = jnp.asarray(rng.uniform(-6, 6, (3, 3)), jnp.float32)
    waves = jnp.asarray(FREQUENCIES)
    expected = float(square_distance(one - other, waves, radius))
    for first in (jnp.zeros(3), origin):
        way = embed(one - first, waves, radius) - embed(other - first, waves, radius)
        assert float((way**2).sum()) == pytest.approx(expected, abs=2e-3)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_moving_an_object_turns_its_phases(seed):
    rng = np.random.default_rng(seed)
    centre, way = jnp.asarray(rng.uniform(-3, 3, (2, 5, 3)), jnp.float32)
    waves = jnp.asarray(FREQUENCIES)
    np.testing.assert_allclose(
        moved(embed(centre, waves, 0.2), way, waves), embed(centre + way, waves, 0.2), atol=1e-4
    )


@pytest.mark.parametrize("ball_radius", [0.0, 0.25, 0.9])
@pytest.mark.parametrize("axes", [2, 3])
def test_phases_say_the_offset_within_half_the_longest_wavelength(axes, ball_radius):
    """The last radius is beyond the first zero of the shortest wave's amplitude, which is negative."""
    waves = octaves(axes, 2.4, 3)
    rng = np.random.default_rng(0)
    direction = rng.normal(size=(7, 30, axes))
    offset = direction / np.linalg.norm(direction, axis=-1, keepdims=True) * rng.random((7, 30, 1)) * 1.15
    offset = jnp.asarray(offset, jnp.float32)
    found = offset_of(embed(offset, jnp.asarray(waves), ball_radius), waves, ball_radius, 1.15)
    np.testing.assert_allclose(found, offset, atol=1e-4)


def test_noisy_phases_say_nearly_the_offset():
    waves = octaves(3, 2.4, 3)
    rng = np.random.default_rng(1)
    offset = rng.uniform(-0.5, 0.5, (400, 3)).astype(np.float32)
    noisy = embed(jnp.asarray(offset), jnp.asarray(waves), 0.0) + rng.normal(0, 0.15, (400, 18))
    error = np.linalg.norm(offset_of(noisy.astype(jnp.float32), waves, 0.0, 0.9) - offset, axis=1)
    # A phase is off by 0.15 radians: 0.6 / 2 pi * 0.15 = 14 nm along each axis from the shortest wave alone.
    assert np.median(error) < 0.03
    assert np.quantile(error, 0.99) < 0.08


@pytest.mark.parametrize(
    ("waves", "radius", "expected"),
    [
        (octaves(3, 2.4, 3), 1.1, True),
        (octaves(3, 2.4, 3), 1.3, False),
        (octaves(2, 1.0, 1), 0.45, True),
        (((0.5, 0.0), (1.0, 0.0)), 0.5, False),
        ((*octaves(2, 2.0, 1), (9.0, 0.3), (0.2, 8.5)), 0.9, True),
    ],
    ids=["octaves", "too far", "one octave", "one axis", "a wide step"],
)
def test_it_is_known_which_guides_say_offsets(waves, radius, expected):
    assert unwraps(waves, radius) == expected
