import numpy as np
import pytest
from scipy import ndimage

from celltrack_jax.representations.mask import BACKGROUND, BORDER, CELL
from tests.representations.arms import build, cost, decoded, perfect, targets, values
from tests.representations.cells import touching_cells

LABELS = touching_cells((12, 40, 44), (3, 1, 1), 9.0, seed=2)
SPACING = np.array([3, 1, 1], np.float32)


def classes_of(arm, width):
    return values(build(arm, width=width), LABELS, SPACING)[..., 0].astype(int)


@pytest.mark.parametrize("width", [1.0, 3.0, 4.5])
@pytest.mark.parametrize("arm", ["touching border", "outline"])
def test_the_border_is_what_lies_within_a_physical_width(arm, width):
    expected = np.where(LABELS > 0, CELL, BACKGROUND)
    for label in np.unique(LABELS[LABELS > 0]):
        own = np.equal(LABELS, label)
        other = ~own & (LABELS > 0) if arm == "touching border" else ~own
        near = np.asarray(ndimage.distance_transform_edt(~other, SPACING)) <= width
        expected[own & near] = BORDER
    np.testing.assert_array_equal(classes_of(arm, width), expected)


def test_lone_cells_have_no_touching_border():
    labels = np.zeros((20, 20), np.int32)
    labels[2:8, 2:8], labels[12:18, 12:18] = 1, 2
    assert BORDER not in values(build("touching border", width=2.0), labels, np.ones(2))


def test_the_border_is_given_back_to_the_cells_it_came_from():
    labels = np.zeros((12, 20), np.int32)
    labels[2:10, 2:10], labels[2:10, 10:18] = 1, 2
    representation = build("touching border", width=2.0)
    found = decoded(representation, labels, np.ones(2))
    np.testing.assert_array_equal(found, labels)


def test_touching_cells_are_one_component_of_the_foreground():
    labels = np.zeros((12, 20), np.int32)
    labels[2:10, 2:10], labels[2:10, 10:18], labels[11, 0] = 1, 2, 3
    representation = build("foreground", min_size=2)
    found = decoded(representation, labels, np.ones(2))
    np.testing.assert_array_equal(found, np.isin(labels, (1, 2)))


def test_class_weights_weigh_the_true_class():
    representation = build("touching border", class_weights=(0.0, 1.0, 0.0))
    labels = np.zeros((1, 8, 8), np.int32)
    labels[:, :, :4] = 1
    target = targets(representation, labels, np.ones(2, np.float32))
    wrong_background = np.array(perfect(representation, target))
    wrong_background[:, :, 4:] = (0, 5, 0)
    assert cost(representation, target, wrong_background)[0] < 1e-4
    wrong_cell = np.array(perfect(representation, target))
    wrong_cell[:, :, :4] = (5, 0, 0)
    assert cost(representation, target, wrong_cell)[0] > 4
