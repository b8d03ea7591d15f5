"""Suppression against the greedy loop, on random boxes and on chains of boxes that drop each other."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.ops import nms
from tests.ops import box_twins as twins
from tests.ops.test_boxes import BAD, random_boxes

THRESHOLDS = (0.25, 0.4, 0.5, 0.7)
survivors = jax.jit(nms.survivors)
best = jax.jit(nms.best, static_argnums=3)


def chain(count, shift, side=10.0):
    """Boxes in a row, each of which overlaps with the next ones alone."""
    start = np.arange(count) * shift
    row = np.zeros(count)
    return np.stack([row, start, row + side, start + side], 1).astype(np.float32)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), coarse=st.booleans())
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_random_boxes(threshold, seed, coarse):
    rng = np.random.default_rng(seed)
    boxes = random_boxes(seed, 60, 40.0)
    scores = rng.normal(size=60).astype(np.float32)
    if coarse:  # equal scores and equal boxes
        boxes, scores = np.round(boxes / 8) * 8, np.round(scores)
    expected = twins.greedy(boxes, scores, threshold)
    np.testing.assert_array_equal(survivors(boxes, scores, threshold), expected)


@pytest.mark.parametrize("order", ["falling", "rising", "mixed"])
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_chains_longer_than_a_block(threshold, order, monkeypatch):
    """A > B > C whose neighbours alone overlap: A and C stay at any threshold that drops B."""
    monkeypatch.setattr("celltrack_jax.ops.nms._BLOCK", 16)
    boxes = np.concatenate([chain(50, 4.0), 100 + chain(50, 2.0), 200 + chain(50, 1.0)])
    scores = {
        "falling": -np.arange(150.0),
        "rising": np.arange(150.0),
        "mixed": np.random.default_rng(0).permutation(150).astype(float),
    }[order].astype(np.float32)
    found = np.asarray(jax.jit(functools.partial(nms.survivors, threshold=threshold))(boxes, scores))
    np.testing.assert_array_equal(found, twins.greedy(boxes, scores, threshold))
    if order == "falling" and threshold < 0.4:
        np.testing.assert_array_equal(found[:50], np.arange(50) % 2 == 0)


def test_classes_do_not_drop_each_other_and_have_their_own_thresholds():
    rng = np.random.default_rng(1)
    boxes, scores = random_boxes(1, 80, 30.0), rng.normal(size=80).astype(np.float32)
    classes = rng.integers(0, 3, 80)
    threshold = np.array([0.25, 0.4, 0.7], np.float32)[classes]
    found = np.asarray(survivors(boxes, scores, threshold, classes))
    np.testing.assert_array_equal(found, twins.greedy(boxes, scores, threshold, classes))
    for kind in range(3):
        own = classes == kind
        alone = survivors(boxes, np.where(own, scores, -np.inf), threshold, classes)
        np.testing.assert_array_equal(found & own, alone)


def test_what_is_no_box_never_wins_and_drops_none():
    boxes = np.concatenate([BAD, random_boxes(2, 10)])
    scores = np.linspace(2, 1, len(boxes)).astype(np.float32)
    scores[-1], scores[-2] = np.nan, np.inf
    found = np.asarray(survivors(boxes, scores, 0.5))
    assert not found[: len(BAD)].any()
    assert not found[-2:].any()
    np.testing.assert_array_equal(found, twins.greedy(boxes, scores, 0.5))
    assert found.sum() > 3
    assert not np.asarray(survivors(BAD, np.ones(len(BAD), np.float32), 0.5)).any()


def test_the_best_come_first_and_the_rest_is_counted():
    boxes = chain(9, 20.0)
    scores = np.array([3, 9, 1, 7, 5, 8, 2, 6, 4], np.float32)
    found = best(boxes, scores, 0.5, 4)
    np.testing.assert_array_equal(found.row, np.argsort(-scores)[:4])
    assert found.valid.all()
    assert found.lost == 5
    few = best(boxes, np.where(scores > 7, scores, -np.inf), 0.5, 4)
    np.testing.assert_array_equal(few.valid, [True, True, False, False])
    assert few.lost == 0


def test_samples_of_a_batch_do_not_meet():
    boxes = np.stack([random_boxes(seed, 40, 20.0) for seed in range(3)])
    scores = np.random.default_rng(3).normal(size=(3, 40)).astype(np.float32)
    together = jax.jit(jax.vmap(functools.partial(nms.survivors, threshold=0.4)))(boxes, scores)
    for k in range(3):
        np.testing.assert_array_equal(together[k], survivors(boxes[k], scores[k], 0.4))


def test_one_program_serves_any_threshold_and_number_of_boxes():
    keep = jax.jit(functools.partial(nms.survivors))
    boxes = random_boxes(4, 50)
    for threshold in THRESHOLDS:
        for real in (0, 1, 50):
            keep(boxes, np.where(np.arange(50) < real, 1.0, -np.inf).astype(np.float32), threshold)
    assert keep._cache_size() == 1
