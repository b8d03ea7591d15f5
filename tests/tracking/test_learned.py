"""Scores of a movie from scores of its windows."""

import numpy as np
import pytest

from celltrack_jax.errors import InputError
from celltrack_jax.tracking import feature_sets, graph, learned
from celltrack_jax.tracking.cells import measure_cells
from celltrack_jax.tracking.learned import EVENTS, WindowSpec
from celltrack_jax.tracking.windows import Bucket, Graph

NO_EDGES = graph.Candidates(*np.zeros((2, 0), np.int64))


@pytest.fixture
def whole():
    """A graph of 9 frames, every node and edge with a number of its own."""
    rng = np.random.default_rng(0)
    frame = np.sort(rng.integers(3, 12, 60))
    source, target = (each.ravel() for each in np.meshgrid(np.arange(60), np.arange(60), indexing="ij"))
    near = (frame[target] > frame[source]) & (frame[target] <= frame[source] + 2) & (rng.random(3600) < 0.3)
    order = np.lexsort((source[near], target[near]))
    source, target = source[near][order], target[near][order]
    return Graph(
        frame,
        source,
        target,
        {"features": np.arange(60.0)[:, None]},
        {"features": np.arange(len(source)) + 0.5},
    )


def test_every_edge_and_node_gets_the_mean_over_its_windows(whole):
    calls = []

    def apply(batch):
        calls.append(batch["senders"].shape)
        # What window this is changes the answer.
        shift = float(batch["node/features"][0, 0, 0])
        nodes = batch["node/features"][..., 0]
        found = {name: nodes * (i + 1) + shift for i, name in enumerate(EVENTS)}
        return {"edge": batch["edge/features"] + shift, **found}

    spec = WindowSpec(5, 2, (Bucket(30, 60), Bucket(61, 400)))
    found = learned.costs(whole, spec, apply)
    assert {shape[1] for shape in calls} <= {60, 400}
    assert found is not None
    starts = [3, 5, 7]
    for node, frame in enumerate(whole.frame):
        shifts = [np.searchsorted(whole.frame, start) for start in starts if start <= frame < start + 5]
        assert found.divide[node] == pytest.approx(-(node + np.mean(shifts)))
        assert found.false[node] == pytest.approx(-(4 * node + np.mean(shifts)))
    for edge, (source, target) in enumerate(zip(whole.source, whole.target, strict=True)):
        shifts = [
            np.searchsorted(whole.frame, start)
            for start in starts
            if start <= whole.frame[source] and whole.frame[target] < start + 5
        ]
        assert found.edge[edge] == pytest.approx(-(edge + 0.5 + np.mean(shifts)))
    assert learned.costs(whole, spec, apply, lambda: True) is None


def test_answers_are_fetched_before_they_are_cut(whole):
    class OnDevice:
        def __init__(self, values):
            self.values = values

        def __array__(self, dtype=None, copy=None):
            return np.asarray(self.values, dtype)

    found = learned.costs(
        whole,
        WindowSpec(5, 2, (Bucket(64, 512),)),
        lambda batch: {"edge": OnDevice(batch["edge/features"].astype(np.float32))},
    )
    assert found is not None
    np.testing.assert_allclose(found.edge, -(np.arange(len(whole.source)) + 0.5))


def test_a_crowd_unlike_those_known_gets_a_larger_size_in_inference_and_an_error_in_training(whole):
    sizes = []

    def apply(batch):
        sizes.append((batch["node_mask"].shape[1], batch["senders"].shape[1]))
        edge, node = (np.zeros(batch[key].shape) for key in ("senders", "node_mask"))
        return {"edge": edge, **dict.fromkeys(EVENTS, node)}

    learned.costs(whole, WindowSpec(9, 1, (Bucket(8, 16),)), apply)
    ((nodes, edges),) = sizes
    assert (nodes / 8, edges / 16) == (nodes // 8, nodes // 8)
    assert nodes > 60
    assert edges >= len(whole.source)
    with pytest.raises(
        InputError, match=r"frames 3 to 11 hold 60 cells .* the largest bucket 8 and 16: add a larger"
    ):
        learned.fitting(whole.size, [Bucket(8, 16)], (3, 11))


def test_padding_leads_nowhere(whole):
    batch = learned.batch_arrays([whole, whole], Bucket(64, 512))
    nodes, edges = whole.size
    assert batch["senders"].shape == (2, 512)
    np.testing.assert_array_equal(batch["senders"][1, :edges], whole.source)
    assert (batch["senders"][:, edges:] == nodes).all()
    assert (batch["receivers"][:, edges:] == nodes).all()
    assert (batch["node_mask"].sum(1) == nodes).all()
    assert (batch["edge_mask"].sum(1) == edges).all()


def test_detections_are_in_no_window_where_there_are_none():
    empty = np.zeros(0, np.int64)
    nothing = Graph(empty, empty, empty, {"features": np.zeros((0, 1))}, {"features": np.zeros((0, 1))})
    found = learned.costs(nothing, WindowSpec(5, 2, (Bucket(8, 8),)), lambda batch: {})
    assert found is not None
    assert all(len(column) == 0 for column in found)


def test_a_network_of_links_alone_makes_events_free_and_no_detection_false(whole):
    found = learned.costs(
        whole, WindowSpec(5, 2, (Bucket(64, 512),)), lambda batch: {"edge": batch["edge/features"]}
    )
    assert found is not None
    np.testing.assert_allclose(found.edge, -(np.arange(len(whole.source)) + 0.5))
    for name in ("appear", "disappear", "divide"):
        np.testing.assert_array_equal(getattr(found, name), 0)
    assert np.isposinf(found.false).all()


@pytest.mark.parametrize("minmax", [False, True])
def test_a_window_is_scaled_by_itself_and_only_if_told(whole, minmax):
    part = WindowSpec(5, 2, (), minmax).cut(whole, (4, 8))
    inside = (whole.frame >= 4) & (whole.frame <= 8)
    expected = whole.nodes["features"][inside]
    if minmax:
        expected = (expected - expected.min()) / (expected.max() - expected.min())
    np.testing.assert_allclose(part.nodes["features"], expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "all"}, "graph.name 'all' is none of near, box"),
        ({"name": "box", "scale": 2.0}, "has scale beside its name; box takes scale, extent"),
        ({"name": "box", "scale": 2.0, "extent": [64, 64]}, "is not z, y, x: give three numbers of voxels"),
    ],
)
def test_other_ways_to_find_candidates_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        learned.candidates_of(**settings)


def test_other_sets_of_features_are_refused():
    with pytest.raises(
        InputError, match=r"features.nodes 'mine' is none of physical, points, ben_haim2022_2d"
    ):
        feature_sets.node_set("mine")
    with pytest.raises(InputError, match=r"features.edges 'mine' is none of physical, points, none"):
        feature_sets.edge_set("mine")


@pytest.mark.parametrize("name", feature_sets.NODES)
def test_sets_of_features_have_a_name_for_each_column(name):
    labels = np.zeros((4, 9, 9), np.int32)
    labels[1:3, 2:5, 3:8] = 1
    nodes = feature_sets.node_set(name)
    for planes in nodes.planes:
        frame = (0, labels if planes == 3 else labels[1], None)
        cells = measure_cells([frame], np.ones(3))
        assert nodes.make(cells, 3.0, NO_EDGES).shape == (1, len(nodes.columns))


def test_points_are_the_same_whatever_the_size_of_their_markers():
    def described(reach):
        frames = []
        for t in range(3):
            labels = np.zeros((40, 40), np.int32)
            for number, (y, x) in enumerate(((9, 9), (20 + t, 21), (30, 12 + t)), 1):
                labels[y - reach : y + reach + 1, x - reach : x + reach + 1] = number
            frames.append((t, labels, labels * 7.0))
        cells = measure_cells(frames, np.ones(3))
        edges = graph.candidates(cells.detections, radius_um=30.0, max_gap=1, max_neighbours=3)
        sets = feature_sets.node_set("points"), feature_sets.edge_set("points")
        return [one.make(cells, 8.0, edges) for one in sets], sets

    (small, sets), (large, _) = described(0), described(3)
    for one, other, features in zip(small, large, sets, strict=True):
        assert one.shape[1] == len(features.columns) > 0
        np.testing.assert_allclose(one, other, atol=1e-6)
        assert one.std(0).max() > 0
