"""The table, napari's files and the candidates say what masks, track file and linker say."""

import csv
import errno
import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.errors import InputError
from celltrack_jax.inference import exports
from celltrack_jax.inference.exports import Frames
from celltrack_jax.io import link_scores, napari_tracks, track_table
from celltrack_jax.lineage import Detections
from celltrack_jax.tracking.features import detections_from_masks
from celltrack_jax.tracking.scored_links import Links, Scored
from tests import geff_graphs
from tests.tracking.test_tracks import SPACING, linked_movies, paint


def scored(rng: np.random.Generator, frame: np.ndarray, parent: np.ndarray) -> Scored:
    """All pairs that go forward in time, about half of them, and those that are linked."""
    source, target = np.nonzero(frame[:, None] < frame[None])
    some = (rng.random(len(source)) < 0.5) | (parent[target] == source)
    probability = rng.choice([0.01, 0.3, 0.6, 0.99], some.sum()).astype(np.float32)
    return Scored(source[some], target[some], probability)


def decided(movie, seed: int, **settings):
    """Paints a movie; returns the painted masks, the painter, scored links and made-up intensities."""
    masks, found, parent = movie
    painted, painter = paint(masks, found, parent, **settings)
    rng = np.random.default_rng(seed)
    links = Links(parent, np.ones(len(parent), bool), scored(rng, found.frame, parent))
    return painted, painter, links, rng.random(len(parent)).astype(np.float32)


def write(folder, movie, seed: int, **settings):
    """Paints and writes a movie; returns the painted masks, the tracks, the links and the intensities."""
    painted, painter, links, light = decided(movie, seed, **settings)
    exports.write(folder, painter, links, light, Frames(list(movie[0]), SPACING, True, 2), None)
    return painted, painter.lineage(), links, light


def rows_of(path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def ancestors(lineage, track: int) -> list[int]:
    """The track, its mother, hers, and so on."""
    mothers = dict(zip(lineage.label.tolist(), lineage.parent.tolist(), strict=True))
    line = [track]
    while mothers[line[-1]]:
        line.append(mothers[line[-1]])
    return line


@settings(max_examples=12, deadline=None)  # writing a GEFF takes its time
@given(linked_movies(), st.integers(0, 99), st.booleans(), st.integers(1, 2))
def test_the_table_has_a_row_for_each_cell_of_the_masks(tmp_path_factory, movie, seed, fill_gaps, min_length):
    folder = tmp_path_factory.mktemp("result")
    options = {"fill_gaps": fill_gaps, "min_length": min_length}
    painted, lineage, links, light = write(folder, movie, seed, **options)
    masks, found, _ = movie
    rows = rows_of(folder / "tracks.csv")
    cells = {(frame, int(label)) for frame, mask in painted.items() for label in np.unique(mask[mask > 0])}
    assert [(int(row["frame"]), int(row["track_id"])) for row in rows] == sorted(cells)
    graph = geff_graphs.read(folder / "tracks.geff")
    before = {later: edge for edge, (_, later) in enumerate(graph.edges.tolist())}
    for node, row in enumerate(rows):
        frame, track = int(row["frame"]), int(row["track_id"])
        line = ancestors(lineage, track)
        assert int(row["parent_track_id"]) == ([*line, 0])[1]
        assert (int(row["root_track_id"]), int(row["generation"])) == (line[-1], len(line) - 1)
        inside = np.argwhere(painted[frame] == track)
        assert float(row["area_or_volume_um"]) == pytest.approx(0.25 * len(inside))
        here = [float(row[f"{axis}_voxel"]) for axis in "yx"]
        assert [float(row[f"{axis}_um"]) for axis in "yx"] == pytest.approx([0.5 * x for x in here])
        if row["filled"] == "1":
            assert min_length > 1 or not masks[frame][tuple(inside.T)].any()
            assert row["mean_intensity"] == ""
        else:
            assert here == pytest.approx(inside.mean(axis=0))
            (cell,) = np.flatnonzero((found.frame == frame) & (found.label == masks[frame][tuple(inside[0])]))
            assert float(row["mean_intensity"]) == pytest.approx(light[cell])
            if node not in before and line[1:] == []:
                assert row["link_probability"] == ""
            else:
                of = (links.scored.target == cell) & (links.scored.source == links.parent[cell])
                assert float(row["link_probability"]) == pytest.approx(links.scored.probability[of][0])
        if node in before and graph.probability is not None:
            assert float(row["link_probability"]) == pytest.approx(graph.probability[before[node]])


@settings(max_examples=25, deadline=None)
@given(linked_movies(), st.integers(0, 99))
def test_candidates_are_those_between_cells_of_the_result(tmp_path_factory, movie, seed):
    painted, painter, links, _ = decided(movie, seed)
    lineage = painter.lineage()
    masks, found, _ = movie
    voxels = [np.argwhere(masks[f] == name) for f, name in zip(found.frame, found.label, strict=True)]
    track = [int(painted[f][tuple(v[0])]) for f, v in zip(found.frame, voxels, strict=True)]
    expected = {}
    for source, target, probability in zip(*links.scored, strict=True):
        chosen = links.parent[target] == source and track[source] in ancestors(lineage, track[target])[:2]
        if chosen or probability >= link_scores.LEAST:
            key = (found.frame[target], track[target], found.frame[source], track[source])
            places = voxels[target].mean(axis=0), voxels[source].mean(axis=0)
            expected[key] = (probability, chosen, places)
    path = tmp_path_factory.mktemp("result") / "links.npz"
    made = exports.candidate_scores(painter, links, SPACING)
    assert made is not None
    link_scores.write(path, made, "")
    scores = link_scores.read(path)
    keys = list(zip(*(column.tolist() for column in scores[:4]), strict=True))
    assert keys == sorted(expected)
    for row, key in enumerate(keys):
        probability, chosen, places = expected[key]
        assert (scores.probability[row], scores.chosen[row]) == (probability, chosen)
        np.testing.assert_allclose(
            [scores.position[row, 1:], scores.source_position[row, 1:]], places, rtol=1e-6
        )


@settings(max_examples=25, deadline=None)
@given(linked_movies())
def test_napari_finds_every_track_and_its_mother(tmp_path_factory, movie):
    folder = tmp_path_factory.mktemp("result")
    painted, painter, _, _ = decided(movie, 0)
    frames, cells, lineage = sorted(painted), painter.cells(), painter.lineage()
    t = np.array([frames.index(frame) for frame in cells.frame.tolist()], np.int64)
    napari_tracks.write(folder, cells, t, lineage, SPACING, 2, "")
    if not len(lineage.label):
        return  # loadtxt warns
    tracks = np.loadtxt(folder / "napari_tracks.csv", delimiter=",", skiprows=1, ndmin=2)
    text = (folder / "napari_graph.json").read_text()
    graph = {int(track): mothers for track, mothers in json.loads(text).items()}
    places = (cells.position_um / SPACING)[:, 1:].tolist()
    expected = sorted(zip(cells.label.tolist(), t.tolist(), places, strict=True))
    np.testing.assert_allclose(tracks, [[label, time, *place] for label, time, place in expected])
    assert graph == {label: [parent] for label, _, _, parent in lineage.rows().tolist() if parent}
    # As the layer demands: the graph names tracks that are there.
    assert set(graph) | {one for each in graph.values() for one in each} <= set(tracks[:, 0])


def test_headers_are_as_documented_whatever_the_movie(tmp_path):
    empty = {frame: np.zeros((6, 8), np.uint16) for frame in range(2)}
    found = paint(empty, *nothing())[1]
    links = Links(np.zeros(0, np.int64), np.zeros(0, bool))
    exports.write(tmp_path, found, links, np.zeros(0, np.float32), Frames([0, 1], SPACING, True, 3), None)
    assert (tmp_path / "tracks.csv").read_text() == ",".join(track_table.COLUMNS) + "\n"
    assert (tmp_path / "napari_tracks.csv").read_text() == "track_id,t,z,y,x\n"
    assert (tmp_path / "napari_graph.json").read_text() == "{}\n"
    documented = (track_table.__doc__ or "").replace("\n", " ").split()
    assert set(track_table.COLUMNS) <= set(documented)
    assert "numpy.loadtxt" in (napari_tracks.__doc__ or "")


def nothing() -> tuple[Detections, np.ndarray]:
    """Detections and parents of a movie without cells."""
    whole, real = np.zeros(0, np.int64), np.zeros(0)
    return Detections(whole, whole, np.zeros((0, 3)), real), whole


def test_scores_of_a_linker_before_do_not_stay(tmp_path):
    painter = paint({0: np.zeros((6, 8), np.uint16)}, *nothing())[1]
    links = Links(np.zeros(0, np.int64), np.zeros(0, bool))
    (tmp_path / "links.npz").write_bytes(b"old")
    with pytest.raises(InputError, match=r"cannot read .*links.npz: .* track the movie again"):
        link_scores.read(tmp_path / "links.npz")
    exports.write(tmp_path, painter, links, np.zeros(0, np.float32), Frames([0], SPACING, True, 2), None)
    assert not (tmp_path / "links.npz").exists()


def test_a_full_disk_leaves_the_table_that_was_there(tmp_path, monkeypatch):
    masks = {frame: np.eye(6, 8, dtype=np.uint16) for frame in range(2)}
    (tmp_path / "tracks.csv").write_text("old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(track_table, "_texts", full)
    found = detections_from_masks(masks.items(), SPACING)
    with pytest.raises(InputError, match=r"cannot write .*tracks.csv: No space left .* run the same command"):
        write(tmp_path, (masks, found, np.array([-1, 0])), 0)
    assert (tmp_path / "tracks.csv").read_text() == "old"
    assert not (tmp_path / "tracks.csv.partial").exists()
