"""Boxes against plain twins."""

import jax
import numpy as np
import pytest

from celltrack_jax.ops import anchors, boxes
from tests.ops import box_twins as twins
from tests.representations.cells import touching_cells

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
iou, areas, shares = jax.jit(boxes.pairwise_iou), jax.jit(boxes.areas), jax.jit(boxes.shares)
encode, decode = (jax.jit(move, static_argnums=2) for move in (boxes.encode, boxes.decode))
BAD = np.array([[3, 3, 3, 9], [5, 5, 2, 9], [0, 0, np.inf, 4], [np.nan, 0, 3, 3], [0, 0, 0, 0]], np.float32)


def random_boxes(seed, count, size=60.0):
    rng = np.random.default_rng(seed)
    low = rng.uniform(-5, size, (count, 2))
    return np.concatenate([low, low + rng.uniform(0.5, size / 2, (count, 2))], 1).astype(np.float32)


def test_overlaps_are_those_of_the_twin_and_what_is_no_box_overlaps_with_nothing():
    first, second = np.concatenate([random_boxes(0, 30), BAD]), np.concatenate([random_boxes(1, 20), BAD])
    found = np.asarray(iou(first, second))
    np.testing.assert_allclose(found, twins.iou_table(first, second), atol=1e-6)
    assert found.max() > 0.3
    assert not found[-len(BAD) :].any()
    np.testing.assert_allclose(areas(first), [twins.area(box) for box in first], rtol=1e-5)
    np.testing.assert_array_equal(iou(BAD, BAD), 0)
    whole = np.array([[0, 0, 4, 6], [1, 1, 3, 3]], np.float32)
    np.testing.assert_allclose(iou(whole, whole), [[1, 1 / 6], [1 / 6, 1]], rtol=1e-6)


def test_deltas_are_those_of_the_twin_and_decode_to_the_box():
    wanted, own = random_boxes(2, 40), random_boxes(3, 40)
    deltas = np.asarray(encode(wanted, own, WEIGHTS))
    expected = [twins.encode(box, anchor, WEIGHTS) for box, anchor in zip(wanted, own, strict=True)]
    np.testing.assert_allclose(deltas, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(decode(deltas, own, WEIGHTS), wanted, atol=1e-3)
    moves = np.random.default_rng(4).normal(size=(40, 4)).astype(np.float32)
    made = [twins.decode(each, anchor, WEIGHTS) for each, anchor in zip(moves, own, strict=True)]
    np.testing.assert_allclose(decode(moves, own, WEIGHTS), made, rtol=1e-4, atol=1e-3)


def test_what_is_not_finite_stays_where_the_anchor_is_and_growth_is_bounded():
    own = np.array([[0, 0, 4, 4]] * 3, np.float32)
    deltas = np.array([[np.nan, np.inf, 0, -np.inf], [0, 0, 1e9, 0], [0, 0, 0, 0]], np.float32)
    made = np.asarray(decode(deltas, own, (1.0,) * 4))
    np.testing.assert_array_equal(made[[0, 2]], own[[0, 2]])
    assert made[1, 2] - made[1, 0] == pytest.approx(4 * 1000 / 16, rel=1e-4)
    np.testing.assert_array_equal(encode(BAD, np.repeat(own[:1], len(BAD), 0), WEIGHTS), 0)


def test_gradients_of_deltas_are_finite_where_there_is_no_box():
    own = np.repeat(np.array([[0, 0, 4, 4]], np.float32), len(BAD), 0)
    gradient = jax.jit(jax.grad(lambda box: encode(box, own, WEIGHTS).sum()))(BAD)
    assert np.isfinite(gradient).all()


def test_boxes_are_cut_to_the_image():
    found = np.asarray(
        jax.jit(boxes.clip)(np.array([[-3, 2, 5, 90], [20, 30, 22, 33]], np.float32), (10, 25))
    )
    np.testing.assert_array_equal(found, [[0, 2, 5, 25], [10, 25, 10, 25]])
    assert not np.asarray(areas(found))[1]


def test_boxes_of_a_label_map_with_gaps_and_unknown_pixels():
    labels = touching_cells((40, 52), (1, 1), 6.0, seed=1)
    labels[labels == 3] = 0
    labels[30:, 40:] = -1
    count = int(labels.max()) + 4
    found = np.asarray(jax.jit(boxes.of_labels, static_argnums=1)(labels, count))
    np.testing.assert_array_equal(found, twins.label_boxes(labels, count))
    assert not found[2].any()
    few = jax.jit(boxes.of_labels, static_argnums=1)(labels, 4)
    np.testing.assert_array_equal(few, found[:4])


def test_the_share_of_a_box_that_a_mask_covers():
    rng = np.random.default_rng(0)
    mask = rng.random((20, 30)) < 0.4
    given = np.round(np.concatenate([random_boxes(5, 20, 18.0), BAD]))
    found = np.asarray(shares(mask, given))
    for box, share in zip(given, found, strict=True):
        if not twins.area(box):
            assert share == 0
            continue
        y0, x0, y1, x1 = box.astype(int)
        inside = mask[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)].sum()
        assert share == pytest.approx(inside / ((y1 - y0) * (x1 - x0)), abs=1e-6)


def test_anchors_stand_in_the_middle_of_their_places():
    levels = anchors.pyramid_anchors((20, 24), (4, 8), ((6.0, 8.0), (12.0, 16.0)), (0.5, 1.0, 2.0))
    assert [len(level) for level in levels] == [5 * 6 * 6, 3 * 3 * 6]
    first = levels[0].reshape(5, 6, 2, 3, 4)
    np.testing.assert_allclose(
        (first[..., :2] + first[..., 2:])[1, 2] / 2, np.broadcast_to((6, 10), (2, 3, 2))
    )
    sides = first[3, 3, ..., 2:] - first[3, 3, ..., :2]
    np.testing.assert_allclose(sides.prod(-1), np.array([[36] * 3, [64] * 3]), rtol=1e-5)
    np.testing.assert_allclose(sides[..., 0] / sides[..., 1], [[0.5, 1, 2]] * 2, rtol=1e-5)
    assert levels[0].dtype == np.float32
