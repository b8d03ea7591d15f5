"""Small random problems of scored candidates, and the lowest cost by trying every lineage."""

import itertools

import numpy as np
from hypothesis import strategies as st

from celltrack_jax.tracking.scored_links import Costs, Links, total_cost


@st.composite
def problems(draw, most_edges=9, gaps=True):
    """(frame, source, target, costs) with up to seven detections in any order; every other cost may be inf."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(0, 7))
    frame = rng.choice([2, 3, 4, 7], count)
    source, target = np.nonzero(frame[:, None] < frame[None])
    if not gaps:
        places = np.searchsorted(np.unique(frame), frame)
        near = places[target] - places[source] == 1
        source, target = source[near], target[near]
    some = rng.permutation(len(source))[: draw(st.integers(0, most_edges))]
    spread = draw(st.sampled_from([1.0, 3.0]))
    values = rng.normal(0, spread, (5, max(len(some), count, 1)))
    edge = values[0, : len(some)] - 1
    appear, disappear, divide, false = values[1:, :count] + 1
    if draw(st.booleans()):
        false = np.where(rng.random(count) < 0.5, np.inf, false)
        divide = np.where(rng.random(count) < 0.3, np.inf, divide)
    return frame, source[some], target[some], Costs(edge, appear, disappear, divide, false)


def lowest_cost(frame: np.ndarray, source: np.ndarray, target: np.ndarray, costs: Costs) -> float:
    """Tries every choice of a predecessor, none, or being false, for each detection."""
    count = len(frame)
    choices = [[-2, -1, *source[target == node].tolist()] for node in range(count)]
    best = np.inf
    for choice in itertools.product(*choices):
        parent, kept = np.maximum(choice, -1).astype(np.int64), np.array(choice, np.int64) > -2
        children = np.bincount(parent[parent >= 0], minlength=count)
        if children.max(initial=0) <= 2 and kept[parent[parent >= 0]].all():
            best = min(best, total_cost(source, target, costs, Links(parent.reshape(-1), kept.reshape(-1))))
    return best


def check_rules(frame: np.ndarray, source: np.ndarray, target: np.ndarray, links: Links) -> None:
    """Links are candidates, go forward in time, are two from a detection at most, and none at false ones."""
    linked = np.flatnonzero(links.parent >= 0)
    mothers = links.parent[linked]
    assert links.parent.shape == links.kept.shape == frame.shape
    assert set(zip(mothers.tolist(), linked.tolist(), strict=True)) <= set(
        zip(source.tolist(), target.tolist(), strict=True)
    )
    assert (frame[mothers] < frame[linked]).all()
    assert np.bincount(mothers).max(initial=0) <= 2
    assert links.kept[linked].all()
    assert links.kept[mothers].all()
