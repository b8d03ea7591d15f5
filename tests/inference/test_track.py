"""Masks become a valid CTC result and a GEFF that say the same."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.errors import InputError
from celltrack_jax.inference import exports, track
from celltrack_jax.inference.exports import GEFF_NAME
from celltrack_jax.inference.track import Drawing, Masks, track_movie
from celltrack_jax.io import ctc
from celltrack_jax.tracking import links
from tests import geff_graphs
from tests.ctc_folders import movies
from tests.ctc_validators import validate_result

DRAWING = Drawing(fill_gaps=True, min_length=1)
hungarian = track.by_assignment(functools.partial(links.hungarian, **links.HUNGARIAN))


def run(masks: dict[int, np.ndarray], folder, drawing=DRAWING, digits=3):
    """Tracks masks by the Hungarian linker and returns the lineage."""
    opened = Masks(list(masks), masks.__getitem__, np.array([2.0, 1.0, 1.0]), True, digits)
    return track_movie(opened, hungarian, drawing, folder, None, lambda what, frames: frames)


def written(folder) -> dict[int, np.ndarray]:
    """Reads the masks of a result."""
    return {frame: ctc.read_image(path) for frame, path in ctc.read_result(folder)[0].items()}


@settings(max_examples=25, deadline=None)
@given(movies(), st.booleans())
def test_the_result_is_valid_and_the_graph_says_the_same(tmp_path_factory, movie, fill_gaps):
    folder = tmp_path_factory.mktemp("movie") / "01_RES"
    lineage = run(movie.masks, folder, Drawing(fill_gaps, 1))
    shape = next(iter(movie.masks.values())).shape
    problems = validate_result(folder, movie.masks, shape)
    assert [problem for problem in problems if "no tracks" not in str(problem)] == []
    np.testing.assert_array_equal(ctc.read_tracks(folder / "res_track.txt").rows(), lineage.rows())
    if not fill_gaps:
        for frame, mask in written(folder).items():
            np.testing.assert_array_equal(mask > 0, movie.masks[frame] > 0)

    graph = geff_graphs.read(folder / GEFF_NAME)
    cells = {(frame, label) for frame, mask in written(folder).items() for label in np.unique(mask[mask > 0])}
    assert set(zip(graph.frame.tolist(), graph.label.tolist(), strict=True)) == cells
    inner = (lineage.end - lineage.begin).sum()
    assert len(graph.edges) == inner + np.count_nonzero(lineage.parent)


def test_positions_in_the_graph_are_physical(tmp_path):
    mask = np.zeros((3, 4, 5), np.uint8)
    mask[2, 1, 3] = 1
    run({7: mask}, tmp_path / "01_RES")
    graph = geff_graphs.read(tmp_path / "01_RES" / GEFF_NAME)
    assert (graph.t.tolist(), graph.frame.tolist()) == ([0], [7])
    np.testing.assert_allclose(graph.position, [[4.0, 1.0, 3.0]])


def test_a_result_is_replaced_and_keeps_its_digits(tmp_path):
    mask = np.eye(4, dtype=np.uint16)
    run({0: mask, 1: mask, 2: mask}, tmp_path / "01_RES")
    run({1: mask, 2: mask}, tmp_path / "01_RES", digits=4)
    names = sorted(path.name for path in (tmp_path / "01_RES").iterdir())
    others = ["napari_graph.json", "napari_tracks.csv", "res_track.txt", "tracks.csv", GEFF_NAME]
    assert names == ["mask0001.tif", "mask0002.tif", *others]
    assert geff_graphs.read(tmp_path / "01_RES" / GEFF_NAME).frame.min() == 1


def test_a_mask_that_cannot_be_read_leaves_no_result(tmp_path):
    def read(frame: int) -> np.ndarray:
        if frame == 1:
            raise InputError("frame 1 is broken")
        return np.ones((2, 2), np.uint8)

    masks = Masks([0, 1, 2], read, np.ones(3), False, 3)
    with pytest.raises(InputError, match="frame 1 is broken"):
        track_movie(masks, hungarian, DRAWING, tmp_path / "01_RES", None, lambda what, frames: frames)
    assert list(tmp_path.iterdir()) == []


def test_more_tracks_than_a_mask_can_number_are_refused(tmp_path):
    # Every pixel is a cell, and none of them lasts.
    masks = {frame: np.arange(1, 40_001).reshape(200, 200) for frame in (0, 5)}
    with pytest.raises(InputError, match="65535"):
        run(masks, tmp_path / "01_RES")
    assert not (tmp_path / "01_RES").exists()


@pytest.mark.parametrize("dtype", [np.uint32, np.int64])
def test_ids_may_be_of_any_size(tmp_path, dtype):
    # The first cell is missed in frame 1.
    small = {frame: np.array([[1, 1, 0, 2, 2]], dtype) for frame in range(3)}
    small[1] = np.array([[0, 0, 0, 2, 2]], dtype)
    ids = np.array([0, 2**32 - 1, 2**31 + 3]).astype(dtype)
    run(small, tmp_path / "01_RES")
    run({frame: ids[mask] for frame, mask in small.items()}, tmp_path / "02_RES")
    first, second = written(tmp_path / "01_RES"), written(tmp_path / "02_RES")
    for frame, mask in first.items():
        assert (mask > 0).tolist() == [[True, True, False, True, True]]
        np.testing.assert_array_equal(mask > 0, second[frame] > 0)
        assert len(np.unique(second[frame])) == 3
    assert len(ctc.read_tracks(tmp_path / "02_RES" / "res_track.txt").label) == 2


def test_a_disk_that_is_full_when_the_graph_is_written_is_explained(tmp_path, monkeypatch):
    def full(path, *_, **__):
        path.mkdir()
        # As tensorstore and zarr report it.
        raise ValueError("RESOURCE_EXHAUSTED: Failed to write: [OS error 28: No space left on device]")

    monkeypatch.setattr(exports.geff, "write", full)
    with pytest.raises(
        InputError, match=r"cannot write .*tracks.geff: No space left .* run the same command"
    ):
        run({0: np.ones((2, 2), np.uint8)}, tmp_path / "01_RES")
    assert not (tmp_path / "01_RES" / (GEFF_NAME + ".partial")).exists()


def test_a_result_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write .*file"):
        run({0: np.ones((2, 2), np.uint8)}, tmp_path / "file" / "01_RES")
