import functools

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


matrix_of = jax.jit(gaussian.kernel_matrix, static_argnums=(0, 1))
smooth = jax.jit(gaussian.smooth)


def taps_of(size, sigma):
    """The kernel itself, in float64."""
    taps = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / sigma) ** 2)
    return taps / taps.sum()


@pytest.mark.parametrize("size", [3, 14])
@pytest.mark.parametrize("sigma", [1e-9, 0.02, 1.0, 4.0, 1e9])
def test_columns_of_a_kernel_matrix_sum_to_one(size, sigma):
    # Also where the kernel is longer than the axis.
    matrix = np.asarray(matrix_of(9, size, sigma))
    assert matrix.min() >= 0
    np.testing.assert_allclose(matrix.sum(0), 1, atol=1e-6)


@pytest.mark.parametrize(("size", "sigma"), [(3, 1.0), (7, 2.0)])
def test_smoothing_by_matrices_is_the_convolution_with_the_truncated_kernel(size, sigma):
    kernel = functools.reduce(np.multiply.outer, [taps_of(size, sigma)] * 3)
    expected = ndimage.convolve(IMAGE.astype(np.float64), kernel, mode="nearest")
    matrices = [matrix_of(length, size, sigma) for length in IMAGE.shape]
    np.testing.assert_allclose(smooth(IMAGE[None], matrices)[0], expected, atol=1e-5)


def test_each_axis_has_its_own_width():
    matrices = [
        matrix_of(length, 7, sigma) for length, sigma in zip(IMAGE.shape, (0.5, 1.0, 2.0), strict=True)
    ]
    expected = IMAGE.astype(np.float64)
    for axis, sigma in enumerate((0.5, 1.0, 2.0)):
        expected = ndimage.convolve1d(expected, taps_of(7, sigma), axis, mode="nearest")
    np.testing.assert_allclose(smooth(IMAGE[None], matrices)[0], expected, atol=1e-5)


def test_an_even_kernel_shifts_by_half_a_pixel():
    line = IMAGE[0, 0].astype(np.float64)
    padded = np.pad(line, (6, 7), mode="edge")
    expected = [taps_of(14, 4.0) @ padded[k : k + 14] for k in range(len(line))]
    np.testing.assert_allclose(line @ matrix_of(len(line), 14, 4.0), expected, atol=1e-5)
    # A ramp far from the border is moved by exactly half a pixel.
    ramp = np.arange(40.0) @ np.asarray(matrix_of(40, 14, 4.0))
    np.testing.assert_allclose(ramp[7:32], np.arange(7, 32) + 0.5, rtol=1e-5)


@pytest.mark.parametrize("sigma", [0.0, 1e-7, 0.05])
def test_a_kernel_matrix_without_width_is_the_identity_or_the_mean_of_two(sigma):
    np.testing.assert_array_equal(matrix_of(9, 5, sigma), np.eye(9))
    even = np.asarray(matrix_of(9, 4, sigma))
    expected = 0.5 * (np.eye(9) + np.eye(9, k=-1))
    expected[-1, -1] = 1
    np.testing.assert_array_equal(even, expected)


@pytest.mark.parametrize(
    ("size", "sigma", "effective"),
    [(3, 1, 0.74), (5, 1, 0.96), (5, 2, 1.29), (7, 2, 1.64), (9, 3, 2.23), (11, 3, 2.53), (14, 4, 3.28)],
)
def test_truncated_kernels_are_narrower_than_their_sigma(size, sigma, effective):
    """The table of docs/originals.md, 2.4."""
    spread = np.asarray(matrix_of(31, size, float(sigma)))[15]
    place = np.arange(31)
    middle = spread @ place
    assert middle == pytest.approx(15 if size % 2 else 14.5, abs=1e-4)
    assert np.sqrt(spread @ (place - middle) ** 2) == pytest.approx(effective, abs=0.006)


def test_taps_that_are_not_used_are_as_if_the_kernel_were_shorter():
    masked = jax.jit(jax.vmap(lambda used: gaussian.kernel_matrix(20, 9, 2.0, used)))(jnp.array([3.0, 5, 9]))
    for used, matrix in zip((3, 5, 9), masked, strict=True):
        np.testing.assert_allclose(matrix, matrix_of(20, used, 2.0), atol=1e-7)
