"""Points in the store: those that are given, of markers, or of outlined cells; none where cells may be missing."""

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from celltrack_jax import tasks
from celltrack_jax.data import annotation, prepare, sources, store
from celltrack_jax.errors import InputError
from celltrack_jax.io import ctc
from celltrack_jax.lineage import Lineage
from configs.ctc import segment
from tests import geff_graphs
from tests.data import datasets

SHAPE = (24, 30)
# By frame: rows of label, y, x, height, width. Cell 2 pauses in frame 3, frame 4 is empty, cell 5 is seen once.
CELLS = {
    1: [[1, 3, 4, 5, 6], [2, 10.5, 20, 8, 7]],
    2: [[1, 4, 4, 5, 6], [2, 11, 20, 8, 7], [5, 20, 2, 1, 1]],
    3: [[1, 5, 4, 5, 6]],
    4: [],
    5: [[2, 12, 21, 8, 7]],
}
LINEAGE = Lineage.from_rows([[1, 1, 3, 0], [2, 1, 5, 0], [5, 2, 2, 0]])


def write(folder: Path, found: list[sources.Source], spacing=None) -> list[store.StoredSequence]:
    prepare.prepare(
        folder,
        found,
        layout="ctc",
        origin="set",
        spacing_um=spacing,
        advance=lambda name, frames: None,
    )
    return store.open_store(folder)


def pointed(tmp_path, without: int | None = None) -> sources.Source:
    """Returns a movie whose cells are points alone; of frame `without` nothing is known."""
    images = {frame: datasets.image(SHAPE, frame) for frame in CELLS}
    datasets.write_ctc(tmp_path / "set", images=images)

    def read(frame: int) -> sources.Frame:
        label, y, x, height, width = np.array(CELLS[frame], np.float64).reshape(-1, 5).T
        flat = np.zeros(len(label))
        points = annotation.Points(
            label.astype(np.int64),
            np.stack([flat, y, x], axis=1),
            np.stack([flat + 1, height, width], axis=1),
        )
        return sources.Frame(
            images[frame].reshape(1, 1, *SHAPE), {}, None, None if frame == without else points
        )

    return sources.Source(
        name="01",
        files={frame: (tmp_path / "set" / "01" / f"t{frame:03d}.tif",) for frame in CELLS},
        tracks_file=None,
        lineage=LINEAGE,
        kinds=(),
        complete=False,
        read=read,
    )


def test_points_come_back_as_they_were_given(tmp_path):
    (movie,) = write(tmp_path / "store", [pointed(tmp_path)])
    rows = [
        [t, 0, y, x, label, 1, height, width]
        for t, frame in enumerate(CELLS)
        for label, y, x, height, width in CELLS[frame]
    ]
    assert movie.points.dtype == np.float64
    assert movie.points.tolist() == rows
    assert movie.pointed.tolist() == [True] * 5
    assert movie.annotation == movie.annotation_silver == ["points"] * 5
    assert movie.foreground.shape == (0, 7)
    assert movie.labels == {}
    assert movie.lineage is not None
    np.testing.assert_array_equal(movie.lineage.rows(), LINEAGE.rows())


def test_frames_of_which_nothing_is_known_are_told_from_frames_without_cells(tmp_path):
    (movie,) = write(tmp_path / "store", [pointed(tmp_path, without=2)])
    assert movie.annotation == ["points", "none", "points", "points", "points"]
    assert movie.pointed.tolist() == [True, False, True, True, True]
    assert set(movie.points[:, 0]) == {0, 2, 4}


def test_tracks_of_points_are_linked_over_a_pause(tmp_path):
    write(tmp_path / "store", [pointed(tmp_path)], spacing=(1.0, 0.5, 0.25))
    tracks = geff_graphs.read(tmp_path / "store" / "01.geff")
    assert tracks.frame.tolist() == [1, 1, 2, 2, 2, 3, 5]
    assert tracks.position[1].tolist() == [0, 5.25, 5]
    links = {(int(tracks.label[a]), int(tracks.frame[a]), int(tracks.frame[b])) for a, b in tracks.edges}
    assert links == {(1, 1, 2), (1, 2, 3), (2, 1, 2), (2, 2, 5)}


def test_markers_and_outlined_cells_are_points(tmp_path):
    """Frames: markers, whole outlines without markers, neither."""
    masks, _ = datasets.moving_cells(range(3))
    dataset = datasets.write_ctc(
        tmp_path / "set",
        images={frame: datasets.image(datasets.SHAPE, frame) for frame in range(3)},
        markers={0: masks[0]},
        segmentation={1: masks[1]},
        rows=[[1, 0, 2, 0], [2, 0, 0, 0], [3, 1, 2, 2], [4, 1, 2, 2]],
    )
    (source,) = sources.open_sources(dataset, "ctc", None, allow_gaps=True)
    (sparse,) = write(tmp_path / "sparse", [source])
    assert sparse.pointed.tolist() == [True, False, False]
    (whole,) = write(tmp_path / "whole", [source._replace(complete=True)])
    assert whole.annotation == ["markers", "full", "none"]
    assert whole.pointed.tolist() == [True, True, False]
    expected = [
        [t, *ndimage.center_of_mass(mask == label), label, *box(mask == label)]
        for t, mask in enumerate([masks[0][None], masks[1][None]])
        for label in np.unique(mask[mask > 0]).tolist()
    ]
    np.testing.assert_allclose(whole.points, expected)
    np.testing.assert_array_equal(sparse.points, whole.points[whole.points[:, 0] == 0])


def box(mask: np.ndarray) -> list[int]:
    """Returns the size of the bounding box of a mask."""
    return [len(np.unique(indices)) for indices in np.nonzero(mask)]


def test_outlines_are_not_learned_from_points_alone(tmp_path):
    write(tmp_path / "store", [pointed(tmp_path, without=2)])
    config = segment.get_config("tiny")
    config.data.store = str(tmp_path / "store")
    with pytest.raises(InputError, match=r'points alone, which do not teach outlines: .*the task "detect"'):
        tasks.build(config).train_data((0, 1))


def test_outlines_are_learned_from_the_other_movies(tmp_path):
    source = pointed(tmp_path)
    datasets.write_movie(tmp_path / "set", "02")
    (outlined,) = sources.open_sources(tmp_path / "set", "ctc", ["02"])
    write(tmp_path / "store", [source, outlined])
    config = segment.get_config("tiny")
    config.data.store = str(tmp_path / "store")
    task = tasks.build(config)
    batch = task.train_data((0, 1))[0]
    assert batch["labels"].max() > 0
    assert task._split(task._sequences[0]) == ([], [])


def test_real_markers_are_points(real_data, tmp_path):
    dataset = real_data("Fluo-N2DL-HeLa_partial")
    (movie,) = write(tmp_path / "store", sources.open_sources(dataset, "ctc", None, allow_gaps=True))
    files = ctc.open_sequence(dataset, "01")
    assert movie.pointed.tolist() == [number in files.markers for number in movie.frames.tolist()]
    for t in np.flatnonzero(movie.pointed)[[0, -1]].tolist():
        mask = ctc.read_image(files.markers[int(movie.frames[t])])
        labels = np.unique(mask[mask > 0])
        here = movie.points[movie.points[:, 0] == t]
        np.testing.assert_array_equal(here[:, 4], labels)
        np.testing.assert_allclose(here[:, 2:4], ndimage.center_of_mass(mask > 0, mask, labels))
        assert not here[:, 1].any()
        assert (here[:, 5] == 1).all()
