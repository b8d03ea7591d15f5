"""Each lowering equals the plain one, in values and gradients; the plain one equals lax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from celltrack_jax.ops import convolution

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


def _random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def _value_and_gradients(function, x, kernel):
    """A scalar that weighs every output differently, so that a misplaced pixel shows."""

    def loss(x, kernel):
        y = function(x, kernel)
        return jnp.sum(_random(9, *y.shape) * jnp.sin(y))

    return jax.jit(function)(x, kernel), *jax.jit(jax.grad(loss, (0, 1)))(x, kernel)


def _assert_equal(ours, reference):
    for a, b in zip(ours, reference, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("x_shape", "kernel_shape"), CONVOLUTIONS)
def test_the_cpu_convolution_equals_the_plain_one(x_shape, kernel_shape):
    x, kernel = _random(0, *x_shape), _random(1, *kernel_shape)
    _assert_equal(
        _value_and_gradients(convolution.convolve, x, kernel),
        _value_and_gradients(convolution.convolve_plainly, x, kernel),
    )


@pytest.mark.parametrize(("x_shape", "kernel_shape", "strides"), [*STRIDED, *SMALL])
def test_with_strides_or_on_small_images_too(x_shape, kernel_shape, strides):
    x, kernel = _random(0, *x_shape), _random(1, *kernel_shape)
    _assert_equal(
        _value_and_gradients(lambda x, kernel: convolution.convolve(x, kernel, strides), x, kernel),
        _value_and_gradients(lambda x, kernel: convolution.convolve_plainly(x, kernel, strides), x, kernel),
    )


@pytest.mark.parametrize(("x_shape", "kernel_shape", "strides"), [STRIDED[0], STRIDED[4], SMALL[3]])
def test_strides_keep_every_other_pixel_of_the_whole(x_shape, kernel_shape, strides):
    x, kernel = _random(0, *x_shape), _random(1, *kernel_shape)
    every = tuple(slice(None, None, stride) for stride in strides)
    whole = convolution.convolve_plainly(x, kernel)
    strided = convolution.convolve_plainly(x, kernel, strides)
    np.testing.assert_allclose(strided, whole[(slice(None), *every)], rtol=1e-10, atol=1e-10)


def test_small_images_are_convolved_without_loops_over_pixels():
    """A convolution that XLA does not give to Eigen is in its program as a convolution."""
    x, kernel = _random(0, 2, 4, 5, 9), _random(1, 3, 3, 9, 4)
    function = jax.jit(lambda x, kernel: convolution.convolve(x, kernel, (2, 2)))
    assert "convolution(" not in str(function.lower(x, kernel).compile().as_text())


@pytest.mark.parametrize(("x_shape", "kernel_shape"), CONVOLUTIONS[-2:])
def test_the_plain_convolution_pads_with_zeros_to_the_same_size(x_shape, kernel_shape):
    x, kernel = _random(0, *x_shape), _random(1, *kernel_shape)
    out = convolution.convolve_plainly(x, kernel)
    sizes = kernel_shape[:-2]
    padded = np.pad(x, [(0, 0), *((n // 2, n // 2) for n in sizes), (0, 0)])
    expected = np.zeros(out.shape)
    for tap in np.ndindex(*sizes):
        window = tuple(slice(i, i + n) for i, n in zip(tap, x_shape[1:-1], strict=True))
        expected += padded[(slice(None), *window)] @ np.asarray(kernel[tap])
    np.testing.assert_allclose(out, expected, rtol=1e-10, atol=1e-10)


def test_the_cpu_convolution_maps_over_a_new_axis():
    x, kernel = _random(0, 3, 2, 8, 6, 9), _random(1, 3, 3, 9, 2)
    mapped = jax.vmap(jax.grad(lambda x, k: jnp.sum(convolution.convolve(x, k) ** 2), (0, 1)), (0, None))
    plain = jax.vmap(
        jax.grad(lambda x, k: jnp.sum(convolution.convolve_plainly(x, k) ** 2), (0, 1)), (0, None)
    )
    _assert_equal(mapped(x, kernel), plain(x, kernel))


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
    x, kernel = _random(0, *x_shape), _random(1, *kernel_shape)
    ours = _value_and_gradients(convolution.convolve, x, kernel)
    more = [n + (taps % 2 == 0) for n, taps in zip(x_shape[1:-1], kernel_shape, strict=False)]
    assert ours[0].shape == (x_shape[0], *more, kernel_shape[-1])
    _assert_equal(ours, _value_and_gradients(convolution.convolve_plainly, x, kernel))


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
    x, kernel = _random(0, *x_shape), _random(1, *kernel_shape)

    def made(x, kernel):
        for axis, times in enumerate(window, 1):
            x = jnp.repeat(x, times, axis)
        return convolution.convolve_plainly(x, kernel)

    _assert_equal(
        _value_and_gradients(lambda x, kernel: convolution.convolve_repeated(x, kernel, window), x, kernel),
        _value_and_gradients(made, x, kernel),
    )


@pytest.mark.parametrize(
    ("kernel_shape", "window"),
    [((3, 3, 6, 4), (2, 2)), ((3, 5, 6, 4), (1, 2)), ((3, 3, 3, 6, 4), (2, 3, 1))],
)
def test_the_overlapping_upsampling_spreads_each_pixel(kernel_shape, window):
    """Pixel i lies at i * stride, and each tap beside it; the CPU's sums equal the plain lowering."""
    ndim = len(window)
    x, kernel = _random(0, 2, *(4, 3, 2)[:ndim], 6), _random(1, *kernel_shape)
    made = [n * p for n, p in zip(x.shape[1:-1], window, strict=True)]
    expected = np.zeros((2, *(n + k for n, k in zip(made, kernel_shape, strict=False)), 4))
    for place in np.ndindex(*x.shape[1:-1]):
        for tap in np.ndindex(*kernel_shape[:ndim]):
            at = tuple(i * p + t for i, p, t in zip(place, window, tap, strict=True))
            expected[(slice(None), *at)] += np.asarray(x[(slice(None), *place)] @ kernel[tap])
    inside = tuple(slice(k // 2, k // 2 + n) for n, k in zip(made, kernel_shape, strict=False))
    ours = _value_and_gradients(lambda x, k: convolution.upsample_overlapping(x, k, window), x, kernel)
    np.testing.assert_allclose(ours[0], expected[(slice(None), *inside)], rtol=1e-10, atol=1e-10)
    with convolution.lowered_plainly():
        plain = _value_and_gradients(lambda x, k: convolution.upsample_overlapping(x, k, window), x, kernel)
    _assert_equal(ours, plain)


@pytest.mark.parametrize("window", [(2, 2), (1, 2), (1, 2, 2), (2, 3, 2)])
def test_upsample_equals_the_transposed_convolution(window):
    ndim = len(window)
    x, kernel = _random(0, 2, *(4, 3, 5)[:ndim], 6), _random(1, *window, 6, 4)
    numbers = (("NHWC", "HWIO", "NHWC"), ("NDHWC", "DHWIO", "NDHWC"))[ndim - 2]

    def reference(x, kernel):
        # conv_transpose mirrors nothing: it correlates the dilated input with the kernel as it stands.
        mirrored = jnp.flip(kernel, tuple(range(ndim)))
        return lax.conv_transpose(x, mirrored, window, "VALID", dimension_numbers=numbers)

    _assert_equal(
        _value_and_gradients(convolution.upsample, x, kernel), _value_and_gradients(reference, x, kernel)
    )


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
    np.testing.assert_allclose(convolution.upsample_linearly(jnp.asarray(x), window), expected, atol=1e-6)
    reference = jax.image.resize(x, expected.shape, "linear", antialias=False)
    np.testing.assert_allclose(reference, expected, atol=1e-5)


@pytest.mark.parametrize("window", [(2, 2), (3, 1), (1, 2, 2), (2, 2, 2)])
def test_max_pool_equals_reduce_window(window):
    x = _random(0, 2, *(6, 6, 4)[: len(window)], 3)

    def reference(x):
        full = (1, *window, 1)
        return lax.reduce_window(x, -jnp.inf, lax.max, full, full, "VALID")

    def gradient(pool):
        return jax.grad(lambda x: jnp.sum(jnp.sin(3 * pool(x))))(x)

    pool = lambda x: convolution.max_pool(x, window)  # noqa: E731
    np.testing.assert_array_equal(pool(x), reference(x))
    np.testing.assert_allclose(gradient(pool), gradient(reference), rtol=1e-12)


def test_max_pool_shares_the_gradient_of_a_tie():
    x = jnp.asarray([1.0, 1.0, 0.0, 1.0]).reshape(1, 2, 2, 1)
    gradient = jax.grad(lambda x: 6 * jnp.sum(convolution.max_pool(x, (2, 2))))(x)
    np.testing.assert_allclose(gradient.ravel(), [2, 2, 0, 2])


@pytest.mark.parametrize("size", [(6, 7), (5, 1), (4, 5, 6)])
@pytest.mark.parametrize(("window", "stride"), [(3, 2), (5, 3), (3, 1)])
def test_overlapping_max_pool_equals_its_windows(size, window, stride):
    x = np.asarray(_random(0, 2, *size, 3))
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
        return convolution.max_pool_overlapping(x, window, stride)

    np.testing.assert_array_equal(pool(x), expected)
    ours = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(pool(x)))))(x)
    np.testing.assert_allclose(ours, gradient, rtol=1e-12)
    with convolution.lowered_plainly():
        np.testing.assert_array_equal(pool(x), expected)
