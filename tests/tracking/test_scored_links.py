"""The original's rule against itself told cell by cell; the assignment against the optimum and in its own order."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.lineage import Detections
from celltrack_jax.tracking.scored_links import (
    Costs,
    Links,
    Scored,
    free_ends,
    greedy_ben_haim2022,
    hungarian_scored,
    link_probability,
    total_cost,
    without_false,
)
from tests.tracking.scored_movies import check_rules, lowest_cost, problems


def greedy_told_cell_by_cell(frame, position, source, target, probability) -> list[int]:
    """The rule of docs/originals.md, 5.7, with the merges resolved as `greedy_ben_haim2022` says."""
    candidates = list(zip(source.tolist(), target.tolist(), probability.tolist(), strict=True))
    takes = {}
    for cell in range(len(frame)):
        active = [
            (math.dist(position[cell], position[t]), t, p) for s, t, p in candidates if s == cell and p > 0.5
        ]
        if active:
            takes[cell] = min(active)[1:]
    parent = []
    for cell in range(len(frame)):
        takers = [(-p, s) for s, (t, p) in takes.items() if t == cell]
        ended = [s for s in range(len(frame)) if frame[s] == frame[cell] - 1 and s not in takes]
        if takers:
            parent.append(min(takers)[1])
        elif ended:
            parent.append(min(ended, key=lambda s: math.dist(position[s], position[cell])))
        else:
            parent.append(-1)
    return parent


@settings(max_examples=100, deadline=None)
@given(problems(most_edges=20), st.integers(0, 2**32 - 1))
def test_the_rule_of_the_original_is_what_its_loops_say(problem, seed):
    frame, source, target, _ = problem
    rng = np.random.default_rng(seed)
    position, probability = rng.random((len(frame), 2)), rng.random(len(source)) ** 0.5
    links = greedy_ben_haim2022(frame, position, source, target, probability)
    assert links.parent.tolist() == greedy_told_cell_by_cell(frame, position, source, target, probability)
    assert links.kept.all()


def greedy(frame, places, candidates) -> list[int]:
    """Links cells on a line; candidates are (source, target, probability)."""
    source, target, probability = np.array(candidates).reshape(-1, 3).T
    position = np.array(places, np.float64)[:, None]
    return greedy_ben_haim2022(
        np.array(frame), position, source.astype(int), target.astype(int), probability
    ).parent.tolist()


def test_the_original_takes_the_nearest_and_a_half_is_not_active():
    assert greedy([0, 1, 1], [0, 1, 2], [(0, 1, 0.6), (0, 2, 0.9)]) == [-1, 0, -1]
    assert greedy([0, 1, 1], [0, 1, 2], [(0, 1, 0.5), (0, 2, 0.9)]) == [-1, -1, 0]


def test_a_merge_goes_to_the_most_probable_and_the_other_is_no_parent():
    assert greedy([0, 0, 1, 1], [0, 4, 2, 5], [(0, 2, 0.7), (1, 2, 0.8)]) == [-1, -1, 1, -1]


def test_new_tracks_have_the_nearest_ended_one_as_parent_however_many_and_far():
    assert greedy([3, 3, 4, 4, 4, 6], [0, 9, 90, 1, 2, 0], []) == [-1, -1, 1, 0, 0, -1]


@settings(max_examples=100, deadline=None)
@given(problems())
def test_assignments_keep_the_rules_and_cost_no_less_than_the_lowest(problem):
    frame, source, target, costs = problem
    links = hungarian_scored(*problem)
    check_rules(frame, source, target, links)
    assert total_cost(source, target, costs, links) >= lowest_cost(*problem) - 1e-4


@settings(max_examples=100, deadline=None)
@given(problems(gaps=False))
def test_assignments_are_best_without_gaps_and_false_detections(problem):
    frame, source, target, costs = problem
    divide = np.maximum(costs.divide, -costs.disappear)
    costs = costs._replace(divide=divide, false=np.full(len(frame), np.inf))
    links = hungarian_scored(frame, source, target, costs)
    lowest = lowest_cost(frame, source, target, costs._replace(false=np.full(len(frame), 1e6)))
    assert total_cost(source, target, costs, links) == pytest.approx(lowest, abs=1e-4)


def line(frame, source, target, edge, **changes) -> tuple:
    """A problem in which appearing and disappearing cost nothing, and nothing divides or is false."""
    count = len(frame)
    costs = Costs(np.array(edge, np.float64), np.zeros(count), np.zeros(count), *np.full((2, count), np.inf))
    costs = costs._replace(**{name: np.array(value, np.float64) for name, value in changes.items()})
    return np.array(frame, np.int64), np.array(source, np.int64), np.array(target, np.int64), costs


@pytest.mark.parametrize(
    ("problem", "parent"),
    [
        (line([], [], [], []), []),
        (line([3], [], [], []), [-1]),
        (line([0, 1, 1], [0, 0], [1, 2], [-0.1, 0.1]), [-1, 0, -1]),
        (line([0, 1, 1], [0, 0], [1, 2], [-2, -2], divide=[1, 1, 1]), [-1, 0, 0]),
        (line([0, 1, 1], [0, 0], [1, 2], [-2, -0.5], divide=[1, 1, 1]), [-1, 0, -1]),
        (line([0, 1, 2], [0, 0, 1], [1, 2, 2], [-1, -9, -1]), [-1, 0, 1]),
        (line([0, 4], [0], [1], [-1]), [-1, 0]),
    ],
    ids=["none", "one", "log-odds", "division", "no division", "nearest frame first", "gap"],
)
def test_assignments_of_small_movies(problem, parent):
    assert hungarian_scored(*problem).parent.tolist() == parent


def test_an_assignment_leaves_out_what_is_alone_and_cheaper_false():
    problem = line([0, 0, 1], [0], [2], [-1], false=[-5, -5, -5])
    assert hungarian_scored(*problem).kept.tolist() == [True, False, True]


def test_the_ends_of_the_movie_are_free():
    frame = np.array([4, 5, 6])
    costs = free_ends(Costs(np.zeros(0), *np.ones((4, 3))), frame, first=4, last=7)
    assert costs.appear.tolist() == [0, 1, 1]
    assert costs.disappear.tolist() == [1, 1, 1]


def test_detections_that_are_left_out_vanish_from_links_and_candidates():
    found = Detections(np.array([0, 0, 1, 2]), np.arange(1, 5), np.zeros((4, 3)), np.ones(4))
    scored = Scored(
        np.array([0, 1, 1, 2]), np.array([2, 2, 3, 3]), np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    )
    links = Links(np.array([-1, -1, 1, 2]), np.array([False, True, True, True]), scored)
    left, links = without_false(found, links)
    assert left.label.tolist() == [2, 3, 4]
    assert links.parent.tolist() == [-1, 0, 1]
    assert links.kept.all()
    assert links.scored is not None
    candidates = zip(*(column.tolist() for column in links.scored), strict=True)
    assert list(candidates) == [
        (0, 1, pytest.approx(0.2)),
        (0, 2, pytest.approx(0.3)),
        (1, 2, pytest.approx(0.4)),
    ]
    np.testing.assert_array_equal(link_probability(links), np.array([np.nan, 0.2, 0.4], np.float32))
    assert np.isnan(link_probability(links._replace(scored=None))).all()


def test_costs_of_links_that_cannot_be_are_refused():
    _, source, target, costs = line([0, 1, 2], [0], [1], [-1])
    kept = np.array([True, True, True])
    with pytest.raises(ValueError, match="1 of the links are no candidates"):
        total_cost(source, target, costs, Links(np.array([-1, 0, 1]), kept))
    with pytest.raises(ValueError, match="left out has links"):
        total_cost(source, target, costs, Links(np.array([-1, 0, -1]), ~kept))
