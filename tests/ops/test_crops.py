"""Crops of cells against one numpy slice per cell."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.ops import crops

of_cells = jax.jit(crops.of_cells, static_argnums=5)
around = jax.jit(crops.around, static_argnums=2)


def frame(shape, cells, largest, seed):
    """Boxes with holes that overwrite each other, up to the border; the image, the labels, and the boxes' ends."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    for label in rng.permutation(cells) + 1:
        extent = rng.integers(1, largest + 1, len(shape))
        start = [rng.integers(0, max(size - e, 0) + 1) for size, e in zip(shape, extent, strict=True)]
        box = tuple(slice(s, s + e) for s, e in zip(start, extent, strict=True))
        part = labels[box]
        part[rng.random(part.shape) < 0.8] = label * 7
    ids = np.unique(labels)[1:]
    voxels = [np.argwhere(labels == label) for label in ids]
    low = np.array([v.min(0) for v in voxels]).reshape(-1, len(shape))
    high = np.array([v.max(0) + 1 for v in voxels]).reshape(-1, len(shape))
    return rng.integers(0, 60000, shape).astype(np.uint16), labels, ids, low, high


def one_crop(image, labels, label, size):
    """Cuts the box, nearest voxels of it where it is too large, and pads."""
    rows = [(index.min(), index.max() + 1) for index in np.nonzero(labels == label)]
    box = tuple(slice(*row) for row in rows)
    values, mask = image[box].astype(np.float32), labels[box] == label
    shrink = max(Fraction(1), *(Fraction(n, s) for n, s in zip(mask.shape, size, strict=True)))
    taken = [
        [math.floor((i + Fraction(1, 2)) * shrink) for i in range(math.ceil(n / shrink))] for n in mask.shape
    ]
    taken = [np.minimum(rows, n - 1) for rows, n in zip(taken, mask.shape, strict=True)]
    values, mask = values[np.ix_(*taken)], mask[np.ix_(*taken)]
    pads = [((s - n) // 2, s - n - (s - n) // 2) for n, s in zip(mask.shape, size, strict=True)]
    return np.pad(values, pads), np.pad(mask, pads)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([((40, 33), (8, 9)), ((12, 20, 17), (3, 6, 5)), ((10, 9), (16, 12))]),
    st.integers(3, 14),
    st.integers(0, 10**6),
)
def test_each_crop_is_the_slice_of_its_cell(shapes, largest, seed):
    shape, size = shapes
    image, labels, ids, low, high = frame(shape, 5, largest, seed)
    rows = [np.pad(x, [(0, 8 - len(ids))] + [(0, 0)] * (x.ndim - 1)) for x in (ids, low, high)]
    found = of_cells(image, labels, *rows, size)
    assert found.values.shape == found.inside.shape == (8, *size)
    for i, label in enumerate(ids):
        values, mask = one_crop(image, labels, label, size)
        np.testing.assert_array_equal(found.inside[i], mask)
        np.testing.assert_array_equal(found.values[i], values)
        # A cell that others cut to shreds may fall between the voxels of a crop that shrinks it.
        assert mask.any() or (high[i] - low[i] > size).any()
    assert not found.inside[len(ids) :].any()


def test_a_cell_that_fits_is_where_it_was_and_the_odd_voxel_behind():
    labels = np.zeros((9, 9), np.int32)
    labels[2:4, 5:8] = 3
    image = np.arange(81.0).reshape(9, 9)
    found = of_cells(image, labels, jnp.array([3]), jnp.array([[2, 5]]), jnp.array([[4, 8]]), (5, 6))
    expected = np.zeros((5, 6))
    expected[1:3, 1:4] = image[2:4, 5:8]
    np.testing.assert_array_equal(np.where(found.inside[0], found.values[0], 0), expected)


def test_one_large_cell_changes_no_other_crop():
    image, labels, ids, low, high = frame((40, 40), 4, 6, 0)
    before = of_cells(image, labels, ids, low, high, (8, 8))
    large = np.where(labels == 0, 99, labels)
    ids, low, high = np.append(ids, 99), np.vstack([low, [[0, 0]]]), np.vstack([high, [[40, 40]]])
    after = of_cells(image, large, ids, low, high, (8, 8))
    np.testing.assert_array_equal(after.inside[:-1], before.inside)
    assert after.inside[-1].mean() > 0.5


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([((40, 33), (8, 9)), ((6, 20, 17), (3, 6, 5)), ((6, 30), (9, 8))]),
    st.integers(0, 10**6),
)
def test_windows_are_slices_moved_into_the_frame(shapes, seed):
    shape, size = shapes
    rng = np.random.default_rng(seed)
    image = rng.normal(size=shape).astype(np.float32)
    centre = np.stack([rng.integers(0, n, 6) for n in shape], 1)
    found = around(image, centre, size)
    larger = np.pad(image, [(0, max(0, s - n)) for n, s in zip(shape, size, strict=True)])
    for i in range(6):
        start = [
            min(max(c - s // 2, 0), n - s) for c, s, n in zip(centre[i], size, larger.shape, strict=True)
        ]
        window = larger[tuple(slice(b, b + s) for b, s in zip(start, size, strict=True))]
        np.testing.assert_array_equal(found.values[i], window)
        assert found.inside[i].sum() == np.prod([min(n, s) for n, s in zip(shape, size, strict=True)])


@pytest.mark.parametrize("count", [0, 1, 16, 40, 300, 1000])
def test_chunks_hold_every_cell_once_with_little_padding(count):
    parts = crops.chunks(count, (16, 64, 256))
    assert [i for part, _ in parts for i in range(count)[part]] == list(range(count))
    assert 0 <= sum(size for _, size in parts) - count < 16
    assert all(part.stop - part.start == size for part, size in parts[:-1])
