"""Whole frames at another size: against averages over areas counted by hand, scikit-image, and on both devices."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import transform

from celltrack_jax.ops import resize

SIZES = st.tuples(st.integers(1, 12), st.integers(1, 12))


def areas(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(Y, X) to (y, x): repeats each pixel y times x times, then averages Y by X of these."""
    fine = image.repeat(size[0], 0).repeat(size[1], 1)
    return fine.reshape(size[0], image.shape[0], size[1], image.shape[1]).mean(axis=(1, 3))


@settings(deadline=None, max_examples=40)
@given(SIZES, SIZES, st.integers(0, 2**32 - 1))
def test_on_the_way_down_pixels_are_averages_over_their_areas(shape, size, seed):
    size = (min(size[0], shape[0]), min(size[1], shape[1]))
    image = np.random.default_rng(seed).random(shape).astype(np.float32)
    made = resize.resize_on_host(image[None], size)[0]
    expected = areas(image, size)
    np.testing.assert_allclose(made, expected, atol=1e-6)


@pytest.mark.parametrize(("shape", "size"), [((7, 9), (20, 13)), ((2, 3), (5, 3)), ((5, 1), (9, 4))])
def test_on_the_way_up_pixels_are_interpolated_as_in_scikit_image(shape, size):
    image = np.random.default_rng(0).random(shape).astype(np.float32)
    expected = np.asarray(transform.resize(image, size, order=1, mode="edge", anti_aliasing=False))
    np.testing.assert_allclose(resize.resize_on_host(image[None], size)[0], expected, atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(1, 40))
def test_weights_are_shares(size, made):
    weights = resize.area_weights(size, made)
    assert (weights.shape, weights.dtype) == ((made, size), np.float32)
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(weights, weights[::-1, ::-1], atol=1e-6)


@settings(deadline=None, max_examples=10)
@given(SIZES, SIZES)
def test_device_and_host_agree(shape, size):
    image = np.random.default_rng(0).random((2, *shape, 3)).astype(np.float32)
    made = np.asarray(resize.resize(jnp.asarray(image), size))
    assert made.shape == (2, *size, 3)
    for one, expected in zip(image, made, strict=True):
        on_host = resize.resize_on_host(np.moveaxis(one, -1, 0), size)
        np.testing.assert_allclose(np.moveaxis(on_host, 0, -1), expected, atol=1e-6)


def test_the_size_it_has_changes_nothing():
    image = np.random.default_rng(0).random((1, 8, 5)).astype(np.float32)
    np.testing.assert_array_equal(resize.resize_on_host(image, (8, 5)), image)
    labels = np.arange(40).reshape(8, 5)
    np.testing.assert_array_equal(resize.resize_labels(labels, (8, 5)), labels)


@settings(deadline=None, max_examples=40)
@given(SIZES, SIZES)
def test_labels_are_those_under_the_middle(shape, size):
    labels = np.random.default_rng(0).permutation(shape[0] * shape[1]).reshape(shape) - 1
    made = resize.resize_labels(labels, size)
    assert (made.shape, made.dtype) == (size, labels.dtype)
    for (y, x), label in np.ndenumerate(made):
        # The pixel that holds ((y + 1/2) Y / y', (x + 1/2) X / x'), in integers.
        row, column = ((2 * y + 1) * shape[0]) // (2 * size[0]), ((2 * x + 1) * shape[1]) // (2 * size[1])
        assert label == labels[row, column]
