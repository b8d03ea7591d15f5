"""Runs of equal pixels against a loop over pixels."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.ops import runs


@st.composite
def label_images(draw):
    """Draws labels with gaps, in which equal neighbours are frequent."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    names = np.append(0, np.sort(rng.choice(50, 4, replace=False)) + 1)
    return names[rng.integers(0, 1 + draw(st.integers(0, 4)), shape)]


def by_hand(labels: np.ndarray) -> list[tuple[int, int, int]]:
    """Returns (label, start, length) of each run."""
    found: list[tuple[int, int, int]] = []
    before = 0
    for pixel, label in enumerate(labels.ravel().tolist()):
        if label and label == before:
            found[-1] = (label, found[-1][1], found[-1][2] + 1)
        elif label:
            found.append((label, pixel, 1))
        before = label
    return sorted(found)


@settings(max_examples=60, deadline=None)
@given(labels=label_images())
def test_runs_are_those_of_a_loop_and_give_the_image_back(labels):
    found = runs.find(labels)
    assert list(zip(*(column.tolist() for column in found), strict=True)) == by_hand(labels)
    drawn, over = runs.draw(found, labels.shape)
    np.testing.assert_array_equal(drawn, labels)
    assert over == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 19), st.integers(1, 9)), max_size=8))
def test_later_runs_are_drawn_over_earlier_ones(pieces):
    pieces = [(start, min(length, 20 - start)) for start, length in pieces]
    expected = np.zeros(20, int)
    for label, (start, length) in enumerate(pieces, 1):
        expected[start : start + length] = label
    columns = np.array(pieces, np.int64).reshape(-1, 2).T
    drawn, over = runs.draw(runs.Runs(np.arange(1, len(pieces) + 1), *columns), (4, 5))
    np.testing.assert_array_equal(drawn, expected.reshape(4, 5))
    assert over == columns[1].sum() - np.count_nonzero(expected)
