import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from celltrack_jax.ops import gaussian

blur = jax.jit(gaussian.blur, static_argnums=2)
IMAGE = np.random.default_rng(0).normal(size=(9, 20, 17)).astype(np.float32)


@pytest.mark.parametrize("sigma", [0.0, 0.3, 1.0, 5.0])
def test_weights_sum_to_one_and_are_symmetric(sigma):
    weights = np.asarray(gaussian.weights(sigma, 4))
    assert weights.sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(weights, weights[::-1])


def test_width_zero_is_exactly_the_identity():
    blurred = blur(jnp.asarray(IMAGE), (0.0, 0.0, 0.0), (2, 5, 3))
    np.testing.assert_array_equal(blurred, IMAGE)


def test_equals_scipy():
    blurred = blur(jnp.asarray(IMAGE), (0.7, 1.5, 1.0), (2, 5, 3))
    expected = IMAGE
    for axis, (sigma, radius) in enumerate(zip((0.7, 1.5, 1.0), (2, 5, 3), strict=True)):
        expected = ndimage.gaussian_filter1d(expected, sigma, axis, mode="nearest", radius=radius)
    np.testing.assert_allclose(blurred, expected, atol=1e-5)


def test_leaves_trailing_axes_and_axes_of_radius_zero_alone():
    blurred = blur(jnp.asarray(IMAGE), (9.0, 1.0), (0, 3))
    expected = ndimage.gaussian_filter1d(IMAGE, 1.0, 1, mode="nearest", radius=3)
    np.testing.assert_allclose(blurred, expected, atol=1e-5)


def test_takes_a_traced_width_per_sample():
    sigmas = jnp.array([0.0, 1.0, 2.0])
    batch = jax.jit(jax.vmap(lambda sigma: blur(jnp.asarray(IMAGE), (sigma,) * 3, (2, 5, 3))))(sigmas)
    for sigma, blurred in zip(sigmas, batch, strict=True):
        single = blur(jnp.asarray(IMAGE), (float(sigma),) * 3, (2, 5, 3))
        np.testing.assert_allclose(blurred, single, atol=1e-6)


def test_blurring_a_spike_spreads_its_mass():
    spike = jnp.zeros((21, 21)).at[10, 10].set(1.0)
    blurred = np.asarray(blur(spike, (2.0, 1.0), (8, 8)))
    assert blurred.sum() == pytest.approx(1, abs=1e-5)
    offset = np.arange(21) - 10
    assert blurred.sum(1) @ offset**2 == pytest.approx(4.0, rel=0.01)
    assert blurred.sum(0) @ offset**2 == pytest.approx(1.0, rel=0.01)
