import numpy as np
import pytest
from scipy import ndimage

from tests.representations.arms import answer, build, values
from tests.representations.cells import seg_score, touching_cells

LABELS = touching_cells((12, 40, 40), (3, 1, 1), 9.0, seed=2)
SPACING = np.array([3, 1, 1], np.float32)


def distance_of(labels, spacing):
    """Distance of each pixel of a cell to its own edge."""
    distance = np.zeros(labels.shape)
    for label in np.unique(labels[labels > 0]):
        distance += ndimage.distance_transform_edt(labels == label, spacing) * (labels == label)
    return distance


def test_distances_in_units_are_cut_off_and_scaled_to_one():
    value = values(build("distance in units", max_distance=5.0), LABELS, SPACING)
    np.testing.assert_array_equal(value[..., 0], LABELS > 0)
    np.testing.assert_allclose(value[..., 1], np.minimum(distance_of(LABELS, SPACING), 5) / 5, atol=1e-5)


def test_distances_of_the_cell_are_scaled_by_its_largest():
    value = values(build("distance of the cell"), LABELS, SPACING)
    distance = distance_of(LABELS, SPACING)
    ids = np.unique(LABELS[LABELS > 0])
    largest = ndimage.maximum(distance, LABELS, ids)
    scale = np.concatenate([[1.0], largest])[LABELS]
    np.testing.assert_allclose(value[..., 1], distance / scale, atol=1e-5)
    np.testing.assert_allclose(ndimage.maximum(value[..., 1], LABELS, ids), 1, rtol=1e-6)


@pytest.mark.parametrize("arm", ["distance of the cell", "distance in units"])
def test_targets_turn_and_mirror_with_the_labels(arm):
    representation = build(arm)
    value = values(representation, LABELS, SPACING)
    np.testing.assert_array_equal(values(representation, LABELS[::-1, ::-1], SPACING), value[::-1, ::-1])
    np.testing.assert_array_equal(
        values(representation, LABELS.swapaxes(1, 2), SPACING), value.swapaxes(1, 2)
    )


def test_targets_do_not_depend_on_the_ids_order():
    representation = build("distance of the cell")
    renamed = np.where(LABELS > 0, LABELS.max() + 1 - LABELS, LABELS)
    np.testing.assert_array_equal(
        values(representation, renamed, SPACING), values(representation, LABELS, SPACING)
    )


def test_decoding_needs_no_exact_prediction():
    labels = touching_cells((64, 72), (1, 1), 8.0, seed=0)
    representation = build("distance of the cell", smoothing=2.0)
    perfect = answer(representation, labels, np.ones(2))
    noise = np.random.default_rng(0).normal(size=perfect.shape)
    found = representation.decode(perfect + (2.0, 0.15) * noise, np.ones(2))
    assert found.max() == labels.max()
    assert seg_score(labels, found) > 0.95


def test_decoding_drops_small_cells_and_fills_holes_as_configured():
    labels = np.zeros((30, 30), np.int32)
    labels[4:14, 4:14] = 1
    labels[20:22, 20:22] = 2
    perfect = np.full((30, 30, 2), -10.0, np.float32)
    perfect[..., 0][labels > 0] = 10
    perfect[..., 1] = distance_of(labels, (1, 1)) / 5
    perfect[8, 8, 0] = -10
    hollow = np.where(perfect[..., 0] > 0, labels, 0)
    constants = {"arm": "distance of the cell", "smoothing": 0.5, "prominence": 0.5}
    np.testing.assert_array_equal(build(**constants).decode(perfect, np.ones(2)), hollow)
    filled = build(**constants, fill_holes=True, min_size=5).decode(perfect, np.ones(2))
    np.testing.assert_array_equal(filled, labels == 1)


def test_the_threshold_is_a_probability():
    prediction = np.zeros((1, 3, 2), np.float32)
    prediction[0, :, 0] = np.log([0.69 / 0.31, 0.71 / 0.29, 0.99 / 0.01])
    found = build("distance of the cell", foreground_threshold=0.7).decode(prediction, np.ones(2))
    assert (found > 0).tolist() == [[False, True, True]]
