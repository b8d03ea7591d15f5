"""Cells, background and what is not known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from celltrack_jax.data import unknown

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))
SPACINGS = st.tuples(*[st.sampled_from([0.24, 0.5, 1.0, 2.0])] * 3)


@settings(deadline=None, max_examples=200)
@given(arrays.arrays(bool, SHAPES), st.sampled_from([0.0, 0.3, 0.72, 1.0, 2.0, 2.5, 9.0]), SPACINGS)
def test_near_is_a_threshold_of_the_distance_transform(mask, radius, spacing):
    if mask.any():
        distance = np.asarray(ndimage.distance_transform_edt(~mask, sampling=spacing))
        expected = distance <= radius * (1 + 1e-9)
    else:
        expected = mask
    np.testing.assert_array_equal(unknown.near(mask, radius, spacing), expected)


@settings(deadline=None)
@given(arrays.arrays(np.int64, SHAPES, elements=st.integers(-1, 6)), st.sampled_from([0, 3, 2**21]))
def test_dense_labels_are_a_renumbering_in_order(labels, offset):
    """The offset moves the labels to where the table gives way to sorting: both ways give the same."""
    moved = np.where(labels > 0, labels + offset, labels)
    found, count = unknown.dense(moved)
    assert found.dtype == np.int32
    names = np.unique(labels[labels > 0])
    assert count == len(names)
    expected = np.where(labels > 0, np.searchsorted(names, labels) + 1, labels)
    np.testing.assert_array_equal(found, expected)


def line(*labels: int) -> np.ndarray:
    """Returns a mask of one row."""
    return np.array(labels, np.uint16).reshape(1, 1, -1)


def merged(outlines, markers, owners=(), planes=None, radius=2.0, spacing=(1.0, 1.0, 1.0)):
    owners = np.array(owners, np.int64).reshape(-1, 2)
    return unknown.merge(outlines, markers, owners, planes=planes, radius=radius, spacing=spacing)


def test_a_marker_without_outline_is_a_cell_in_unknown_surroundings():
    found = merged(line(4, 4, 0, 0, 0, 0, 0, 0, 0), line(1, 0, 0, 0, 0, 2, 0, 0, 0), [[1, 4]])
    assert found[0, 0].tolist() == [4, 4, 0, -1, -1, 6, -1, -1, 0]


def test_the_radius_is_physical_and_inclusive():
    markers = line(0, 0, 0, 3, 0, 0, 0)
    assert merged(None, markers, radius=1.0, spacing=(1, 1, 0.5))[0, 0].tolist() == [0, -1, -1, 3, -1, -1, 0]
    assert merged(None, markers, radius=0.9, spacing=(1, 1, 0.5))[0, 0].tolist() == [0, 0, -1, 3, -1, 0, 0]


def test_outlined_cells_next_to_an_open_marker_stay():
    found = merged(line(0, 7, 7, 0, 0), line(0, 0, 0, 2, 0), [], radius=3.0)
    assert found[0, 0].tolist() == [-1, 7, 7, 9, -1]


def test_a_marker_and_an_object_of_the_same_label_stay_apart():
    found = merged(line(2, 0, 0, 0, 0), line(0, 0, 0, 0, 2), [], radius=0.0)
    assert found[0, 0].tolist() == [2, 0, 0, 0, 4]


def test_without_markers_every_unlabelled_voxel_is_unknown():
    assert merged(line(3, 0, 0, 5), None)[0, 0].tolist() == [3, -1, -1, 5]


def test_with_markers_but_no_cell_everything_is_background():
    assert merged(None, line(0, 0, 0))[0, 0].tolist() == [0, 0, 0]
    assert merged(line(0, 0, 0), line(0, 0, 0))[0, 0].tolist() == [0, 0, 0]


def test_outside_of_the_outlined_planes_a_marker_belongs_to_its_object_and_its_surroundings_are_unknown():
    markers = np.zeros((3, 1, 5), np.uint16)
    markers[:, 0, 2] = 8
    outlines = np.zeros_like(markers)
    outlines[1, 0, 1:4] = 5
    found = merged(outlines, markers, [[8, 5]], np.array([False, True, False]), 1.0)
    assert found[:, 0].tolist() == [[0, -1, 5, -1, 0], [0, 5, 5, 5, 0], [0, -1, 5, -1, 0]]


@pytest.mark.parametrize("gold", [None, line(0, 3, 3, 0, 0, 0)])
def test_gold_lies_over_silver_under_labels_of_its_own(gold):
    found = unknown.overlay(gold, line(1, 1, 3, 3, 9, 0), np.array([1, 3]))
    expected = [1, 1, 3, 3, 0, 0] if gold is None else [4, 3, 3, 6, 0, 0]
    assert found[0, 0].tolist() == expected
