"""Retrieval measures against brute force and scores worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.metrics import retrieval
from celltrack_jax.metrics.retrieval import map_at_r, precision_at_1


def _brute_force(embeddings, classes):
    """(MAP@R, precision at 1) by sorting all neighbours of every query."""
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    of_class = {}
    for i, query in enumerate(classes):
        ranked = sorted((j for j in range(len(units)) if j != i), key=lambda j: -units[i] @ units[j])
        relevant = [classes[j] == query for j in ranked]
        r = sum(relevant)
        if r:
            average = sum(sum(relevant[:k]) / k for k in range(1, r + 1) if relevant[k - 1]) / r
            of_class.setdefault(query, []).append((average, relevant[0]))
    if not of_class:
        return None, None
    return tuple(np.mean([np.mean(rows, 0) for rows in of_class.values()], 0))


@pytest.mark.parametrize("block", [1, 30, 2**23])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 14), kinds=st.integers(1, 6))
def test_it_is_brute_force_in_blocks_of_any_size(block, seed, count, kinds):
    rng = np.random.default_rng(seed)
    classes = rng.integers(-2, kinds - 2, count)
    embeddings = rng.normal(size=(kinds, 3))[classes + 2] + 0.7 * rng.normal(size=(count, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "_BLOCK", block)
        found = map_at_r(embeddings, classes), precision_at_1(embeddings, classes)
    assert found == pytest.approx(_brute_force(embeddings, classes), abs=1e-12)


def test_scores_worked_out_by_hand():
    """On a circle, at degrees: class 0 at 0, 10, 40; class 1 at 15, 80; class 2 at 200 alone."""
    degrees = np.deg2rad([0, 10, 40, 15, 80, 200])
    classes = np.array([0, 0, 0, 1, 1, 2])
    embeddings = np.stack([np.cos(degrees), np.sin(degrees)], -1) * [[1], [2], [3], [4], [5], [6]]
    # 0 finds 10, 15: (1 + 0) / 2. 10 finds 15, 0: (0 + 1/2) / 2. 40 finds 15, 10: 1/4. 15 finds 10; 80 finds 40.
    assert map_at_r(embeddings, classes) == pytest.approx(((1 / 2 + 1 / 4 + 1 / 4) / 3 + 0) / 2)
    assert precision_at_1(embeddings, classes) == pytest.approx((1 / 3 + 0) / 2)


def test_classes_that_lie_together_score_one():
    centres = np.eye(4)[np.repeat(np.arange(4), [2, 3, 5, 1])]
    embeddings = centres + 0.05 * np.random.default_rng(0).normal(size=centres.shape)
    classes = np.repeat([7, -1, 3, 9], [2, 3, 5, 1])
    assert map_at_r(embeddings, classes) == precision_at_1(embeddings, classes) == 1


def test_no_class_of_two_leaves_nothing_to_measure():
    for count in (0, 1, 5):
        assert map_at_r(np.ones((count, 2)), np.arange(count)) is None
        assert precision_at_1(np.ones((count, 2)), np.arange(count)) is None


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_an_embedding_without_a_direction_is_refused(value):
    embeddings = np.ones((4, 2))
    embeddings[2] = value
    for measure in (map_at_r, precision_at_1):
        with pytest.raises(ValueError, match=r"1 of 4 .* first is 2"):
            measure(embeddings, np.zeros(4, int))
