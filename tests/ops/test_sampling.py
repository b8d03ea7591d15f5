"""Sampling up and down against windows, numpy and lax; each lowering equals the plain one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from celltrack_jax.ops import lowering, sampling
from tests.ops.both_ways import assert_equal, random, value_and_gradients


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize(
    ("kernel_shape", "window"),
    [((3, 3, 6, 4), (2, 2)), ((3, 5, 6, 4), (1, 2)), ((3, 3, 3, 6, 4), (2, 3, 1))],
)
def test_the_overlapping_upsampling_spreads_each_pixel(kernel_shape, window):
    """Pixel i lies at i * stride, and each tap beside it; the CPU's sums equal the plain lowering."""
    ndim = len(window)
    x, kernel = random(0, 2, *(4, 3, 2)[:ndim], 6), random(1, *kernel_shape)
    made = [n * p for n, p in zip(x.shape[1:-1], window, strict=True)]
    expected = np.zeros((2, *(n + k for n, k in zip(made, kernel_shape, strict=False)), 4))
    for place in np.ndindex(*x.shape[1:-1]):
        for tap in np.ndindex(*kernel_shape[:ndim]):
            at = tuple(i * p + t for i, p, t in zip(place, window, tap, strict=True))
            expected[(slice(None), *at)] += np.asarray(x[(slice(None), *place)] @ kernel[tap])
    inside = tuple(slice(k // 2, k // 2 + n) for n, k in zip(made, kernel_shape, strict=False))
    ours = value_and_gradients(lambda x, k: sampling.upsample_overlapping(x, k, window), x, kernel)
    np.testing.assert_allclose(ours[0], expected[(slice(None), *inside)], rtol=1e-10, atol=1e-10)
    with lowering.lowered_plainly():
        plain = value_and_gradients(lambda x, k: sampling.upsample_overlapping(x, k, window), x, kernel)
    assert_equal(ours, plain)


@pytest.mark.parametrize("window", [(2, 2), (1, 2), (1, 2, 2), (2, 3, 2)])
def test_upsample_equals_the_transposed_convolution(window):
    ndim = len(window)
    x, kernel = random(0, 2, *(4, 3, 5)[:ndim], 6), random(1, *window, 6, 4)
    numbers = (("NHWC", "HWIO", "NHWC"), ("NDHWC", "DHWIO", "NDHWC"))[ndim - 2]

    def reference(x, kernel):
        # conv_transpose mirrors nothing: it correlates the dilated input with the kernel as it stands.
        mirrored = jnp.flip(kernel, tuple(range(ndim)))
        return lax.conv_transpose(x, mirrored, window, "VALID", dimension_numbers=numbers)

    assert_equal(value_and_gradients(sampling.upsample, x, kernel), value_and_gradients(reference, x, kernel))


def _interpolated(row, size):
    """numpy's linear interpolation between pixel centres, which repeats the outermost values."""
    centres = (np.arange(len(row) * size) + 0.5) / size - 0.5
    return np.interp(centres, np.arange(len(row)), row)


@pytest.mark.parametrize("window", [(2, 2), (3, 1), (1, 4, 2)])
def test_linear_upsampling_equals_numpys_interpolation(window):
    x = np.random.default_rng(0).normal(size=(2, *(4, 1, 5)[: len(window)], 3)).astype(np.float32)
    expected = x
    for axis, size in enumerate(window, 1):
        expected = np.apply_along_axis(_interpolated, axis, expected, size)
    np.testing.assert_allclose(sampling.upsample_linearly(jnp.asarray(x), window), expected, atol=1e-6)
    reference = jax.image.resize(x, expected.shape, "linear", antialias=False)
    np.testing.assert_allclose(reference, expected, atol=1e-5)


@pytest.mark.parametrize("window", [(2, 2), (3, 1), (1, 2, 2), (2, 2, 2)])
def test_max_pool_equals_reduce_window(window):
    x = random(0, 2, *(6, 6, 4)[: len(window)], 3)

    def reference(x):
        full = (1, *window, 1)
        return lax.reduce_window(x, -jnp.inf, lax.max, full, full, "VALID")

    def gradient(pool):
        return jax.grad(lambda x: jnp.sum(jnp.sin(3 * pool(x))))(x)

    pool = lambda x: sampling.max_pool(x, window)  # noqa: E731
    np.testing.assert_array_equal(pool(x), reference(x))
    np.testing.assert_allclose(gradient(pool), gradient(reference), rtol=1e-12)


def test_max_pool_shares_the_gradient_of_a_tie():
    x = jnp.asarray([1.0, 1.0, 0.0, 1.0]).reshape(1, 2, 2, 1)
    gradient = jax.grad(lambda x: 6 * jnp.sum(sampling.max_pool(x, (2, 2))))(x)
    np.testing.assert_allclose(gradient.ravel(), [2, 2, 0, 2])


@pytest.mark.parametrize("size", [(6, 7), (5, 1), (4, 5, 6)])
@pytest.mark.parametrize(("window", "stride"), [(3, 2), (5, 3), (3, 1)])
def test_overlapping_max_pool_equals_its_windows(size, window, stride):
    x = np.asarray(random(0, 2, *size, 3))
    half = window // 2
    out = [-(-n // stride) for n in size]
    expected = np.zeros((2, *out, 3))
    gradient = np.zeros(x.shape)
    for place in np.ndindex(*out):
        lows = [max(0, stride * i - half) for i in place]
        seen = tuple(slice(low, stride * i + half + 1) for low, i in zip(lows, place, strict=True))
        blocks = x[(slice(None), *seen)]
        expected[(slice(None), *place)] = blocks.max(tuple(range(1, x.ndim - 1)))
        for b, c in np.ndindex(2, 3):
            block = blocks[b, ..., c]
            top = np.unravel_index(block.argmax(), block.shape)
            gradient[(b, *np.add(lows, top), c)] += np.cos(block.max())

    def pool(x):
        return sampling.max_pool_overlapping(x, window, stride)

    np.testing.assert_array_equal(pool(x), expected)
    ours = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(pool(x)))))(x)
    np.testing.assert_allclose(ours, gradient, rtol=1e-12)
    with lowering.lowered_plainly():
        np.testing.assert_array_equal(pool(x), expected)
