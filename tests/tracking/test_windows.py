"""Windows, buckets and padding against loops; one test for each function of jraph that is used."""

import itertools
from typing import Any

import jax
import jraph
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.tracking.windows import (
    Bucket,
    Graph,
    bucket_of,
    choose_buckets,
    cut,
    pad,
    padding_masks,
    windows,
)


def random_graph(seed: int, nodes: int = 30, edges: int = 60) -> Graph:
    """A movie of up to 12 frames; node n holds its number and edge (s, t) holds [s, t]."""
    rng = np.random.default_rng(seed)
    frame = np.sort(rng.integers(3, 15, nodes))
    pairs = rng.integers(0, nodes, (edges, 2))
    pairs = np.unique(pairs[frame[pairs[:, 0]] < frame[pairs[:, 1]]][:, ::-1], axis=0)
    target, source = pairs.T
    inside = {"ends": np.stack([source, target], 1).astype(np.float32), "label": source % 2 == 0}
    return Graph(frame, source, target, {"number": np.arange(nodes, dtype=np.float32)[:, None]}, inside)


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 6), st.integers(1, 6))
def test_windows_are_those_of_a_loop(frames, length, stride):
    frame = np.sort(np.array(frames, np.int64))
    found = windows(frame, length, stride)
    expected = []
    if frames:
        first = min(frames)
        while True:
            if first + length - 1 >= max(frames):
                first = max(min(frames), max(frames) - length + 1)
            last = min(first + length - 1, max(frames))
            if any(first <= f <= last for f in frames):
                expected.append((first, last))
            if last == max(frames):
                break
            first += stride
    assert found == expected
    if stride <= length:
        assert {f for f in frames} == {f for f in frames for first, last in found if first <= f <= last}


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 999), st.integers(0, 17), st.integers(0, 17))
def test_a_cut_is_that_of_a_mask_over_everything(seed, one, two):
    graph, (first, last) = random_graph(seed), sorted((one, two))
    part = cut(graph, (first, last))
    inside = (graph.frame >= first) & (graph.frame <= last)
    both = inside[graph.source] & inside[graph.target]
    np.testing.assert_array_equal(part.nodes["number"][:, 0], np.flatnonzero(inside))
    np.testing.assert_array_equal(part.edges["ends"], graph.edges["ends"][both])
    np.testing.assert_array_equal(part.edges["label"], graph.edges["label"][both])
    np.testing.assert_array_equal(part.frame, graph.frame[inside])
    numbers = part.nodes["number"][:, 0]
    np.testing.assert_array_equal(numbers[part.source], part.edges["ends"][:, 0])
    np.testing.assert_array_equal(numbers[part.target], part.edges["ends"][:, 1])


def test_padding_adds_one_graph_and_the_masks_tell_it():
    graph = random_graph(2)
    parts = [cut(graph, window) for window in windows(graph.frame, 4, 4)]
    nodes, edges = (sum(size) for size in zip(*(part.size for part in parts), strict=True))
    padded: Any = pad(parts, Bucket(nodes + 3, edges + 5))
    assert isinstance(padded.senders, np.ndarray)
    assert padded.n_node.tolist() == [*(part.size[0] for part in parts), 3]
    assert padded.n_edge.tolist() == [*(part.size[1] for part in parts), 5]
    assert padded.edges["label"].dtype == bool
    for real_node, real_edge in (padding_masks(padded), jax.jit(padding_masks)(padded)):
        assert real_node.tolist() == [True] * nodes + [False] * 3
        assert real_edge.tolist() == [True] * edges + [False] * 5
    numbers = padded.nodes["number"][:, 0]
    np.testing.assert_array_equal(numbers[padded.senders[:edges]], padded.edges["ends"][:edges, 0])
    np.testing.assert_array_equal(numbers[padded.receivers[:edges]], padded.edges["ends"][:edges, 1])
    assert (padded.senders[edges:] >= nodes).all()
    assert (padded.receivers[edges:] >= nodes).all()
    assert not padded.edges["ends"][edges:].any()


def test_what_does_not_fit_is_refused():
    graph = random_graph(1)
    nodes, edges = graph.size
    full: Any = pad([graph], Bucket(nodes + 1, edges))
    assert full.n_edge.tolist() == [edges, 0]
    for bucket in (Bucket(nodes, edges), Bucket(nodes + 1, edges - 1)):
        with pytest.raises(ValueError, match=f"{nodes} nodes and {edges} edges do not fit"):
            pad([graph], bucket)
        with pytest.raises(ValueError, match="fit none of the buckets"):
            bucket_of(graph.size, [bucket])


def test_jraph_batches_by_shifting_indices():
    make: Any = jraph.GraphsTuple
    one, two = (
        make(
            nodes=np.full((n, 1), n),
            edges=None,
            senders=np.array([0]),
            receivers=np.array([n - 1]),
            globals=None,
            n_node=np.array([n]),
            n_edge=np.array([1]),
        )
        for n in (2, 3)
    )
    both: Any = jraph.batch_np([one, two])
    assert (both.senders.tolist(), both.receivers.tolist()) == ([0, 2], [1, 4])
    assert (both.n_node.tolist(), both.nodes[:, 0].tolist()) == ([2, 3], [2, 2, 3, 3, 3])
    padded: Any = jraph.pad_with_graphs(both, 7, 4, 3)
    assert (padded.n_node.tolist(), padded.n_edge.tolist()) == ([2, 3, 2], [1, 1, 2])
    np.testing.assert_array_equal(jraph.get_node_padding_mask(padded), [True] * 5 + [False] * 2)
    np.testing.assert_array_equal(jraph.get_edge_padding_mask(padded), [True] * 2 + [False] * 2)


SIZES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=6)


@settings(deadline=None)
@given(SIZES, st.integers(1, 4))
def test_buckets_pad_as_little_as_any_runs(sizes, count):
    buckets = choose_buckets(np.array(sizes), count)
    assert len(buckets) <= count
    area = sum(sum(bucket_of(size, buckets)) - 1 for size in sizes)
    ordered = sorted(sizes, key=lambda size: size[::-1])
    least = min(
        sum(
            len(run) * (max(n for n, _ in run) + max(e for _, e in run))
            for run in (ordered[a:b] for a, b in itertools.pairwise((0, *cuts, len(ordered))))
        )
        for pieces in range(min(count, len(sizes)))
        for cuts in itertools.combinations(range(1, len(sizes)), pieces)
    )
    # A window may fit a smaller bucket than that of its run.
    assert area <= least
    assert sum(sizes[0]) <= sum(bucket_of(sizes[0], buckets)) - 1


def test_enough_buckets_pad_nothing_but_the_one_node():
    sizes = [(3, 4), (9, 9), (3, 4), (5, 7)]
    assert choose_buckets(np.array(sizes), 3) == (Bucket(4, 4), Bucket(6, 7), Bucket(10, 9))
    assert choose_buckets(np.array(sizes), 1) == (Bucket(10, 9),)
    with pytest.raises(ValueError, match="0 windows cannot be padded to 2 sizes"):
        choose_buckets(np.zeros((0, 2)), 2)


def test_thousands_of_windows_are_quickly_sorted_into_buckets():
    sizes = np.random.default_rng(0).integers(0, 5000, (2000, 2))
    assert len(choose_buckets(sizes, 4)) == 4
