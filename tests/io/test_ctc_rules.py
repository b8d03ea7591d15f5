"""The rules: valid folders have no problem, and each defect is reported where it is, beside all others."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tifffile
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from celltrack_jax.errors import InputError
from celltrack_jax.io.ctc_masks import present_labels
from celltrack_jax.io.ctc_rules import Problem
from tests.ctc_folders import Movie, movies, write_masks, write_result, write_rows, write_truth
from tests.ctc_validators import validate_result, validate_truth

OPTIONS = {"deadline": None, "max_examples": 30}
FEW = {"deadline": None, "max_examples": 12}
Places = set[tuple[str, int | None, int | None]]


def places(problems: list[Problem]) -> Places:
    return {(Path(problem.file).name, problem.frame, problem.label) for problem in problems}


@settings(**OPTIONS)
@given(movies(), st.sampled_from([3, 4, 6]), st.sampled_from([None, "zlib", "lzw"]))
def test_a_valid_folder_has_no_problems(tmp_path_factory, movie, digits, compression):
    folder = tmp_path_factory.mktemp("valid")
    write_truth(folder / "01_GT", movie, digits=digits, compression=compression)
    write_result(folder / "01_RES", movie, digits, compression=compression)
    shape = next(iter(movie.masks.values())).shape
    assert validate_truth(folder / "01_GT") == []
    assert validate_result(folder / "01_RES") == []
    assert validate_result(folder / "01_RES", movie.masks, shape) == []


class Folder(NamedTuple):
    """A result folder and what is in it."""

    path: Path
    movie: Movie

    def mask(self, frame: int) -> Path:
        return self.path / f"mask{frame:03d}.tif"

    def write(self, frame: int, mask: np.ndarray) -> None:
        tifffile.imwrite(self.mask(frame), mask, photometric="minisblack", metadata=None)

    def write_rows(self, rows) -> None:
        write_rows(self.path / "res_track.txt", rows)


def any_frame(folder: Folder, data) -> int:
    return data.draw(st.sampled_from(sorted(folder.movie.masks)), "frame")


def any_row(folder: Folder, data) -> int:
    assume(folder.movie.rows)
    return data.draw(st.integers(0, len(folder.movie.rows) - 1), "row")


def truncated(folder: Folder, data) -> Places:
    frame = any_frame(folder, data)
    whole = folder.mask(frame).read_bytes()
    folder.mask(frame).write_bytes(whole[: data.draw(st.integers(0, len(whole) // 2))])
    return {(folder.mask(frame).name, frame, None)}


def missing_frame(folder: Folder, data) -> Places:
    frame = any_frame(folder, data)
    folder.mask(frame).unlink()
    return {(folder.mask(frame).name, frame, None)}


def extra_frame(folder: Folder, _) -> Places:
    frame = max(folder.movie.masks) + 1
    folder.write(frame, np.zeros_like(folder.movie.masks[frame - 1]))
    return {(folder.mask(frame).name, frame, None)}


def frame_twice(folder: Folder, data) -> Places:
    frame = any_frame(folder, data)
    other = folder.path / f"mask{frame:06d}.tif"
    shutil.copy(folder.mask(frame), other)
    return {(max(other.name, folder.mask(frame).name), frame, None)}


def other_shape(folder: Folder, data) -> Places:
    frame = any_frame(folder, data)
    mask = folder.movie.masks[frame]
    folder.write(frame, np.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, 1)]))
    return {(folder.mask(frame).name, frame, None)}


def other_dtype(folder: Folder, data) -> Places:
    assume(len(folder.movie.masks) > 2)
    frame = any_frame(folder, data)
    folder.write(frame, folder.movie.masks[frame].astype(np.uint32))
    return {(folder.mask(frame).name, frame, None)}


def float_mask(folder: Folder, data) -> Places:
    frame = any_frame(folder, data)
    folder.write(frame, folder.movie.masks[frame].astype(np.float32))
    return {(folder.mask(frame).name, frame, None)}


def negative_label(folder: Folder, data) -> Places:
    frame = any_frame(folder, data)
    mask = folder.movie.masks[frame].astype(np.int32)
    mask.flat[0], mask.flat[3] = -7, -2
    folder.write(frame, mask)
    return {(folder.mask(frame).name, frame, -7), (folder.mask(frame).name, frame, -2)}


def lost_label(folder: Folder, data) -> Places:
    label, begin, end, _ = folder.movie.rows[any_row(folder, data)]
    frame = data.draw(st.integers(begin, end), "frame")
    mask = folder.movie.masks[frame]
    folder.write(frame, np.where(mask == label, 0, mask).astype(mask.dtype))
    return {(folder.mask(frame).name, frame, label)}


def unknown_label(folder: Folder, data) -> Places:
    frame = any_frame(folder, data)
    mask = folder.movie.masks[frame].copy()
    mask.flat[np.flatnonzero(mask == 0)[-1]] = 60001
    folder.write(frame, mask)
    return {(folder.mask(frame).name, frame, 60001)}


def label_outside_its_life(folder: Folder, data) -> Places:
    label, begin, end, _ = folder.movie.rows[any_row(folder, data)]
    frame = any_frame(folder, data)
    assume(not begin <= frame <= end)
    mask = folder.movie.masks[frame].copy()
    mask.flat[np.flatnonzero(mask == 0)[0]] = label
    folder.write(frame, mask)
    return {(folder.mask(frame).name, frame, label)}


def lost_track(folder: Folder, data) -> Places:
    row = any_row(folder, data)
    label, begin, end, _ = folder.movie.rows[row]
    folder.write_rows(folder.movie.rows[:row] + folder.movie.rows[row + 1 :])
    orphans: Places = {("res_track.txt", None, child[0]) for child in folder.movie.rows if child[3] == label}
    return orphans | {(folder.mask(frame).name, frame, label) for frame in range(begin, end + 1)}


def empty_track_file(folder: Folder, _) -> Places:
    folder.write_rows([])
    return {
        (folder.mask(frame).name, frame, label)
        for label, begin, end, _ in folder.movie.rows
        for frame in range(begin, end + 1)
    }


def unknown_track(folder: Folder, data) -> Places:
    frames = sorted(folder.movie.masks)
    begin = any_frame(folder, data)
    folder.write_rows([*folder.movie.rows, [60001, begin, frames[-1], 0]])
    return {(folder.mask(frame).name, frame, 60001) for frame in frames if frame >= begin}


def track_outside_the_masks(folder: Folder, data) -> Places:
    row = any_row(folder, data)
    last = max(folder.movie.masks)
    assume(folder.movie.rows[row][2] == last)
    folder.write_rows(changed(folder, row, 2, last + 10**9))
    return {("res_track.txt", last + 10**9, folder.movie.rows[row][0])}


def changed(folder: Folder, row: int, column: int, value) -> list[list]:
    rows = [list(known) for known in folder.movie.rows]
    rows[row][column] = value
    return rows


def at_row(change: Callable[[Folder, int, list[int]], list[list]]) -> Callable:
    """A defect that changes one row of the track file and is reported there, once."""

    def defect(folder: Folder, data) -> Places:
        row = any_row(folder, data)
        folder.write_rows(change(folder, row, folder.movie.rows[row]))
        return {("res_track.txt", None, folder.movie.rows[row][0])}

    return defect


def parent_lives_on(folder: Folder, row: int, values: list[int]) -> list[list]:
    parents = [other[0] for other in folder.movie.rows if other[2] >= values[1] and other[0] != values[0]]
    assume(parents)
    return changed(folder, row, 3, parents[0])


def ends_before_it_begins(folder: Folder, row: int, values: list[int]) -> list[list]:
    rows = changed(folder, row, 2, values[1] - 1)
    assume(not any(other[3] == values[0] for other in rows))
    return rows


DEFECTS = {
    "truncated": truncated,
    "missing_frame": missing_frame,
    "extra_frame": extra_frame,
    "frame_twice": frame_twice,
    "other_shape": other_shape,
    "other_dtype": other_dtype,
    "float_mask": float_mask,
    "negative_label": negative_label,
    "lost_label": lost_label,
    "unknown_label": unknown_label,
    "label_outside_its_life": label_outside_its_life,
    "lost_track": lost_track,
    "empty_track_file": empty_track_file,
    "unknown_track": unknown_track,
    "track_outside_the_masks": track_outside_the_masks,
    "own_parent": at_row(lambda folder, row, values: changed(folder, row, 3, values[0])),
    "unknown_parent": at_row(lambda folder, row, _: changed(folder, row, 3, 60001)),
    "negative_parent": at_row(lambda folder, row, _: changed(folder, row, 3, -1)),
    "parent_lives_on": at_row(parent_lives_on),
    "ends_before_it_begins": at_row(ends_before_it_begins),
    "label_twice": at_row(lambda folder, _, values: [*folder.movie.rows, values]),
    "not_a_number": at_row(lambda folder, row, _: changed(folder, row, 2, "x")),
    "five_columns": at_row(lambda folder, row, _: changed(folder, row, 3, "0 0")),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_reported_where_it_is_and_nothing_else(tmp_path_factory, defect):
    @settings(**FEW)
    @given(movies(min_frames=2, min_tracks=1, max_label=60000), st.data())
    def check(movie, data):
        folder = Folder(tmp_path_factory.mktemp("result") / "01_RES", movie)
        write_result(folder.path, movie)
        expected = DEFECTS[defect](folder, data)
        shape = next(iter(movie.masks.values())).shape
        problems = validate_result(folder.path, movie.masks, shape)
        assert places(problems) == expected
        assert len(problems) == len(expected)
        assert all("\n" not in str(problem) for problem in problems)

    check()


@settings(**OPTIONS)
@given(movies(min_frames=2, min_tracks=2, max_label=60000), st.data())
def test_no_defect_hides_another(tmp_path_factory, movie, data):
    """A defect of one mask, one in the frame list and one within the track file are all there."""
    folder = Folder(tmp_path_factory.mktemp("result") / "01_RES", movie)
    write_result(folder.path, movie)
    last = max(movie.masks)
    names = ["truncated", "other_shape", "float_mask", "negative_label", "lost_label", "unknown_label"]
    expected = DEFECTS[data.draw(st.sampled_from(names))](folder, data)
    names = ["own_parent", "unknown_parent", "negative_parent", "parent_lives_on", "label_twice"]
    expected |= DEFECTS[data.draw(st.sampled_from(names))](folder, data)
    expected |= extra_frame(folder, data)
    write_masks(folder.path, "mask", {last + 3: np.zeros_like(movie.masks[last])})
    expected |= {(f"mask{last + 3:03d}.tif", last + 3, None)}
    shape = next(iter(movie.masks.values())).shape
    assert places(validate_result(folder.path, movie.masks, shape)) == expected


def test_a_label_above_16_bits_is_reported(tmp_path):
    masks = {frame: np.full((4, 4), 70000 + frame, np.uint32) for frame in range(2)}
    write_masks(tmp_path, "mask", masks)
    assert places(validate_result(tmp_path)) == {("mask000.tif", 0, 70000), ("mask001.tif", 1, 70001)}


def test_a_mask_of_bits_has_label_one(tmp_path):
    write_masks(tmp_path, "mask", {0: np.eye(4, dtype=bool)})
    write_rows(tmp_path / "res_track.txt", [[1, 0, 0, 0]])
    assert validate_result(tmp_path) == []


def test_a_gap_is_found_without_knowing_the_truth(tmp_path):
    write_masks(tmp_path, "mask", {frame: np.zeros((4, 4), np.uint16) for frame in (2, 3, 5, 9)})
    assert [(problem.frame, problem.text.split(":")[0]) for problem in validate_result(tmp_path)] == [
        (4, "the file is missing"),
        (6, "the files of frames 6 to 8 are missing"),
    ]


def test_one_wrong_number_is_not_a_million_problems(tmp_path):
    write_masks(tmp_path, "mask", {frame: np.zeros((4, 4), np.uint16) for frame in (0, 1, 10**6)})
    (problem,) = validate_result(tmp_path)
    assert (problem.frame, "frames 2 to 999999 are" in problem.text) == (2, True)


def test_tracks_outside_the_masks(tmp_path):
    write_masks(tmp_path, "mask", {frame: np.full((4, 4), 6, np.uint16) for frame in (3, 4)})
    for begin, end, frame in [(2, 4, 2), (3, 5, 5), (2, 5, 5)]:
        write_rows(tmp_path / "res_track.txt", [[6, begin, end, 0]])
        assert places(validate_result(tmp_path)) == {("res_track.txt", frame, 6)}


def test_the_only_frame_of_another_shape_is_named(tmp_path):
    write_masks(tmp_path, "mask", {3: np.zeros((4, 4), np.uint16)})
    assert places(validate_result(tmp_path, [3], (4, 5))) == {("mask003.tif", 3, None)}


def test_a_result_of_another_shape_is_one_problem(tmp_path):
    write_masks(tmp_path, "mask", {frame: np.zeros((4, 4), np.uint16) for frame in range(9)})
    (problem,) = validate_result(tmp_path, range(9), (4, 5))
    assert problem.text == "all masks have shape (4, 4) where the truth has (4, 5)"


@pytest.mark.parametrize("rows", [None, []])
def test_no_cells_at_all_keep_the_rules(tmp_path, rows):
    write_masks(tmp_path, "mask", {0: np.zeros((4, 4), np.uint16)})
    if rows is not None:
        write_rows(tmp_path / "res_track.txt", rows)
    assert validate_result(tmp_path, [0], (4, 4)) == []


def test_an_empty_folder_and_no_folder(tmp_path):
    assert [str(problem) for problem in validate_result(tmp_path)] == [
        f"{tmp_path}: there is no mask*.tif: check the folder"
    ]
    (problem,) = validate_result(tmp_path, range(2))
    assert places([problem]) == {("mask000.tif", 0, None)}
    assert "the files of frames 0 to 1 are missing" in problem.text
    assert places(validate_truth(tmp_path)) == {(tmp_path.name, None, None)}
    for validate in (validate_truth, validate_result):
        with pytest.raises(InputError, match="nowhere"):
            validate(tmp_path / "nowhere")


@settings(**FEW)
@given(movies(min_frames=3, min_tracks=1, max_label=60000, ndim=3), st.data())
def test_defects_of_the_truth(tmp_path_factory, movie, data):
    truth = write_truth(tmp_path_factory.mktemp("truth") / "01_GT", movie)
    first, second, third = list(movie.masks)[:3]
    plane = movie.masks[first][0]
    (truth / "SEG" / f"man_seg{first:03d}.tif").unlink()
    for name in (f"man_seg_{first:03d}_000", f"man_seg_{first:03d}_003", f"man_seg_{second:03d}_001"):
        tifffile.imwrite(truth / "SEG" / f"{name}.tif", plane)
    tifffile.imwrite(truth / "SEG" / f"man_seg_{first:03d}_002.tif", plane[:, 1:])
    tifffile.imwrite(truth / "SEG" / f"man_seg{third:03d}.tif", movie.masks[third][:2])
    (truth / "TRA" / f"man_track{second:03d}.tif").unlink()
    label = movie.rows[0][0]
    write_rows(truth / "TRA" / "man_track.txt", [*movie.rows, movie.rows[0]])
    assert places(validate_truth(truth)) == {
        (f"man_track{second:03d}.tif", second, None),
        ("man_track.txt", None, label),
        (f"man_seg_{first:03d}_003.tif", first, None),
        (f"man_seg_{first:03d}_002.tif", first, None),
        (f"man_seg_{second:03d}_001.tif", second, None),
        (f"man_seg{third:03d}.tif", third, None),
    }


def test_a_truth_without_its_track_file(tmp_path):
    write_masks(tmp_path / "TRA", "man_track", {0: np.zeros((4, 4), np.uint16)})
    assert places(validate_truth(tmp_path)) == {("man_track.txt", None, None)}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.uint64])
def test_present_labels_are_those_of_unique(dtype):
    rng = np.random.default_rng(0)
    for shape in [(0,), (1,), (7, 5), (3, 4, 5)]:
        image = rng.integers(0, 9, shape).astype(dtype)
        np.testing.assert_array_equal(present_labels(image), np.setdiff1d(image, [0]))


@pytest.mark.parametrize("name", ["Fluo-N2DH-GOWT1/01_GT", "Fluo-N2DH-SIM+/01_GT", "iPSC-02/02_GT"])
def test_real_truths_keep_the_rules(real_data, name):
    dataset, folder = name.split("/")
    assert validate_truth(real_data(dataset) / folder) == []
