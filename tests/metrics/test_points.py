"""Measures of points against literal definitions, the masks' measures, and figures of simulated results."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.lineage import Lineage
from celltrack_jax.metrics.ctc import aogm_operations, ctc_measures
from celltrack_jax.metrics.overlap import overlap
from celltrack_jax.metrics.points import (
    PointGraph,
    detection_measures,
    helalab_cost,
    inside_marker_measures,
    match,
    point_overlap,
)


def best_assignment(ref, found, radius):
    """Tries every one-to-one assignment: (most pairs within the radius, least sum of distances among those)."""
    if len(ref) > len(found):
        ref, found = found, ref
    distance = np.linalg.norm(ref[:, None] - found[None], axis=-1)
    best = (0, 0.0)
    for columns in itertools.permutations(range(len(found)), len(ref)):
        pair = distance[np.arange(len(ref)), list(columns)]
        best = max(best, (int((pair <= radius).sum()), -float(pair[pair <= radius].sum())))
    return best


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    counts=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    ndim=st.sampled_from([2, 3]),
    radius=st.sampled_from([0.0, 1.0, 3.0, 20.0]),
    whole=st.booleans(),
)
def test_match_is_the_best_of_all_assignments(seed, counts, ndim, radius, whole):
    rng = np.random.default_rng(seed)
    ref, found = (rng.uniform(0, 6, (count, ndim)) for count in counts)
    if whole:
        ref, found = ref.round(), found.round()
    matched = match(ref, found, radius)
    assert len(set(matched.ref)) == len(set(matched.found)) == len(matched.ref)
    assert np.all(np.diff(matched.ref) > 0)
    distance = np.linalg.norm(ref[matched.ref] - found[matched.found], axis=-1)
    np.testing.assert_allclose(matched.distance, distance)
    pairs, total = best_assignment(ref, found, radius)
    assert len(matched.ref) == pairs
    assert -matched.distance.sum() == pytest.approx(total)


def test_many_points_are_matched_to_themselves():
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 3000, (5000, 2))
    shuffled = rng.permutation(5000)
    matched = match(points, points[shuffled] + rng.uniform(-0.1, 0.1, (5000, 2)), 20.0)
    np.testing.assert_array_equal(shuffled[matched.found], np.arange(5000))


def test_measures_worked_out_by_hand():
    ref = np.array([[0, 0], [0, 10], [0, 20], [0, 30]])
    found = np.array([[0, 3], [4, 10], [0, 90]])
    frames = [(ref, found), (ref[:1], found[:0]), (ref[:0], found[:2])]
    measures = detection_measures(frames, (3, 5.5))
    assert measures == {
        "precision_3": 1 / 5,
        "recall_3": 1 / 5,
        "F1_3": 2 / 10,
        "RMSE_3": 3,
        "precision_5.5": 2 / 5,
        "recall_5.5": 2 / 5,
        "F1_5.5": 4 / 10,
        "RMSE_5.5": pytest.approx(np.sqrt((9 + 16) / 2)),
        "count_error": pytest.approx(4 / 3),
        "count_bias": 0,
    }


def test_what_is_not_defined_is_none():
    assert set(detection_measures([], (3,)).values()) == {None}
    nothing = np.zeros((0, 2))
    measures = detection_measures([(nothing, nothing)], (3,))
    assert measures.pop("count_error") == measures.pop("count_bias") == 0
    assert set(measures.values()) == {None}
    assert set(inside_marker_measures([]).values()) == {None}
    assert helalab_cost(*[PointGraph(np.zeros((0, 3)), np.zeros((0, 2)))] * 2) is None


def test_points_inside_markers():
    mask = np.zeros((20, 20), np.int32)
    mask[2:5, 2:5], mask[10:13, 10:13], mask[2:5, 15:18] = 4, 7, 9
    found = np.array([[3, 3], [4.4, 1.6], [11, 11], [8, 8], [-1, 3], [3, 25]])
    assert inside_marker_measures([(mask, found)]) == {"precision": 2 / 6, "recall": 2 / 3, "F1": 4 / 9}
    empty = inside_marker_measures([(mask, found[:0]), (mask * 0, found[:1])])
    assert empty == {"precision": 0, "recall": 0, "F1": 0}


TRUTH = Lineage.from_rows([(1, 0, 1, 0), (2, 2, 3, 1), (3, 2, 3, 1), (4, 0, 3, 0)])


def positions(frame):
    """Labels and points of the truth: a division, and a cell that stays."""
    points = {4: (40, 40), **({1: (10, 10)} if frame < 2 else {2: (10, 5), 3: (10, 15)})}
    return np.array(list(points)), np.array(list(points.values()), float)


def test_perfect_points_need_no_correction():
    overlaps = [point_overlap(t, *positions(t), *positions(t), 3) for t in range(4)]
    measures = ctc_measures(overlaps, TRUTH, TRUTH, None)
    assert measures["AOGM"] == 0
    assert measures["DET"] == measures["TRA"] == measures["LNK"] == 1


def test_a_merged_point_is_split_a_missed_one_added_a_false_one_deleted():
    result = Lineage.from_rows([(1, 0, 3, 0), (5, 0, 3, 0)])
    overlaps = []
    for t in range(4):
        label, position = positions(t)
        # Track 1 stays between the daughters; track 5 is found nowhere near.
        overlaps.append(
            point_overlap(t, label, position, np.array([5, 1]), np.array([[90, 90], [10, 11]]), 7)
        )
    measures = ctc_measures(overlaps, TRUTH, result, None)
    assert (measures["AOGM_NS"], measures["AOGM_FN"], measures["AOGM_FP"]) == (2, 4, 4)
    assert {str(op) for op in aogm_operations(overlaps, TRUTH, result) if op.kind == "NS"} == {
        "T=2 Label=1",
        "T=3 Label=1",
    }


def test_points_that_are_off_do_not_steal_from_each_other():
    # The first found point is the nearest of both.
    ref, found = np.array([[0, 0], [0, 4]]), np.array([[0, 3], [0, 8]])
    one = point_overlap(0, np.array([1, 2]), ref, np.array([3, 4]), found, 5)
    assert (one.ref.tolist(), one.comp.tolist(), one.comp_size.tolist()) == ([0, 1], [0, 1], [1, 1])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(0, 12))
def test_points_score_as_their_pixels_do(seed, count):
    rng = np.random.default_rng(seed)
    ref, found = (np.where(rng.random(40) < 0.3, rng.permutation(40) + 1, 0) for _ in range(2))
    found[:count] = ref[:count] = np.arange(count) + 50
    places = [(mask[mask > 0], np.argwhere(mask > 0) * 10.0) for mask in (ref, found)]
    one = point_overlap(3, *places[0], *places[1], 4)
    for ours, theirs in zip(one, overlap(ref, found, 3), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_labels_that_come_twice_are_refused():
    points = np.zeros((2, 2))
    with pytest.raises(ValueError, match="found points must be positive and come once each"):
        point_overlap(0, np.array([1, 2]), points, np.array([3, 3]), points, 1)


def movie(cells, frames, seed=0, detected=1.0):
    """A reference movie of still cells, and a result without edges whose time starts at 0."""
    rng = np.random.default_rng(seed)
    place = rng.uniform(0, 1, (cells, 2)) * (464, 336)
    t = np.repeat(np.arange(1, frames + 1), cells)
    node = np.column_stack([t, np.tile(place, (frames, 1))]).astype(float)
    later = np.arange(cells, len(node))
    chosen = rng.permutation(len(node))[: round(detected * len(node))]
    return PointGraph(node, np.column_stack([later, later - cells])), PointGraph(
        node[np.sort(chosen)] - (1, 0, 0), np.zeros((0, 2), np.int64)
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), counts=st.tuples(st.integers(1, 5), st.integers(1, 5)))
def test_the_cost_is_that_of_padded_matrices(seed, counts):
    rng = np.random.default_rng(seed)
    graphs = []
    for count in counts:
        edge = rng.integers(0, count, (rng.integers(0, 7), 2))
        graphs.append(PointGraph(rng.uniform(0, 700, (count, 3)), edge))
    n = max(counts)
    adjacency = np.zeros((2, n, n))
    for matrix, graph in zip(adjacency, graphs, strict=True):
        matrix[tuple(graph.edge.T)] = 1
    cost = np.full((n, n), 1000.0)
    for i, j in np.ndindex(counts):
        cost[i, j] = np.abs(graphs[0].node[i] - graphs[1].node[j]).sum()
        cost[i, j] += np.linalg.norm(adjacency[0, i] - adjacency[1, j])
    best = min(cost[np.arange(n), list(order)].sum() for order in itertools.permutations(range(n)))
    assert helalab_cost(*graphs) == pytest.approx(best / n)


@pytest.mark.parametrize(("detected", "cost"), [(1.0, 2), (0.9, 103), (0.75, 269), (0.5, 502), (0.25, 768)])
def test_the_cost_counts_nodes(detected, cost):
    found = helalab_cost(*movie(30, 20, detected=detected))
    assert found == pytest.approx(cost, rel=0.08)


def test_the_cost_hardly_sees_where_points_are():
    ref, _ = movie(30, 20)
    _, random = movie(30, 20, seed=1)
    assert helalab_cost(ref, random) == pytest.approx(70, rel=0.4)
