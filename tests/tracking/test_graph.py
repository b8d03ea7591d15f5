"""Candidate graphs, labels and edge features against loops over all pairs, and the radius on real truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.io import ctc
from celltrack_jax.lineage import Detections, Lineage, lineage_from_links
from celltrack_jax.tracking import graph
from celltrack_jax.tracking.cells import Cells, measure_cells
from celltrack_jax.tracking.features import detections_from_masks
from celltrack_jax.tracking.graph import (
    EDGE_FEATURES,
    candidates,
    candidates_box,
    choose_radius,
    edge_features,
    edge_labels,
    reachable,
    true_parents,
    with_links,
)
from celltrack_jax.tracking.handmade import voxel_centroids

SPACING = np.array([2.0, 0.5, 0.25])


def points(seed: int, frames: list[int], most: int = 6, size: int = 4) -> Detections:
    """Detections at whole numbers, where many distances are equal."""
    rng = np.random.default_rng(seed)
    frame = np.repeat(np.sort(np.array(frames, np.int64)), rng.integers(0, most + 1, len(frames)))
    position = rng.integers(0, size, (len(frame), 3)).astype(np.float64)
    return Detections(frame, np.arange(1, len(frame) + 1), position, np.ones(len(frame)))


FRAMES = st.lists(st.integers(0, 8), max_size=5, unique=True)


def measured(seed: int, volume: bool, images: bool = False) -> Cells:
    """Cells of a movie of random pixels and of a frame without any."""
    rng = np.random.default_rng(seed)
    shape = (3, 9, 8) if volume else (9, 8)
    labels = [rng.choice(6, shape, p=[0.9, *[0.02] * 5]) * (frame != 4) for frame in (0, 1, 4, 5, 8)]
    light = [rng.random(shape) if images else None for _ in labels]
    return measure_cells(zip((0, 1, 4, 5, 8), labels, light, strict=True), SPACING)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 999), FRAMES, st.sampled_from([0.0, 1.0, 2.5, 99.0]), st.integers(0, 3), st.integers(1, 4)
)
def test_candidates_are_those_of_a_loop_over_pairs(seed, frames, radius, max_gap, most):
    found = points(seed, frames)
    expected = []
    for target in range(len(found.frame)):
        for gap in range(max_gap + 1):
            way = found.position_um - found.position_um[target]
            distance = np.sqrt((way**2).sum(1))
            near = np.flatnonzero(
                (found.frame == found.frame[target] - 1 - gap) & (distance <= radius * np.sqrt(gap + 1))
            )
            expected += [(target, source) for source in sorted(near, key=lambda n: (distance[n], n))[:most]]
    edges = candidates(found, radius_um=radius, max_gap=max_gap, max_neighbours=most)
    assert list(zip(edges.target.tolist(), edges.source.tolist(), strict=True)) == sorted(expected)
    assert edges.source.dtype == edges.target.dtype == np.int64


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 999), st.booleans(), st.sampled_from([0.5, 2]), st.sampled_from([None, (1, 2, 3)]))
def test_the_original_box_is_that_of_a_loop_over_pairs(seed, volume, scale, extent):
    cells = measured(seed, volume)
    frame, centre = cells.detections.frame, voxel_centroids(cells)
    if extent is None:
        boxes = [high - low for low, high in zip(cells.low, cells.high, strict=True)]
        reach = scale * np.array([max(box[axis] for box in boxes) for axis in range(3)])
    else:
        reach = scale * np.array(extent)
    numbers = sorted(set(frame.tolist()))
    expected = [
        (t, s)
        for t in range(len(frame))
        for s in range(len(frame))
        if frame[t] in numbers[1:]
        and frame[s] == numbers[numbers.index(frame[t]) - 1]
        and (abs(centre[t] - centre[s]) <= reach).all()
    ]
    edges = candidates_box(cells, extent=None if extent is None else np.array(extent), scale=scale)
    assert list(zip(edges.target.tolist(), edges.source.tolist(), strict=True)) == expected


def test_the_box_looked_at_in_chunks_is_the_same(monkeypatch):
    cells = measured(4, volume=True)
    whole = candidates_box(cells, extent=None, scale=2)
    monkeypatch.setattr(graph, "_PAIRS", 7)
    for one, two in zip(whole, candidates_box(cells, extent=None, scale=2), strict=True):
        np.testing.assert_array_equal(one, two)


def brute_force_parents(frame, track, lineage):
    """Looks for every detection's predecessor among all."""
    mothers = {label: mother for label, _, _, mother in lineage.rows().tolist()}
    parents = []
    for n, own in enumerate(track):
        earlier = [m for m in range(len(frame)) if track[m] == own > 0 and frame[m] < frame[n]]
        if not earlier and own > 0:
            mother = mothers.get(own, 0)
            earlier = [m for m in range(len(frame)) if track[m] == mother > 0 and frame[m] < frame[n]]
        parents.append(max(earlier, key=lambda m: (frame[m], -m), default=-1))
    return parents


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 999), FRAMES)
def test_true_parents_are_those_of_a_loop(seed, frames):
    found = points(seed, frames)
    rng = np.random.default_rng(seed)
    track = rng.integers(-1, 6, len(found.frame))
    lineage = Lineage.from_rows([(n, 0, 0, rng.integers(0, n)) for n in (1, 2, 4, 5, 9)])
    parents = true_parents(found, track, lineage)
    assert parents.tolist() == brute_force_parents(found.frame, track, lineage)


def test_links_made_tracks_give_the_links_back():
    found = points(3, [0, 1, 2, 4, 5])
    rng = np.random.default_rng(0)
    links = np.array(
        [rng.choice(np.append(np.flatnonzero(found.frame < frame), -1)) for frame in found.frame]
    )
    lineage, track = lineage_from_links(found.frame, links)
    np.testing.assert_array_equal(true_parents(found, track, lineage), links)


def test_divisions_are_positive_edges():
    found = points(0, [])._replace(
        frame=np.array([0, 1, 2, 2, 4]),
        position_um=np.zeros((5, 3)),
        label=np.arange(5),
        volume_um=np.ones(5),
    )
    parents = true_parents(
        found, np.array([1, 1, 2, 3, 3]), Lineage.from_rows([(1, 0, 1, 0), (2, 2, 2, 1), (3, 2, 4, 1)])
    )
    assert parents.tolist() == [-1, 0, 1, 1, 3]
    edges = candidates(found, radius_um=1, max_gap=0, max_neighbours=2)
    assert edge_labels(edges, parents).tolist() == [True, True, True]
    assert reachable(edges, parents) == 0.75
    wider = candidates(found, radius_um=1, max_gap=1, max_neighbours=2)
    assert reachable(wider, parents) == 1
    assert edge_labels(wider, parents).sum() == 4


def test_the_radius_holds_the_chosen_share_of_links():
    found = points(1, [0, 1, 2, 3, 5, 6], most=30, size=50)
    rng = np.random.default_rng(1)
    parents = np.array(
        [rng.choice(np.append(np.flatnonzero(found.frame < frame), -1)) for frame in found.frame]
    )
    for quantile in (0.5, 0.9, 1.0):
        radius = choose_radius(found, parents, max_gap=6, quantile=quantile, margin=1 + 1e-9)
        edges = candidates(found, radius_um=radius, max_gap=6, max_neighbours=30)
        assert reachable(edges, parents) == pytest.approx(quantile, abs=2 / (parents >= 0).sum())
    with pytest.raises(ValueError, match="0 true links tell no radius"):
        choose_radius(found, np.full(len(parents), -1), max_gap=0, quantile=1, margin=1)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 999), st.booleans(), st.booleans())
def test_edge_features_are_those_of_a_loop(seed, volume, images):
    cells = measured(seed, volume, images)
    edges = candidates(cells.detections, radius_um=3.0, max_gap=2, max_neighbours=3)
    features = edge_features(cells, edges, 2.0)
    assert features.shape == (len(edges.source), len(EDGE_FEATURES))
    assert features.dtype == np.float32
    named = {name: features[:, place] for place, name in enumerate(EDGE_FEATURES)}
    frame, position = cells.detections.frame, cells.detections.position_um
    pairs = list(zip(edges.source.tolist(), edges.target.tolist(), strict=True))
    way = (position[edges.target] - position[edges.source]) / 2
    length = dict(zip(pairs, np.linalg.norm(way, axis=1).astype(np.float32), strict=True))
    for edge, (source, target) in enumerate(pairs):
        rivals = [p for p in pairs if p[1] == target and frame[p[0]] == frame[source]]
        others = [p for p in pairs if p[0] == source and frame[p[1]] == frame[target]]
        for column, group in (("source_rank", rivals), ("target_rank", others)):
            rank = sorted(group, key=lambda p: (length[p], p)).index((source, target))
            assert named[column][edge] == pytest.approx(1 / (1 + rank))
        excess = length[source, target] - min(length[pair] for pair in rivals)
        assert named["excess_distance"][edge] == pytest.approx(excess, abs=1e-6)
        voxels = [
            {tuple(v) for v in np.argwhere(np.ones(cells.high[n] - cells.low[n])) + cells.low[n]}
            for n in (source, target)
        ]
        overlap = len(voxels[0] & voxels[1]) / len(voxels[0] | voxels[1])
        assert named["box_overlap"][edge] == pytest.approx(overlap)
    np.testing.assert_allclose(features[:, :4], np.c_[np.linalg.norm(way, axis=1), way], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(named["gap"], frame[edges.target] - frame[edges.source] - 1)
    volume_um = cells.detections.volume_um
    ratio = np.log(volume_um[edges.target] / volume_um[edges.source])
    np.testing.assert_allclose(named["log_volume_ratio"], ratio, atol=1e-5)
    assert images == bool(np.any(features[:, 9:11]))


def test_edge_features_do_not_depend_on_the_unit_nor_on_time_and_place():
    rng = np.random.default_rng(0)
    masks = [rng.choice(6, (9, 8), p=[0.9, *[0.02] * 5]) for _ in range(4)]
    frames = [(number, mask, rng.random(mask.shape)) for number, mask in enumerate(masks)]
    moved = [(number + 9, np.pad(mask, 3), 2 * np.pad(light, 3)) for number, mask, light in frames]
    features = []
    for movie, scale in ((frames, 1), (moved, 8)):
        cells = measure_cells(movie, SPACING * scale)
        edges = candidates(cells.detections, radius_um=2.0 * scale, max_gap=1, max_neighbours=3)
        features.append(edge_features(cells, edges, 2.0 * scale))
    assert len(features[0]) > 9
    np.testing.assert_allclose(*features, rtol=1e-4, atol=1e-4)


def test_a_movie_without_cells_has_no_edges():
    cells = measure_cells([(0, np.zeros((3, 3), np.uint8), None)], SPACING)
    found = cells.detections
    edges = candidates(found, radius_um=1, max_gap=1, max_neighbours=3)
    assert edges.source.shape == candidates_box(cells, extent=None, scale=2).target.shape == (0,)
    assert edge_features(cells, edges, 1.0).shape == (0, len(EDGE_FEATURES))
    nobody = true_parents(found, found.label, Lineage.from_rows([]))
    assert nobody.shape == (0,)
    assert reachable(edges, nobody) == 1


def test_true_links_of_real_markers_are_within_reach(real_data):
    sequence = ctc.open_sequence(real_data("iPSC-02"), "02")
    assert sequence.tracks is not None
    masks = ((frame, ctc.read_image(path)) for frame, path in sequence.markers.items())
    found = detections_from_masks(masks, np.ones(3))
    parents = true_parents(found, found.label, sequence.tracks)
    radius = choose_radius(found, parents, max_gap=1, quantile=0.999, margin=1.25)
    edges = candidates(found, radius_um=radius, max_gap=1, max_neighbours=6)
    assert reachable(edges, parents) > 0.998
    assert len(edges.source) < 20 * len(found.frame)


@settings(max_examples=30)
@given(*[st.sets(st.tuples(st.integers(0, 5), st.integers(6, 9)))] * 2)
def test_candidates_of_both_come_once_and_in_order(ours, theirs):
    first, second = (
        graph.Candidates(*np.array(sorted(pairs), np.int64).reshape(-1, 2).T) for pairs in (ours, theirs)
    )
    both = with_links(first, second)
    found = list(zip(both.target.tolist(), both.source.tolist(), strict=True))
    assert found == sorted((target, source) for source, target in ours | theirs)
