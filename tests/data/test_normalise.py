"""Percentiles by counting are numpy's, and normalisation undoes gain and offset."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.data import normalise


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "float32"])
@settings(deadline=None)
@given(size=st.integers(1, 700), seed=st.integers(0, 2**32 - 1), top=st.sampled_from([1, 3, 200, 255]))
def test_percentiles_are_those_of_numpy(dtype, size, seed, top):
    image = np.random.default_rng(seed).integers(0, top + 1, (2, size)).astype(dtype)
    expected = np.percentile(image.astype(np.float64), normalise.PERCENTILES, axis=1).T
    np.testing.assert_allclose(normalise.percentiles(image), expected, rtol=1e-6, atol=1e-5)


def test_a_frame_larger_than_a_block_is_counted_whole(monkeypatch):
    image = np.random.default_rng(0).integers(0, 60_000, (1, 5000)).astype(np.uint16)
    whole = normalise.percentiles(image)
    monkeypatch.setattr(normalise, "_BLOCK", 700)
    np.testing.assert_array_equal(normalise.percentiles(image), whole)


@settings(deadline=None)
@given(gain=st.floats(0.01, 100), offset=st.floats(-1000, 1000), seed=st.integers(0, 99))
def test_gain_and_offset_do_not_matter(gain, offset, seed):
    image = np.random.default_rng(seed).normal(10, 3, (2, 9, 11))
    changed = gain * image + offset
    one = normalise.normalise(image, normalise.percentiles(image))
    two = normalise.normalise(changed, normalise.percentiles(changed))
    np.testing.assert_allclose(one, two, atol=2e-3)
    low, _, high = np.percentile(one, normalise.PERCENTILES, axis=(1, 2))
    np.testing.assert_allclose(low, 0, atol=1e-5)
    np.testing.assert_allclose(high, 1, atol=1e-5)


def test_a_part_is_normalised_like_the_whole():
    image = np.random.default_rng(1).integers(0, 4000, (2, 20, 30)).astype(np.uint16)
    percentiles = normalise.percentiles(image)
    whole = normalise.normalise(image, percentiles)
    np.testing.assert_array_equal(normalise.normalise(image[:, 5:9, 7:], percentiles), whole[:, 5:9, 7:])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_constant_frame_becomes_zero(dtype):
    image = np.full((1, 4, 5), 7, dtype)
    result = normalise.normalise(image, normalise.percentiles(image))
    assert result.dtype == np.float32
    assert not result.any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    image = np.ones((1, 3, 3), np.float32)
    image[0, 1, 1] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        normalise.percentiles(image)


def test_an_image_without_pixels_is_refused():
    with pytest.raises(ValueError, match="no pixels"):
        normalise.percentiles(np.zeros((1, 0, 5), np.uint8))
