"""Counts of right links against counting them one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.metrics import links


@st.composite
def movies(draw):
    """Twice the parents of up to twelve detections, each an earlier detection, and whether each is a cell, twice."""
    count = draw(st.integers(0, 12))

    def parents():
        return np.array([draw(st.integers(-1, i - 1)) for i in range(count)], np.int64)

    def flags():
        return np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)), bool)

    return parents(), flags(), parents(), flags()


@settings(max_examples=100)
@given(movies())
def test_counts_are_those_of_sets(movie):
    parent, kept, truth, real = movie
    pairs = [{(p, i) for i, p in enumerate(each) if p >= 0} for each in (parent, truth)]

    def divisions(each):
        sets = {p: frozenset(i for i, q in enumerate(each) if q == p) for p in set(each.tolist()) - {-1}}
        return {(p, children) for p, children in sets.items() if len(children) > 1}

    expected = {
        "links": pairs,
        "divisions": [divisions(parent), divisions(truth)],
        "false": [{i for i, keep in enumerate(each) if not keep} for each in (kept, real)],
    }
    row = links.agreement(parent, kept, truth, real)
    scores = links.f1([row, row])
    for measure, (ours, theirs) in expected.items():
        counts = len(ours & theirs), len(theirs - ours), len(ours - theirs)
        assert tuple(row[f"{measure}_{part}"] for part in ("hit", "missed", "wrong")) == counts
        if ours or theirs:
            assert scores[measure] == pytest.approx(2 * len(ours & theirs) / (len(ours) + len(theirs)))
        else:
            assert scores[measure] is None


def test_lnk_counts_missing_wrong_and_misunderstood_links():
    # The mother 1 has daughters 2 and 3; ours has 2 alone, and links 5 to 3.
    true = np.array([-1, 0, 1, 1, 2, 4])
    ours = np.array([-1, 0, 1, -1, 2, 3])
    row = links.agreement(ours, np.ones(6, bool), true, np.ones(6, bool))
    assert row["semantics_wrong"] == 1
    assert links.lnk([row]) == pytest.approx(1 - (2 * 1.5 + 1 + 1) / (5 * 1.5))
    assert links.lnk([links.agreement(true, np.ones(6, bool), true, np.ones(6, bool))]) == 1
    none = np.full(6, -1)
    assert links.lnk([links.agreement(none, np.ones(6, bool), true, np.ones(6, bool))]) == 0
    assert links.lnk([links.agreement(ours, np.ones(6, bool), none, np.ones(6, bool))]) is None
