"""Measures of pairs worked out by hand, and against counts pair by pair."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.metrics.pairs import PairedFrame, pair_measures, pair_measures_of_points

TRUE = np.array([[1, 2], [3, 4], [5, 6]])
PLACE = np.array([[0, 0], [0, 1], [0, 10], [0, 11], [0, 20], [0, 21.0]])
LABEL = np.arange(1, 7)


def test_pairs_have_no_order():
    measures = pair_measures(TRUE, np.array([[2, 1], [3, 5]]))
    assert measures == {"pairs_precision": 1 / 2, "pairs_recall": 1 / 3, "pairs_F1": 2 / 5}


def test_what_is_not_defined_is_none():
    none = np.zeros((0, 2), int)
    assert set(pair_measures(none, none).values()) == {None}
    assert pair_measures(TRUE, none) == {"pairs_precision": None, "pairs_recall": 0, "pairs_F1": 0}
    assert set(pair_measures_of_points([], TRUE, TRUE, 1.0).values()) == {None}


def test_pairs_count_in_the_frames_that_have_them():
    """The result names cells by their label plus 10, lacks cell 2 in the first frame and swaps 4 and 6 in the second."""
    lacks = LABEL != 2
    frames = [
        PairedFrame(LABEL, PLACE, LABEL[lacks] + 10, PLACE[lacks]),
        PairedFrame(LABEL, PLACE, LABEL[[0, 1, 2, 5, 4, 3]] + 10, PLACE),
    ]
    measures = pair_measures_of_points(frames, TRUE, TRUE + 10, 0.4)
    assert measures == {"pairs_precision": 3 / 5, "pairs_recall": 3 / 6, "pairs_F1": 6 / 11}


def test_two_false_points_are_no_sisters():
    frames = [PairedFrame(LABEL, PLACE, np.array([1, 2]), PLACE[:2] + 90)]
    measures = pair_measures_of_points(frames, TRUE, np.array([[1, 2]]), 0.4)
    assert measures == {"pairs_precision": 0, "pairs_recall": 0, "pairs_F1": 0}


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), frames=st.integers(1, 3))
def test_points_of_the_truth_score_as_its_labels_do(seed, frames):
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(LABEL)[: 2 * rng.integers(1, 4)].reshape(-1, 2)
    whole = [PairedFrame(LABEL, PLACE, LABEL, PLACE)] * frames
    assert pair_measures_of_points(whole, TRUE, pairs, 0.4) == pytest.approx(pair_measures(TRUE, pairs))
