"""Windows and medoids against loops over the cells."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.ops import windows
from tests.representations.cells import touching_cells

K = 40
MAPS = {
    "2d": (touching_cells((40, 52), (1, 1), 6.0, seed=1), (1.0, 1.0), (15, 17)),
    "3d": (touching_cells((9, 24, 20), (2, 1, 1), 5.0, seed=1), (2.0, 1.0, 1.0), (9, 13, 12)),
}
_starts = jax.jit(windows.starts, static_argnums=(1, 2))
_cut = jax.jit(windows.cut, static_argnums=2)
_medoids = jax.jit(windows.medoids, static_argnums=(2, 3))


def sums(pixels, spacing):
    """Sum of the distances of each pixel to all, over pairs."""
    return np.linalg.norm((pixels[:, None] - pixels) * spacing, axis=-1).sum(1)


@pytest.fixture(params=list(MAPS), name="case")
def _case(request):
    return MAPS[request.param]


def test_a_window_shows_all_of_a_cell_that_fits_and_lies_in_the_map(case):
    labels, _, size = case
    start = np.asarray(_starts(labels, K, size))
    assert (start >= 0).all()
    assert (start + size <= labels.shape).all()
    shown = np.asarray(_cut(labels, start, size))
    for cell in range(1, labels.max() + 1):
        assert (shown[cell - 1] == cell).sum() == (labels == cell).sum()


def test_windows_are_cut_with_their_channels(case):
    labels, _, size = case
    values = np.random.default_rng(0).normal(size=(*labels.shape, 2)).astype(np.float32)
    start = np.asarray(_starts(labels, K, size))
    found = np.asarray(_cut(values, start, size))
    for one, first in zip(found, start, strict=True):
        np.testing.assert_array_equal(
            one, values[tuple(slice(f, f + n) for f, n in zip(first, size, strict=True))]
        )


def test_medoids_have_the_least_sum_of_distances(case):
    labels, spacing, size = case
    found = np.asarray(_medoids(labels, np.float32(spacing), K, size))
    for cell in range(1, K + 1):
        pixels = np.argwhere(labels == cell)
        if not len(pixels):
            assert np.isnan(found[cell - 1]).all()
            continue
        total = sums(pixels, spacing)
        mine = total[(pixels == found[cell - 1]).all(1)]
        assert len(mine) == 1
        assert mine[0] <= total.min() * (1 + 1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), spacing=st.sampled_from([(1.0, 1.0), (3.0, 0.5)]))
def test_medoids_of_scattered_pixels(seed, spacing):
    """Cells of any shape, as unknown pixels and neighbours leave them."""
    labels = np.random.default_rng(seed).integers(-1, 4, (7, 9)).astype(np.int32)
    found = np.asarray(_medoids(labels, np.float32(spacing), 3, (7, 9)))
    for cell in (1, 2, 3):
        pixels = np.argwhere(labels == cell)
        if len(pixels):
            total = sums(pixels, spacing)
            assert total[(pixels == found[cell - 1]).all(1)][0] <= total.min() * (1 + 1e-5)


def test_the_medoid_of_a_bent_cell_lies_in_it():
    labels = np.zeros((20, 20), np.int32)
    labels[2:18, 2:4] = labels[16:18, 2:18] = 1
    row, column = np.asarray(_medoids(labels, np.ones(2, np.float32), 2, (20, 20)))[0].astype(int)
    assert labels[row, column] == 1


def test_vmaps():
    labels, spacing, size = MAPS["2d"]
    batch = np.stack([labels, labels[::-1], np.zeros_like(labels)])
    find = functools.partial(windows.medoids, spacing=jnp.float32(spacing), max_cells=K, size=size)
    found = np.asarray(jax.jit(jax.vmap(find))(jnp.asarray(batch)))
    assert np.isnan(found[2]).all()
    for one, medoid in zip(batch[:2], found, strict=False):
        for cell in range(1, labels.max() + 1):
            pixels = np.argwhere(one == cell)
            total = sums(pixels, spacing)
            assert total[(pixels == medoid[cell - 1]).all(1)][0] <= total.min() * (1 + 1e-5)
