"""GEFF: the reference package reads what we write, and we read what it writes."""

import geff as geff_package
import networkx
import numpy as np
import pytest
from geff import GeffMetadata
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.errors import InputError
from celltrack_jax.io import geff
from celltrack_jax.lineage import Lineage
from tests.ctc_folders import Movie, movies


def graph(movie: Movie, dropped: frozenset[int] = frozenset()) -> geff.Graph:
    """Returns the graph of the cells in the frames that were not dropped."""
    frames = [frame for frame in movie.masks if frame not in dropped]
    rows = [
        (t, frame, label, *np.argwhere(movie.masks[frame] == label).mean(axis=0)[-2:])
        for t, frame in enumerate(frames)
        for label in np.unique(movie.masks[frame])
        if label
    ]
    table = np.array(rows, np.float64).reshape(-1, 5)
    position = np.column_stack([np.zeros(len(table)), table[:, 3:]])
    t, frame, label = table[:, :3].astype(np.int64).T
    return geff.graph(t, frame, label, position, Lineage.from_rows(movie.rows))


@settings(deadline=None)
@given(movies(max_label=99), st.data())
def test_links_are_those_of_the_track_file_over_frames_that_are_there(movie, data):
    frames = sorted(movie.masks)
    dropped = data.draw(st.sets(st.sampled_from(frames), max_size=len(frames)))
    tracks = graph(movie, frozenset(dropped))
    expected = set()
    for label, begin, end, parent in movie.rows:
        expected |= {((f, label), (f + 1, label)) for f in range(begin, end)}
        if parent:
            (parent_end,) = (row[2] for row in movie.rows if row[0] == parent)
            expected.add(((parent_end, parent), (begin, label)))
    expected = {
        (a, b)
        for a, b in expected
        if not dropped & set(range(a[0], b[0] + 1)) and {a[0], b[0]} <= set(frames)
    }
    names = list(zip(tracks.frame.tolist(), tracks.label.tolist(), strict=True))
    assert {(names[a], names[b]) for a, b in tracks.edges.tolist()} == expected
    assert names == sorted(names)


@settings(max_examples=10, deadline=None)
@given(movies(max_label=99), st.booleans())
def test_written_graphs_are_read_back_and_valid(tmp_path_factory, movie, spacing_known):
    path = tmp_path_factory.mktemp("geff") / "a.geff"
    tracks = graph(movie)
    geff.write(path, tracks, spacing_known=spacing_known, image="../a", labels="../a/labels/markers")
    for ours, theirs in zip(geff.read(path), tracks, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    found, metadata = geff_package.read(str(path), structure_validation=True)
    assert sorted(found.edges) == sorted(map(tuple, tracks.edges.tolist()))
    assert [found.nodes[node]["label"] for node in sorted(found.nodes)] == tracks.label.tolist()
    assert metadata.axes is not None
    assert [axis.name for axis in metadata.axes] == ["t", "z", "y", "x"]
    assert metadata.axes[3].unit == ("micrometer" if spacing_known else "pixel")


def test_a_graph_of_another_program_is_read(tmp_path):
    graph = networkx.DiGraph()
    for node, t, label in ((40, 1, 5), (7, 0, 5), (9, 1, 2)):
        graph.add_node(node, t=t, z=0.0, y=float(node), x=1.5, label=label)
    graph.add_edges_from([(7, 40), (7, 9)])
    metadata = GeffMetadata(directed=True, node_props_metadata={}, edge_props_metadata={})
    geff_package.write(graph, str(tmp_path / "a"), metadata)
    found = geff.read(tmp_path / "a")
    assert found.t.tolist() == [0, 1, 1]
    assert found.frame.tolist() == [0, 1, 1]
    assert found.label.tolist() == [5, 2, 5]
    assert found.position[:, 1].tolist() == [7, 9, 40]
    assert found.edges.tolist() == [[0, 1], [0, 2]]


def test_markers_without_a_track_file_have_no_links():
    tracks = geff.graph(np.arange(3), np.arange(3), np.ones(3, int), np.zeros((3, 3)), None)
    assert tracks.edges.shape == (0, 2)


def test_what_is_no_track_graph_is_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        geff.read(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="cannot read"):
        geff.read(tmp_path / "empty")
    graph = networkx.DiGraph()
    graph.add_node(0, t=0, y=1.0, x=1.0)
    geff_package.write(
        graph,
        str(tmp_path / "b"),
        GeffMetadata(directed=True, node_props_metadata={}, edge_props_metadata={}),
    )
    with pytest.raises(InputError, match="no node property 'label'"):
        geff.read(tmp_path / "b")
