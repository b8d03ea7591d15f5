"""The decoder by large windows against scipy and scikit-image on the mirrored canvas."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.feature import peak_local_max

from celltrack_jax.ops.windowed_peaks import find_windowed_peaks

compiled = jax.jit(find_windowed_peaks, static_argnames=("filter_size", "min_distance", "count"))


def found(heat, filter_size=20, min_distance=30, count=300):
    peaks = compiled(heat, filter_size=filter_size, min_distance=min_distance, count=count)
    valid = np.asarray(peaks.valid)
    return np.asarray(peaks.position)[valid], np.asarray(peaks.score)[valid]


def on_the_canvas(heat, filter_size, min_distance):
    """The chain of filter and search: (N, 2) pixels of the middle tile, and their heights."""
    canvas = np.pad(heat, [(size, size) for size in heat.shape], mode="symmetric")
    spread = ndimage.maximum_filter(canvas, size=filter_size)
    pixel = peak_local_max(spread, min_distance=min_distance)
    height = spread[tuple(pixel.T)]
    pixel = pixel - heat.shape
    inside = np.all((pixel >= 0) & (pixel < heat.shape), axis=1)
    return pixel[inside], height[inside]


def blobs(points, shape, sigma=2.0, height=None):
    height = np.ones(len(points)) if height is None else height
    axes = zip(shape, np.asarray(points, float).T, strict=True)
    y, x = (np.exp(-0.5 * ((np.arange(size) - p[:, None]) / sigma) ** 2) for size, p in axes)
    return (height[:, None, None] * y[:, :, None] * x[:, None, :]).max(0).astype(np.float32)


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    windows=st.sampled_from([(20, 30), (5, 9), (1, 1)]),
    cells=st.integers(1, 15),
    equal=st.booleans(),
)
def test_peaks_are_those_of_scikit_image_in_its_order(seed, windows, cells, equal):
    rng, shape = np.random.default_rng(seed), (45, 37)
    points = rng.random((cells, 2)) * shape
    heat = blobs(
        points.round() if equal else points, shape, 2.0, None if equal else rng.uniform(0.5, 1, cells)
    )
    position, score = found(heat, *windows)
    expected, height = on_the_canvas(heat, *windows)
    np.testing.assert_array_equal(position, expected)
    np.testing.assert_array_equal(score, height)


@pytest.mark.parametrize(
    ("spacing", "cells", "recovered"),
    [
        pytest.param(32, 121, 121, marks=pytest.mark.slow),
        (24, 196, 144),
        (20, 289, 144),
        pytest.param(16, 441, 144, marks=pytest.mark.slow),
    ],
)
def test_a_perfect_map_of_a_grid_loses_cells(spacing, cells, recovered):
    line = np.arange(40, 361, spacing)
    points = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    profile = np.exp(-0.5 * ((np.arange(400) - line[:, None]) / 2) ** 2).max(0)
    heat = np.outer(profile, profile).astype(np.float32)
    assert len(points) == cells
    assert len(found(heat)[0]) == recovered


def test_a_peak_comes_where_its_plateau_begins():
    position, _ = found(blobs([[50, 60]], (100, 110)))
    np.testing.assert_array_equal(position, [[41, 51]])


def test_only_the_highest_are_kept_when_there_are_too_many():
    line = np.arange(20, 200, 40)
    points = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    height = np.linspace(0.5, 1, len(points))
    position, score = found(blobs(points, (200, 200), 2.0, height), count=4)
    np.testing.assert_allclose(score, height[:-5:-1], rtol=1e-6)
    np.testing.assert_array_equal(position, points[:-5:-1] - 9)


@pytest.mark.parametrize("shape", [(40, 30), (1, 1)])
def test_a_flat_map_has_none(shape):
    assert len(found(np.full(shape, 0.7, np.float32))[0]) == 0
