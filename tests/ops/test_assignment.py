"""Matching and sampling of boxes against plain rules."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celltrack_jax.ops import assignment
from celltrack_jax.ops.assignment import IGNORED, NEGATIVE, POSITIVE
from tests.ops import box_twins as twins
from tests.ops.test_boxes import BAD, random_boxes

RULES = dict(positive_iou=0.7, negative_iou=0.3, best_of_truth=True, max_unknown=0.5)
match = jax.jit(functools.partial(assignment.match, **RULES))
draw = jax.jit(assignment.sample, static_argnums=(2, 3))


@pytest.mark.parametrize("chunk", [64, 4])
def test_roles_are_those_of_the_rules(chunk, monkeypatch):
    monkeypatch.setattr(assignment, "_CHUNK", chunk)
    match = jax.jit(lambda *given: assignment.match(*given, **RULES))
    truth = np.concatenate([random_boxes(0, 6, 40.0), BAD])
    boxes = np.concatenate([random_boxes(1, 300, 40.0), truth[:2], truth[2:4] + 0.3, BAD])
    unknown = np.random.default_rng(0).random(len(boxes)).astype(np.float32)
    found = match(boxes, truth, unknown)
    table = twins.iou_table(boxes, truth)
    expected = np.full(len(boxes), IGNORED)
    expected[(table.max(1) < 0.3) & (unknown <= 0.5)] = NEGATIVE
    expected[table.max(1) >= 0.7] = POSITIVE
    expected[table.argmax(0)[:6]] = POSITIVE
    expected[[not twins.area(box) for box in boxes]] = IGNORED
    np.testing.assert_array_equal(found.role, expected)
    assert set(expected) == {IGNORED, NEGATIVE, POSITIVE}
    meets = table.max(1) > 0
    np.testing.assert_array_equal(np.asarray(found.truth)[meets], table.argmax(1)[meets])


def test_without_truth_nothing_is_positive_and_what_is_unknown_says_nothing():
    boxes = random_boxes(1, 20)
    truth = np.zeros((3, 4), np.float32)
    assert (np.asarray(match(boxes, truth, np.zeros(20, np.float32)).role) == NEGATIVE).all()
    assert (np.asarray(match(boxes, truth, np.ones(20, np.float32)).role) == IGNORED).all()


def test_a_true_box_that_nothing_meets_makes_no_box_positive():
    boxes = np.array([[0, 0, 4, 4], [1, 1, 5, 5]], np.float32)
    truth = np.array([[50, 50, 60, 60]], np.float32)
    assert (np.asarray(match(boxes, truth, np.zeros(2, np.float32)).role) == NEGATIVE).all()


@pytest.mark.parametrize(("positives", "negatives"), [(0, 40), (3, 40), (30, 40), (30, 2), (0, 0)])
def test_a_sample_has_positives_first_and_no_box_twice(positives, negatives):
    role = np.zeros(100, np.int32)
    role[:positives], role[60 : 60 + negatives] = POSITIVE, NEGATIVE
    drawn = draw(jax.random.key(1), role, 16, 8)
    index, said = np.asarray(drawn.row), np.asarray(drawn.role)
    assert len(set(index.tolist())) == 16
    first, rest = min(positives, 8), min(negatives, 16 - min(positives, 8))
    expected = [POSITIVE] * first + [NEGATIVE] * rest + [IGNORED] * (16 - first - rest)
    np.testing.assert_array_equal(said, expected)
    np.testing.assert_array_equal(role[index][: first + rest], said[: first + rest])


def test_all_positives_are_drawn_equally_often_and_by_the_key_alone():
    role = jnp.full(60, NEGATIVE).at[20:40].set(POSITIVE)
    keys = jax.random.split(jax.random.key(0), 2000)
    many = jax.jit(jax.vmap(lambda key: assignment.sample(key, role, 16, 8).row))(keys)
    often = np.bincount(np.asarray(many).reshape(-1), minlength=60) / 2000
    np.testing.assert_allclose(often[20:40], 8 / 20, atol=0.06)
    np.testing.assert_allclose(np.delete(often, np.s_[20:40]), 8 / 40, atol=0.05)
    again = draw(keys[5], role, 16, 8).row
    np.testing.assert_array_equal(again, many[5])
