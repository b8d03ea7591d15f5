"""Expected AOGM: against the AOGM of every truth that may be, and where the truth is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.special import expit

from celltrack_jax.tracking.expected_aogm import expected_aogm
from celltrack_jax.tracking.ilp import ilp
from celltrack_jax.tracking.scored_links import Costs, Links, total_cost

from .scored_movies import lowest_cost, problems

SURE = 60.0


def aogm(frame, parent, kept, true_parent, real):
    """Counts operations detection by detection; a link over skipped frames draws the cell there, as the truth does."""
    children, true_children = (
        [np.flatnonzero(each == n) for n in range(len(frame))] for each in (parent, true_parent)
    )
    cost = 0.0
    for n in range(len(frame)):
        if kept[n] != real[n]:
            cost += 1.0 if kept[n] else 10.0
        ours, theirs = parent[n], true_parent[n]
        if ours == theirs >= 0:
            cost += (len(children[ours]) > 1) != (len(true_children[ours]) > 1)
            continue
        if theirs >= 0:
            gap = frame[n] - frame[theirs] - 1
            cost += 1.5 * (gap + 1) + 10 * gap
        if ours >= 0:
            cost += max(frame[n] - frame[ours] - 1, 1)
    return cost


def whole_divisions(parent, true_parent):
    """Whether each mother, ours or true, has a right daughter and no wrong one: what the sum takes for granted."""
    for n in range(len(parent)):
        ours, theirs = (set(np.flatnonzero(each == n)) for each in (parent, true_parent))
        if len(theirs) > 1 and not (ours and ours <= theirs):
            return False
        if len(ours) > 1 and not ours & theirs:
            return False
    return True


def test_where_the_truth_is_known_costs_differ_as_the_aogm_does():
    # A cell divides after frame 1, a daughter is missed in frame 2, and detection 6 is false.
    frame = np.array([0, 1, 2, 3, 3, 4, 2])
    true = np.array([-1, 0, 1, 2, 1, 4, -1])
    real = np.arange(7) < 6
    source, target = (each.ravel() for each in np.meshgrid(np.arange(7), np.arange(7), indexing="ij"))
    forward = (frame[target] > frame[source]) & (frame[target] <= frame[source] + 2)
    source, target = source[forward], target[forward]
    sign = np.where(true[target] == source, -SURE, SURE)
    children = np.bincount(true[true >= 0], minlength=7)
    nats = Costs(
        sign,
        np.where((true < 0) & real, -SURE, SURE),
        np.where(children == 0, -SURE, SURE),
        np.where(children > 1, -SURE, SURE),
        np.where(real, SURE, -SURE),
    )
    costs = expected_aogm(frame, source, target, nats, reject=10.0, drawn=1.0)
    rng = np.random.default_rng(0)
    seen = []
    for _ in range(300):
        kept = rng.random(7) < 0.8
        parent = np.full(7, -1)
        for n in np.flatnonzero(kept):
            options = source[(target == n) & kept[source]]
            options = [o for o in options if (parent == o).sum() < 2]
            if options and rng.random() < 0.8:
                parent[n] = true[n] if true[n] in options and rng.random() < 0.7 else rng.choice(options)
        if not whole_divisions(parent, true):
            continue
        ours = total_cost(source, target, costs, Links(parent, kept))
        seen.append(aogm(frame, parent, kept, true, real) - ours)
    assert len(seen) > 20
    np.testing.assert_allclose(seen, seen[0], atol=1e-9)
    best = ilp(frame, source, target, costs, window=5, overlap=0, time_limit_s=10)
    assert best.parent.tolist() == true.tolist()
    assert best.kept.tolist() == real.tolist()


@settings(max_examples=30)
@given(problems(most_edges=5))
def test_costs_are_means_over_what_may_be_true(problem):
    frame, source, target, nats = problem
    costs = expected_aogm(frame, source, target, nats, reject=3.0, drawn=0.3)
    for n in range(len(frame)):
        into = np.flatnonzero(target == n)
        weights = np.append(expit(-nats.edge[into]), [expit(-nats.appear[n]), expit(-nats.false[n])])
        outcomes = weights / weights.sum()
        for place, edge in enumerate(into):
            gap = frame[n] - frame[source[edge]] - 1
            mean = sum(
                chance * there * cost
                for truth, chance in enumerate(outcomes)
                for there, cost in (
                    (0.3 if gap else 1.0, -(1.5 * (gap + 1) + 10 * gap) if truth == place else max(gap, 1)),
                    (0.7 if gap else 0.0, gap if truth == place else max(gap, 1)),
                )
            )
            assert costs.edge[edge] == pytest.approx(mean)
        if np.isfinite(nats.false[n]):
            odds = np.exp(-np.append(nats.edge[into], nats.appear[n])).sum()
            odds *= np.exp(-np.append(nats.edge[source == n], nats.disappear[n])).sum()
            chance = 1 / (1 + odds * np.exp(nats.false[n]))
            assert costs.false[n] == pytest.approx(3 * (1 - chance) - chance)
        if np.isfinite(nats.divide[n]):
            chance = expit(-nats.divide[n])
            assert costs.divide[n] == pytest.approx((1 - chance) - chance)
    assert np.isinf(costs.divide).tolist() == np.isinf(nats.divide).tolist()
    assert np.isinf(costs.false).tolist() == np.isinf(nats.false).tolist()
    links = ilp(frame, source, target, costs, window=9, overlap=0, time_limit_s=10)
    assert total_cost(source, target, costs, links) == pytest.approx(
        lowest_cost(frame, source, target, costs)
    )


def test_settings_out_of_their_range_are_refused():
    none = np.zeros(0, np.int64)
    with pytest.raises(ValueError, match="reject=-1"):
        expected_aogm(none, none, none, Costs(*np.zeros((5, 0))), reject=-1.0, drawn=0.5)
    with pytest.raises(ValueError, match=r"drawn=1.5"):
        expected_aogm(none, none, none, Costs(*np.zeros((5, 0))), reject=1.0, drawn=1.5)
