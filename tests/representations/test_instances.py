import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from celltrack_jax.representations import instances
from tests.representations.cells import touching_cells


def parts_of(mask):
    """Returns the labelled parts of a mask, connected through faces, and their number."""
    parts = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, output=parts)
    return parts, int(parts.max(initial=0))


def hills(shape, seed, sigma=2.0):
    """Returns smooth random ground with whole heights, so that prominences are exact."""
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = ndimage.gaussian_filter(noise, sigma)
    return np.round(50 * smooth / smooth.std()).astype(np.float32)


def prominent_peaks(height, prominence):
    """Returns the tops of the peaks that rise by a prominence, by adding pixels from the highest down.

    Where two hills meet, the lower one ends: it was a peak if it rises far enough above the pass.
    """
    ground = np.arange(height.size).reshape(height.shape)
    neighbours = [[] for _ in range(height.size)]
    for axis in range(height.ndim):
        lines = np.moveaxis(ground, axis, 0)
        for here, there in zip(lines[:-1].reshape(-1), lines[1:].reshape(-1), strict=True):
            neighbours[here].append(there)
            neighbours[there].append(here)
    values = height.reshape(-1)
    summit, peaks = {}, []
    for pixel in np.argsort(-values, kind="stable"):
        hills = {summit[n] for n in neighbours[pixel] if n in summit}
        highest = max(hills, key=lambda top: values[top], default=pixel)
        peaks += [hill for hill in hills - {highest} if values[hill] - values[pixel] >= prominence]
        summit[pixel] = highest
        if len(hills) > 1:
            summit = {n: highest if top in hills else top for n, top in summit.items()}
    return [*peaks, values.argmax()]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), prominence=st.integers(1, 120), depth=st.sampled_from([None, 3]))
def test_splits_into_one_basin_per_prominent_peak(seed, prominence, depth):
    shape = (18, 21) if depth is None else (depth, 10, 12)
    height = hills(shape, seed, sigma=1.5 if depth is None else 1.0)
    # No two pixels are equally high, or either of two tops would do.
    height += np.random.default_rng(seed).permutation(height.size).reshape(shape) / (2 * height.size)
    basins = instances.split_by_height(height, np.ones(shape, bool), prominence)
    peaks = prominent_peaks(height, prominence)
    assert sorted(basins.reshape(-1)[peaks]) == list(range(1, len(peaks) + 1))
    assert basins.max() == len(peaks)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), prominence=st.floats(0, 200))
def test_covers_exactly_the_mask_with_connected_basins(seed, prominence):
    height = hills((26, 22), seed)
    mask = hills((26, 22), seed + 1, 1.0) > 0
    basins = instances.split_by_height(height, mask, prominence)
    np.testing.assert_array_equal(basins > 0, mask)
    assert set(np.unique(basins)) <= set(range(basins.max() + 1))
    for basin in range(1, basins.max() + 1):
        assert parts_of(basins == basin)[1] == 1
    assert basins.max() >= parts_of(mask)[1]
    assert instances.split_by_height(height, mask, 1e9).max() == parts_of(mask)[1]


def test_a_flat_mask_is_one_basin_per_part():
    mask = np.zeros((9, 12), bool)
    mask[1:4, 1:5] = mask[6:8, 2:9] = True
    np.testing.assert_array_equal(
        instances.split_by_height(np.zeros((9, 12), np.float32), mask, 0.1), instances.components(mask)
    )


def test_diagonal_neighbours_are_two_parts_and_both_have_a_basin():
    mask = np.eye(4, dtype=bool)
    height = np.arange(16, dtype=np.float32).reshape(4, 4)
    assert instances.split_by_height(height, mask, 100.0).max() == 4


def test_an_empty_mask_has_no_basin():
    assert not instances.split_by_height(np.ones((5, 5), np.float32), np.zeros((5, 5), bool), 0.1).any()


def test_ridges_split_where_the_pass_is_low_enough():
    height = np.array([[5, 4, 3, 4, 6, 5, 4.5, 9]], np.float32)
    mask = np.ones_like(height, bool)
    assert instances.split_by_height(height, mask, 1.4).max() == 3
    assert instances.split_by_height(height, mask, 1.75).max() == 2
    assert instances.split_by_height(height, mask, 2.5).max() == 1


def holes_by_loop(labels):
    filled = labels.copy()
    for label in np.unique(labels[labels > 0]):
        solid = ndimage.binary_fill_holes(labels == label)
        # Other cells may lie in the hole: those holes stay.
        parts, count = parts_of(solid & (labels != label))
        for part in range(1, count + 1):
            if not labels[parts == part].any():
                filled[parts == part] = label
    return filled


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0.05, 0.5))
def test_fill_holes_equals_filling_cell_by_cell(seed, share):
    labels = touching_cells((30, 34), (1, 1), 7.0, seed=seed % 7)
    labels[np.random.default_rng(seed).random(labels.shape) < share] = 0
    np.testing.assert_array_equal(instances.fill_holes(labels), holes_by_loop(labels))


def test_fill_holes_in_3d():
    ball = touching_cells((9, 20, 20), (2, 1, 1), 8.0, seed=0)
    labels = np.where(ball == 1, 1, 0).astype(np.int32)
    middle = tuple(np.argwhere(ndimage.binary_erosion(labels > 0, iterations=2))[0])
    hollow = labels.copy()
    hollow[middle] = 0
    np.testing.assert_array_equal(instances.fill_holes(hollow), labels)


def test_a_gap_between_two_cells_and_a_bay_at_the_border_stay():
    labels = np.ones((5, 8), np.int32)
    labels[:, 4:] = 2
    labels[2, 3:5] = 0  # enclosed by both
    labels[0, 1] = 0  # at the border
    np.testing.assert_array_equal(instances.fill_holes(labels), labels)


def test_drop_small_keeps_the_order():
    labels = np.array([[3, 3, 3, 0, 1], [0, 7, 7, 0, 0]], np.int32)
    assert instances.drop_small(labels, 2).tolist() == [[1, 1, 1, 0, 0], [0, 2, 2, 0, 0]]
    assert instances.drop_small(labels, 1).tolist() == [[2, 2, 2, 0, 1], [0, 3, 3, 0, 0]]
    assert not instances.drop_small(labels, 9).any()


def test_grow_into_reaches_by_equal_steps_and_leaves_no_pixel():
    cores = np.zeros((5, 14), np.int32)
    cores[2, 2], cores[2, 9] = 1, 2
    mask = np.zeros((5, 14), bool)
    mask[1:4, :12] = True
    mask[2, 13] = True
    grown = instances.grow_into(cores, mask)
    np.testing.assert_array_equal(grown > 0, mask)
    assert (grown[1:4, :5] == 1).all()
    assert (grown[1:4, 7:12] == 2).all()
    assert grown[2, 13] == 3


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 1), (1, 1, 4)])
def test_thin_maps(shape):
    ones = np.ones(shape, bool)
    assert instances.split_by_height(np.ones(shape, np.float32), ones, 0.5).max() == 1
    np.testing.assert_array_equal(instances.fill_holes(ones.astype(np.int32)), ones)
    np.testing.assert_array_equal(instances.grow_into(instances.components(ones), ones), ones)
