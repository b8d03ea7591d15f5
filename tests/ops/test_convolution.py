"""Each lowering equals the plain one, in values and gradients; the plain one equals lax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celltrack_jax.ops import convolution
from tests.ops.both_ways import assert_equal, random, value_and_gradients

CONVOLUTIONS = [
    ((2, 12, 10, 9), (3, 3, 9, 4)),
    ((2, 12, 10, 3), (3, 3, 3, 4)),
    ((1, 7, 11, 8), (5, 1, 8, 2)),
    ((3, 640, 4, 8), (3, 3, 8, 2)),
    ((1, 6, 8, 10, 9), (3, 3, 3, 9, 4)),
    ((2, 4, 8, 6, 8), (1, 3, 3, 8, 3)),
    ((2, 5, 6, 8, 1), (3, 5, 3, 1, 4)),
]
STRIDED = [
    ((2, 12, 9, 9), (3, 3, 9, 4), (2, 2)),
    ((2, 11, 8, 1), (7, 7, 1, 4), (2, 2)),
    ((2, 6, 8, 8), (1, 1, 8, 3), (2, 2)),
    ((1, 6, 9, 10, 9), (3, 3, 3, 9, 4), (2, 2, 2)),
    ((1, 5, 17, 16, 1), (7, 5, 5, 1, 4), (1, 2, 2)),
]
SMALL = [
    ((2, 2, 2, 9), (3, 3, 9, 4), (1, 1)),
    ((2, 1, 1, 9), (3, 3, 9, 4), (1, 1)),
    ((2, 3, 7, 9), (3, 3, 9, 4), (1, 1)),
    ((2, 4, 5, 9), (3, 3, 9, 4), (2, 2)),
    ((1, 2, 3, 1, 9), (3, 3, 3, 9, 4), (2, 1, 2)),
]


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize(("x_shape", "kernel_shape"), CONVOLUTIONS)
def test_the_cpu_convolution_equals_the_plain_one(x_shape, kernel_shape):
    x, kernel = random(0, *x_shape), random(1, *kernel_shape)
    assert_equal(
        value_and_gradients(convolution.convolve, x, kernel),
        value_and_gradients(convolution.convolve_plainly, x, kernel),
    )


@pytest.mark.parametrize(("x_shape", "kernel_shape", "strides"), [*STRIDED, *SMALL])
def test_with_strides_or_on_small_images_too(x_shape, kernel_shape, strides):
    x, kernel = random(0, *x_shape), random(1, *kernel_shape)
    assert_equal(
        value_and_gradients(lambda x, kernel: convolution.convolve(x, kernel, strides), x, kernel),
        value_and_gradients(lambda x, kernel: convolution.convolve_plainly(x, kernel, strides), x, kernel),
    )


@pytest.mark.parametrize(("x_shape", "kernel_shape", "strides"), [STRIDED[0], STRIDED[4], SMALL[3]])
def test_strides_keep_every_other_pixel_of_the_whole(x_shape, kernel_shape, strides):
    x, kernel = random(0, *x_shape), random(1, *kernel_shape)
    every = tuple(slice(None, None, stride) for stride in strides)
    whole = convolution.convolve_plainly(x, kernel)
    strided = convolution.convolve_plainly(x, kernel, strides)
    np.testing.assert_allclose(strided, whole[(slice(None), *every)], rtol=1e-10, atol=1e-10)


def test_small_images_are_convolved_without_loops_over_pixels():
    """A convolution that XLA does not give to Eigen is in its program as a convolution."""
    x, kernel = random(0, 2, 4, 5, 9), random(1, 3, 3, 9, 4)
    function = jax.jit(lambda x, kernel: convolution.convolve(x, kernel, (2, 2)))
    assert "convolution(" not in str(function.lower(x, kernel).compile().as_text())


@pytest.mark.parametrize(("x_shape", "kernel_shape"), CONVOLUTIONS[-2:])
def test_the_plain_convolution_pads_with_zeros_to_the_same_size(x_shape, kernel_shape):
    x, kernel = random(0, *x_shape), random(1, *kernel_shape)
    out = convolution.convolve_plainly(x, kernel)
    sizes = kernel_shape[:-2]
    padded = np.pad(x, [(0, 0), *((n // 2, n // 2) for n in sizes), (0, 0)])
    expected = np.zeros(out.shape)
    for tap in np.ndindex(*sizes):
        window = tuple(slice(i, i + n) for i, n in zip(tap, x_shape[1:-1], strict=True))
        expected += padded[(slice(None), *window)] @ np.asarray(kernel[tap])
    np.testing.assert_allclose(out, expected, rtol=1e-10, atol=1e-10)


def test_the_cpu_convolution_maps_over_a_new_axis():
    x, kernel = random(0, 3, 2, 8, 6, 9), random(1, 3, 3, 9, 2)
    mapped = jax.vmap(jax.grad(lambda x, k: jnp.sum(convolution.convolve(x, k) ** 2), (0, 1)), (0, None))
    plain = jax.vmap(
        jax.grad(lambda x, k: jnp.sum(convolution.convolve_plainly(x, k) ** 2), (0, 1)), (0, None)
    )
    assert_equal(mapped(x, kernel), plain(x, kernel))


def test_other_platforms_get_one_plain_convolution():
    x, kernel = jnp.ones((1, 4, 8, 8, 9)), jnp.ones((3, 3, 3, 9, 2))
    gradients = jax.jit(jax.grad(lambda x, k: jnp.sum(convolution.convolve(x, k) ** 2), (0, 1)))
    for platform in ("tpu", "cuda"):
        text = jax.export.export(gradients, platforms=[platform])(x, kernel).mlir_module()
        assert text.count("stablehlo.convolution") == 3, "forward, input gradient, kernel gradient"
        assert "stablehlo.while" not in text


def test_other_platforms_get_one_plain_convolution_with_strides_too():
    x, kernel = jnp.ones((1, 4, 8, 8, 9)), jnp.ones((3, 3, 3, 9, 2))
    gradients = jax.jit(jax.grad(lambda x, k: jnp.sum(convolution.convolve(x, k, (2, 2, 2)) ** 2), (0, 1)))
    text = jax.export.export(gradients, platforms=["cuda"])(x, kernel).mlir_module()
    assert text.count("stablehlo.convolution") == 3


EVEN = [
    ((2, 12, 10, 9), (2, 3, 9, 4)),
    ((2, 5, 7, 9, 8), (2, 2, 2, 8, 3)),
    ((2, 4, 6, 5, 2), (1, 2, 2, 2, 3)),
]


@pytest.mark.parametrize(("x_shape", "kernel_shape"), EVEN)
def test_an_even_kernel_makes_one_pixel_more(x_shape, kernel_shape):
    x, kernel = random(0, *x_shape), random(1, *kernel_shape)
    ours = value_and_gradients(convolution.convolve, x, kernel)
    more = [n + (taps % 2 == 0) for n, taps in zip(x_shape[1:-1], kernel_shape, strict=False)]
    assert ours[0].shape == (x_shape[0], *more, kernel_shape[-1])
    assert_equal(ours, value_and_gradients(convolution.convolve_plainly, x, kernel))


@pytest.mark.parametrize(
    ("x_shape", "kernel_shape", "window"),
    [
        ((2, 4, 3, 9), (3, 3, 9, 4), (2, 2)),
        ((1, 4, 5, 9), (5, 3, 9, 4), (1, 2)),
        ((1, 4, 5, 6, 9), (3, 3, 3, 9, 2), (2, 2, 2)),
        ((1, 3, 5, 4, 8), (1, 3, 3, 8, 2), (1, 2, 2)),
        ((1, 3, 2, 8), (3, 1, 8, 2), (3, 2)),
    ],
)
def test_repeated_pixels_need_not_be_made_to_be_convolved(x_shape, kernel_shape, window):
    x, kernel = random(0, *x_shape), random(1, *kernel_shape)

    def made(x, kernel):
        for axis, times in enumerate(window, 1):
            x = jnp.repeat(x, times, axis)
        return convolution.convolve_plainly(x, kernel)

    assert_equal(
        value_and_gradients(lambda x, kernel: convolution.convolve_repeated(x, kernel, window), x, kernel),
        value_and_gradients(made, x, kernel),
    )
