"""GEFF: the reference package reads what we write."""

import geff as geff_package
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.io import geff
from celltrack_jax.lineage import Lineage
from tests import geff_graphs
from tests.ctc_folders import Movie, movies


def graph(movie: Movie, dropped: frozenset[int] = frozenset(), unknown: float = 1.0) -> geff.Graph:
    """Returns the graph of the cells in the frames that were not dropped; a share of its links has no probability."""
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
    # Each cell's own number, so that one in the wrong place shows.
    probability = (10 * frame + label).astype(np.float32) / 20_000
    probability[np.random.default_rng(0).random(len(t)) < unknown] = np.nan
    return geff.graph(t, frame, label, position, Lineage.from_rows(movie.rows), probability)


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
@given(movies(max_label=99), st.booleans(), st.sampled_from([0.0, 0.5, 1.0]))
def test_written_graphs_are_read_back_and_valid(tmp_path_factory, movie, spacing_known, unknown):
    path = tmp_path_factory.mktemp("geff") / "a.geff"
    tracks = graph(movie, unknown=unknown)
    geff.write(path, tracks, spacing_known=spacing_known, image="../a", labels="../a/labels/markers")
    if tracks.probability is not None:
        later = tracks.edges[:, 1]
        told = (10 * tracks.frame[later] + tracks.label[later]) / 20_000
        known = ~np.isnan(tracks.probability)
        np.testing.assert_allclose(tracks.probability[known], told[known], rtol=1e-6)
    read = geff_graphs.read(path)
    for ours, theirs in zip(read[:-1], tracks[:-1], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    nothing = np.full(len(tracks.edges), np.nan)
    ours, theirs = (nothing if one.probability is None else one.probability for one in (read, tracks))
    np.testing.assert_array_equal(ours, theirs)
    found, metadata = geff_package.read(str(path), structure_validation=True)
    assert sorted(found.edges) == sorted(map(tuple, tracks.edges.tolist()))
    assert [found.nodes[node]["label"] for node in sorted(found.nodes)] == tracks.label.tolist()
    assert metadata.axes is not None
    assert [axis.name for axis in metadata.axes] == ["t", "z", "y", "x"]
    assert metadata.axes[3].unit == ("micrometer" if spacing_known else "pixel")


def test_markers_without_a_track_file_have_no_links():
    tracks = geff.graph(np.arange(3), np.arange(3), np.ones(3, int), np.zeros((3, 3)), None)
    assert tracks.edges.shape == (0, 2)


def test_a_link_that_does_not_go_forward_is_an_error_not_left_out():
    lives_on = Lineage.from_rows([[1, 0, 1, 0], [2, 1, 1, 1]])
    with pytest.raises(ValueError, match="track 1 in frame 1 cannot be linked to track 2 in frame 1"):
        geff.graph(np.array([0, 1, 1]), np.array([0, 1, 1]), np.array([1, 1, 2]), np.zeros((3, 3)), lives_on)
