"""The integer program against every lineage there is, in windows against all at once, and where time is short."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.optimize import LinearConstraint, OptimizeResult, milp

from celltrack_jax.tracking import ilp as program
from celltrack_jax.tracking.ilp import ilp
from celltrack_jax.tracking.scored_links import Costs, hungarian_scored, total_cost
from launch.benches.links import make_movie
from tests.tracking.scored_movies import check_rules, lowest_cost, problems

WHOLE = {"window": 100, "overlap": 3, "time_limit_s": 60.0}


@settings(max_examples=100, deadline=None)
@given(problems())
def test_the_cost_is_the_lowest_of_all_lineages(problem):
    frame, source, target, costs = problem
    links = ilp(*problem, **WHOLE)
    check_rules(frame, source, target, links)
    assert total_cost(source, target, costs, links) == pytest.approx(lowest_cost(*problem), abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(problems())
def test_windows_keep_the_rules_and_cost_no_less(problem):
    frame, source, target, costs = problem
    lowest = total_cost(source, target, costs, ilp(*problem, **WHOLE))
    for window, overlap in ((1, 0), (2, 1), (3, 1)):
        links = ilp(*problem, window=window, overlap=overlap, time_limit_s=60.0)
        check_rules(frame, source, target, links)
        assert total_cost(source, target, costs, links) >= lowest - 1e-6


def test_the_order_of_detections_and_candidates_does_not_matter():
    movie = make_movie(5, 20, seed=3)
    rng = np.random.default_rng(0)
    links = ilp(movie.frame, movie.source, movie.target, movie.costs, **WHOLE)
    node, edge = rng.permutation(len(movie.frame)), rng.permutation(len(movie.source))
    place = np.argsort(node)
    costs = Costs(movie.costs.edge[edge], *(column[node] for column in movie.costs[1:]))
    mixed = ilp(movie.frame[node], place[movie.source[edge]], place[movie.target[edge]], costs, **WHOLE)
    np.testing.assert_array_equal(mixed.kept, links.kept[node])
    parent = links.parent[node]
    np.testing.assert_array_equal(mixed.parent, np.where(parent >= 0, place[parent], -1))


def test_short_windows_cost_hardly_more_than_the_whole_movie():
    movie = make_movie(30, 40, seed=1)
    problem = (movie.frame, movie.source, movie.target, movie.costs)
    costs = [
        total_cost(*problem[1:], ilp(*problem, window=window, overlap=overlap, time_limit_s=60.0))
        for window, overlap in ((30, 3), (20, 8), (10, 3), (3, 1))
    ]
    whole, long, usual, short = (cost - costs[0] for cost in costs)
    assert whole == 0
    assert 0 <= long + 1e-6 <= 1e-5 * abs(costs[0])
    assert 0 <= usual + 1e-6 <= 1e-3 * abs(costs[0])
    assert 0 <= short + 1e-6 <= 2e-2 * abs(costs[0])


def test_a_noisy_movie_is_linked_better_than_frame_by_frame():
    movie = make_movie(20, 60)
    problem = (movie.frame, movie.source, movie.target, movie.costs)
    ours, theirs = ilp(*problem, window=10, overlap=3, time_limit_s=60.0), hungarian_scored(*problem)
    assert (ours.parent == movie.truth).mean() > (theirs.parent == movie.truth).mean()
    assert (ours.kept == movie.real).mean() > 0.99


def fractional() -> tuple:
    """A program whose relaxation is not whole: a ring of three that exclude each other pair by pair."""
    ring = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1]])
    matrix = np.kron(np.eye(4), ring)
    return -np.tile([1.0, 1.1, 1.2], 4), program.csr_array(matrix), np.ones(12)


def test_fractions_are_branched_on():
    cost, matrix, upper = fractional()
    solution, excess = program._lowest(cost, matrix, upper, time.monotonic() + 60)
    assert solution is not None
    assert excess == 0
    assert (cost @ solution) == pytest.approx(-4.8)


def test_without_time_to_prove_it_the_best_so_far_is_told_with_its_distance(monkeypatch):
    cost, matrix, upper = fractional()
    results = [program._branch(cost, matrix, upper, np.zeros(12), np.ones(12, bool), time.monotonic() + 60)]
    results.append(OptimizeResult(x=None, status=1))
    monkeypatch.setattr(program, "_branch", lambda *_: results.pop(0))
    solution, excess = program._lowest(cost, matrix, upper, time.monotonic() + 60)
    assert solution is not None
    assert (matrix @ solution <= 1).all()
    assert excess == pytest.approx(6.6 - 4.8)


@pytest.mark.parametrize("seed", range(3))
def test_fixing_what_cannot_change_keeps_the_optimum(seed):
    rng = np.random.default_rng(seed)
    matrix = program.csr_array((rng.random((60, 60)) < 0.06).astype(np.float64))
    cost, upper = -rng.uniform(1, 2, 60), np.ones(60)
    solution, _ = program._lowest(cost, matrix, upper, time.monotonic() + 60)
    assert solution is not None
    assert (matrix @ solution <= 1).all()
    constraints = LinearConstraint(matrix, -np.inf, upper)  # pyright: ignore[reportArgumentType]
    whole = milp(cost, integrality=np.ones(60), constraints=constraints, bounds=(0, 1))
    assert cost @ solution == pytest.approx(whole.fun)


def test_a_window_without_time_is_linked_frame_by_frame_and_says_so():
    movie = make_movie(6, 20)
    frame = movie.frame + 40
    said = []
    problem = (frame, movie.source, movie.target, movie.costs)
    links = ilp(*problem, window=4, overlap=1, time_limit_s=0.0, say=said.append)
    assert said == [
        "note: frames 40 to 43: no optimum after 0 s, so linked frame by frame",
        "note: frames 43 to 45: no optimum after 0 s, so linked frame by frame",
    ]
    check_rules(*problem[:3], links)
    whole = ilp(*problem, window=6, overlap=1, time_limit_s=0.0, say=said.append)
    np.testing.assert_array_equal(whole.parent, hungarian_scored(*problem).parent)
    np.testing.assert_array_equal(whole.kept, hungarian_scored(*problem).kept)


def one_nat(frame: list[int], source: list[int], target: list[int], **changes) -> tuple:
    """A problem in which a link costs -1, a division 1 and all else 3 nats, save changes."""
    count = len(frame)
    costs = Costs(np.full(len(source), -1.0), *(np.full(count, cost) for cost in (3.0, 3.0, 1.0, 3.0)))
    costs = costs._replace(**{name: np.array(value, np.float64) for name, value in changes.items()})
    return np.array(frame, np.int64), np.array(source, np.int64), np.array(target, np.int64), costs


@pytest.mark.parametrize("window", [1, 2, 9])
@pytest.mark.parametrize(
    ("problem", "parent", "kept"),
    [
        (one_nat([], [], []), [], []),
        (one_nat([5], [], []), [-1], [False]),
        (one_nat([5], [], [], false=[7]), [-1], [True]),
        (one_nat([5, 5], [], [], false=[6.5, 5.5]), [-1, -1], [True, False]),
        (one_nat([0, 9], [0], [1]), [-1, 0], [True, True]),
        (one_nat([0, 1, 1], [0, 0], [1, 2], false=[9] * 3), [-1, 0, 0], [True] * 3),
        (one_nat([0, 1, 2], [0, 0], [1, 2], false=[9] * 3), [-1, 0, 0], [True] * 3),
        (one_nat([0, 1, 1, 2], [0, 0, 1], [1, 2, 3], divide=[np.inf] * 4), [-1, 0, -1, 1], [1, 1, 0, 1]),
    ],
    ids=["none", "one", "kept", "frame", "gap", "division", "uneven daughters", "no division"],
)
def test_small_movies(problem, parent, kept, window):
    links = ilp(*problem, window=window, overlap=0, time_limit_s=60.0)
    assert links.parent.tolist() == parent
    assert links.kept.tolist() == kept


def test_bad_input_is_refused():
    frame, source, target, costs = one_nat([0, 1], [0], [1])
    with pytest.raises(ValueError, match="overlap=2 must be at least 0 and less than window=2"):
        ilp(frame, source, target, costs, window=2, overlap=2, time_limit_s=1.0)
    with pytest.raises(ValueError, match="candidate 0 goes from frame 1 to frame 0"):
        ilp(frame, target, source, costs, **WHOLE)
    with pytest.raises(ValueError, match=r"costs.appear\[1\] is inf"):
        ilp(frame, source, target, costs._replace(appear=np.array([0, np.inf])), **WHOLE)
    with pytest.raises(ValueError, match=r"costs.edge has shape \(2,\), not \(1,\)"):
        ilp(frame, source, target, costs._replace(edge=np.zeros(2)), **WHOLE)
