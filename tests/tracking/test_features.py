"""Measures of masks against a loop over cells."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import regionprops

from celltrack_jax.tracking import features
from celltrack_jax.tracking.features import detections_from_masks, label_moments


@st.composite
def masks(draw):
    """Small masks with few labels, some of them large or in several pieces."""
    shape = draw(st.sampled_from([(1, 1), (4, 7), (3, 4, 5), (1, 6, 4)]))
    top = draw(st.sampled_from([0, 1, 4, 90_000, 2**40]))
    values = draw(st.lists(st.integers(0, top), min_size=1, max_size=5))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    return rng.choice(np.array([0, *values], np.int64), shape)


@settings(deadline=None)
@given(masks())
def test_moments_are_those_of_a_loop(mask):
    label, voxels, centre = label_moments(mask)
    compact, names = np.searchsorted(np.unique([0, *label]), mask), np.unique([0, *label])
    expected = regionprops(compact)
    assert label.tolist() == [names[region.label] for region in expected]
    assert voxels.tolist() == [region.num_pixels for region in expected]
    np.testing.assert_allclose(centre.reshape(-1, mask.ndim), [r.centroid for r in expected] or centre)


def test_a_mask_measured_in_blocks_is_measured_whole(monkeypatch):
    mask = np.random.default_rng(0).integers(0, 9, (6, 5, 7)).astype(np.uint16)
    whole = label_moments(mask)
    monkeypatch.setattr(features, "BLOCK", 40)
    for one, two in zip(label_moments(mask), whole, strict=True):
        np.testing.assert_allclose(one, two)


def test_positions_and_volumes_are_physical():
    mask = np.zeros((4, 3, 5), np.uint8)
    mask[1:3, 2, 4] = 6
    found = detections_from_masks([(12, mask)], np.array([2.0, 0.5, 0.25]))
    assert (found.frame.tolist(), found.label.tolist()) == ([12], [6])
    np.testing.assert_allclose(found.position_um, [[3.0, 1.0, 1.0]])
    np.testing.assert_allclose(found.volume_um, [2 * 0.25])
    flat = detections_from_masks([(0, mask[1])], np.array([2.0, 0.5, 0.25]))
    np.testing.assert_allclose(flat.position_um, [[0.0, 1.0, 1.0]])
    np.testing.assert_allclose(flat.volume_um, [0.125])


def test_detections_are_sorted_and_empty_frames_add_none():
    mask = np.array([[5, 0, 2, 2]], np.uint16)
    found = detections_from_masks([(3, mask), (4, mask * 0), (7, mask)], np.ones(3))
    assert found.frame.tolist() == [3, 3, 7, 7]
    assert found.label.tolist() == [2, 5, 2, 5]


@pytest.mark.parametrize("frames", [[], [(0, np.zeros((3, 3), np.uint8))]])
def test_a_movie_without_cells_has_no_detections(frames):
    found = detections_from_masks(frames, np.ones(3))
    assert [column.shape for column in found] == [(0,), (0,), (0, 3), (0,)]
    assert found.frame.dtype == found.label.dtype == np.int64


def test_frames_out_of_order_and_negative_labels_are_refused():
    mask = np.ones((2, 2), np.int32)
    with pytest.raises(ValueError, match="frame 3 comes after frame 3"):
        detections_from_masks([(3, mask), (3, mask)], np.ones(3))
    with pytest.raises(ValueError, match="label -1"):
        detections_from_masks([(0, np.array([[-1, 2]]))], np.ones(3))
