"""Scoring through the real main: its JSON, its messages and its exit status, and one pass equals separate ones."""

import json
import math
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from celltrack_jax.inference import ctc_scores
from celltrack_jax.inference.ctc_scores import score_result
from tests import mains
from tests.conftest import ROOT
from tests.ctc_folders import Movie, movies, write_masks, write_result, write_rows, write_truth
from tests.ctc_validators import validate_result, validate_truth

KEYS = (
    "DET SEG TRA AOGM AOGM_0 AOGM_NS AOGM_FN AOGM_FP AOGM_ED AOGM_EA AOGM_EC LNK OP_CSB OP_CTB CT TF BC0 BC1 BC2 "
    "BC3 CCA BIO OP_CLB CHOTA valid problems"
)
FRAMES = range(4)


def cells() -> Movie:
    """A mother that divides after two frames, and a cell that stays: 12 x 12 pixels, 4 frames."""
    rows = [[1, 0, 1, 0], [2, 2, 3, 1], [3, 2, 3, 1], [9, 0, 3, 0]]
    masks = {frame: np.zeros((12, 12), np.uint16) for frame in FRAMES}
    for place, (label, begin, end, _) in enumerate(rows):
        for frame in range(begin, end + 1):
            masks[frame][3 * place : 3 * place + 2, 2 : 5 + frame] = label
    return Movie(masks, rows)


@pytest.fixture
def folders(tmp_path):
    """A truth and a result equal to it."""
    return write_truth(tmp_path / "01_GT", cells()), write_result(tmp_path / "01_RES", cells())


def evaluate(truth: Path, result: Path, *flags: str) -> tuple[int, str, str, dict | None]:
    """Calls the main; returns its exit status, stdout, stderr and JSON."""
    file = result.parent / "scores.json"
    done = mains.call("evaluate", f"--truth={truth}", f"--result={result}", f"--json={file}", *flags)
    return done.returncode, done.stdout, done.stderr, json.loads(file.read_text()) if file.is_file() else None


def test_an_equal_result_scores_one_and_the_json_has_all_keys(folders):
    status, out, err, row = evaluate(*folders)
    assert (status, err) == (0, "")
    assert row is not None
    assert list(row) == KEYS.split()
    assert {row[key] for key in ("DET", "SEG", "TRA", "LNK", "CT", "TF", "BC0", "CHOTA")} == {1}
    assert (row["AOGM"], row["CCA"], row["valid"], row["problems"]) == (0, None, True, [])
    lines = dict(line.split() for line in out.splitlines())
    assert list(lines) == KEYS.split()[:-2]
    assert (lines["TRA"], lines["CCA"]) == ("1", "-")
    assert not list(folders[1].parent.glob("*.partial"))


def test_a_terminal_gets_a_table(folders):
    reader, terminal = pty.openpty()
    command = [sys.executable, "-m", "launch.evaluate", f"--truth={folders[0]}", f"--result={folders[1]}"]
    done = subprocess.run(command, cwd=ROOT, stdout=terminal, stderr=subprocess.PIPE, check=False)
    os.close(terminal)
    shown = os.read(reader, 100_000).decode()
    os.close(reader)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "measure" in shown
    assert all(key in shown for key in KEYS.split()[:-2])


def scores(truth: Path, result: Path, **options) -> dict:
    """Scores in this process and returns the measures of a result without problems."""
    found = score_result(truth, result, **options)
    assert found.problems == []
    return found.measures


def defined(measures: dict) -> set[str]:
    return {name for name in ("DET", "SEG", "TRA", "LNK", "CT", "CHOTA") if measures[name] is not None}


def test_a_result_without_a_track_file_is_scored_for_seg_and_det(folders):
    (folders[1] / "res_track.txt").unlink()
    measures = scores(*folders)
    assert defined(measures) == {"DET", "SEG"}
    assert measures["DET"] == measures["SEG"] == 1


@pytest.mark.parametrize(
    ("absent", "left"), [("TRA", {"SEG"}), ("SEG", {"DET", "TRA", "LNK", "CT", "CHOTA"})]
)
def test_what_has_no_truth_is_null(folders, absent, left):
    shutil.rmtree(folders[0] / absent)
    assert defined(scores(*folders)) == left


def test_seg_truth_of_some_frames_is_enough_and_asks_for_these(folders):
    shutil.rmtree(folders[0] / "TRA")
    for frame in (0, 2):
        (folders[0] / "SEG" / f"man_seg{frame:03d}.tif").unlink()
    assert scores(*folders)["SEG"] == 1
    (folders[1] / "mask003.tif").unlink()
    problems = score_result(*folders).problems
    assert [(Path(problem.file).name, problem.frame) for problem in problems] == [("mask003.tif", 3)]


@pytest.mark.parametrize("rows", [None, []])
def test_a_result_without_any_cell_scores_zero(folders, rows):
    write_masks(folders[1], "mask", {frame: np.zeros((12, 12), np.uint16) for frame in FRAMES})
    (folders[1] / "res_track.txt").unlink()
    if rows is not None:
        write_rows(folders[1] / "res_track.txt", rows)
    measures = scores(*folders)
    assert measures["DET"] == measures["SEG"] == 0
    assert measures["TRA"] == (None if rows is None else 0)


@pytest.mark.parametrize("first", [7, 9998])
def test_four_digits_and_other_first_frames(tmp_path, first):
    masks = {first + frame: mask for frame, mask in cells().masks.items()}
    rows = [[label, first + begin, first + end, parent] for label, begin, end, parent in cells().rows]
    truth = write_truth(tmp_path / "01_GT", Movie(masks, rows), digits=4)
    result = write_result(tmp_path / "01_RES", Movie(masks, rows), digits=6)
    assert scores(truth, result)["TRA"] == 1


def test_empty_frames_and_a_single_frame(tmp_path):
    movie = cells()
    empty = Movie(
        {frame: mask * (frame != 1) for frame, mask in movie.masks.items()}, [[1, 0, 0, 0], [9, 0, 0, 0]]
    )
    for number, frames in enumerate([(0, 1), (0,)]):
        part = Movie({frame: empty.masks[frame] for frame in frames}, empty.rows)
        truth = write_truth(tmp_path / f"{number}_GT", part)
        measures = scores(truth, write_result(tmp_path / f"{number}_RES", part))
        assert (measures["DET"], measures["LNK"]) == (1, None)


def truncate(result: Path) -> None:
    path = result / "mask002.tif"
    path.write_bytes(path.read_bytes()[:150])


def track_lines(*lines: str):
    return lambda result: (result / "res_track.txt").write_text("\n".join(lines))


def mask_of(frame: int, change):
    def write(result: Path) -> None:
        path = result / f"mask{frame:03d}.tif"
        tifffile.imwrite(path, change(tifffile.imread(path)))

    return write


def labelled(mask: np.ndarray) -> np.ndarray:
    changed = mask.astype(np.uint32)
    changed[0, 0] = 70000
    return changed


BAD = {
    "truncated": (truncate, ["mask002.tif, frame 2: "]),
    "missing frame": (
        lambda result: (result / "mask003.tif").unlink(),
        ["mask003.tif, frame 3: the file is miss"],
    ),
    "frame beyond the truth": (
        lambda result: shutil.copy(result / "mask003.tif", result / "mask004.tif"),
        ["mask004.tif, frame 4: the truth has no such frame (it has 0 to 3)"],
    ),
    "another shape": (
        mask_of(1, lambda mask: mask[1:]),
        ["frame 1: the shape is (11, 12) where the truth has"],
    ),
    "mixed dtypes": (
        mask_of(1, lambda mask: mask.astype(np.uint8)),
        ["frame 1: the mask is uint8 where most"],
    ),
    "float": (mask_of(1, lambda mask: mask.astype(np.float32)), ["frame 1: the mask is float32"]),
    "negative": (
        mask_of(1, lambda mask: -mask.astype(np.int32)),
        ["frame 1, label -9", "frame 1, label -1: "],
    ),
    "above 16 bits": (mask_of(1, labelled), ["frame 1, label 70000: labels of a result go up to 65535"]),
    "label without a track": (
        track_lines("1 0 1 0", "2 2 3 1", "3 2 3 1"),
        [f"mask00{frame}.tif, frame {frame}, label 9: the mask has this label" for frame in FRAMES],
    ),
    "track without a label": (
        track_lines("1 0 1 0", "2 2 3 1", "3 2 3 1", "4 3 3 0", "9 0 3 0"),
        ["mask003.tif, frame 3, label 4: the mask lacks this label, res_track.txt has it in frames 3 to 3"],
    ),
    "parent outlives its child": (
        track_lines("1 0 1 0", "2 2 3 1", "3 2 3 9", "9 0 3 0"),
        ["label 3: line 3: the parent 9 lives to frame 3, but must end before its child begins in frame 2"],
    ),
    "malformed line": (
        track_lines("1 0 1 0", "2 2 3 1", "3 2 3", "9 0 3 0"),
        ["label 3: line 3: '3 2 3' is not"],
    ),
    "empty track file": (track_lines(), [f"frame {frame}, label 9: the mask has" for frame in FRAMES]),
}


@pytest.mark.parametrize("case", BAD)
def test_a_result_that_breaks_the_rules_is_not_scored(folders, case):
    break_rule, expected = BAD[case]
    break_rule(folders[1])
    status, out, err, row = evaluate(*folders)
    assert (status, out) == (1, "")
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith(f"error: {folders[1]} is not scored against {folders[0]}")
    assert row is not None
    assert row["valid"] is False
    assert all(row[key] is None for key in KEYS.split()[:-2])
    assert err.splitlines()[:-1] == [f"problem: {problem}" for problem in row["problems"]]
    for text in expected:
        assert any(text in problem for problem in row["problems"]), row["problems"]


def test_missing_masks_are_one_line_and_the_frames_there_are_can_be_scored(folders):
    for frame in (2, 3):
        (folders[1] / f"mask{frame:03d}.tif").unlink()
    write_rows(folders[1] / "res_track.txt", [[1, 0, 1, 0], [9, 0, 1, 0]])
    status, _, err, row = evaluate(*folders)
    assert (status, row and row["valid"]) == (1, False)
    assert [line for line in err.splitlines() if line.startswith("problem: ")] == [
        f"problem: {folders[1]}/mask002.tif, frame 2: the files of frames 2 to 3 are missing: every frame needs one, or "
        "score those that there are by --frames=first:end"
    ]
    status, _, err, row = evaluate(*folders, "--frames=:2")
    assert (status, err) == (0, "note: frames 0 to 1 are scored\n")
    assert row is not None
    assert (row["TRA"], row["SEG"], row["LNK"], row["AOGM"]) == (1, 1, 1, 0)
    status, _, err, _ = evaluate(*folders, "--frames=7:9")
    assert (status, err) == (1, f"error: {folders[0]} has no frames in '7:9': it has 0-3\n")


def test_a_frame_that_the_truth_lost_at_the_end_of_a_window_is_missed(folders):
    """Its tracks still tell of it."""
    for stem in ("TRA/man_track", "SEG/man_seg"):
        (folders[0] / f"{stem}003.tif").unlink()
    status, _, err, row = evaluate(*folders, "--frames=1:4")
    assert row is not None
    assert (status, row["DET"], row["TRA"]) == (0, 1, None)
    assert "links cannot be scored" in err
    assert "note: frames 1 to 2 are scored" in err


@settings(deadline=None, max_examples=15)
@given(movies(min_frames=4), st.integers(0, 2**32 - 1), st.integers(0, 2), st.integers(1, 2))
def test_a_window_is_scored_as_folders_of_these_frames_alone(tmp_path_factory, movie, seed, first, length):
    """The oracle: the same frames written as folders, with the tracks cut line by line."""
    folder = tmp_path_factory.mktemp("window")
    start = min(movie.masks) + first
    window = range(start, min(start + length + 1, max(movie.masks) + 1))
    keep = np.random.default_rng(seed)
    found = {t: mask * (keep.random(mask.shape) < 0.8) for t, mask in movie.masks.items()}
    # Each label keeps one pixel, so that the tracks stay those of the truth.
    for t, mask in movie.masks.items():
        for label in np.unique(mask[mask > 0]):
            found[t].flat[np.flatnonzero(mask == label)[0]] = label
    rows = []
    for label, begin, end, parent in movie.rows:
        if begin > window[-1] or end < window[0]:
            continue
        mothers = [row for row in movie.rows if row[0] == parent and row[2] >= window[0]]
        rows.append(
            [
                label,
                max(begin, window[0]),
                min(end, window[-1]),
                parent if begin >= window[0] and mothers else 0,
            ]
        )
    whole = write_truth(folder / "01_GT", movie), write_result(folder / "01_RES", Movie(found, movie.rows))
    part = (
        write_truth(folder / "02_GT", Movie({t: movie.masks[t] for t in window}, rows)),
        write_result(folder / "02_RES", Movie({t: found[t] for t in window}, rows)),
    )
    assert scores(*whole, wanted=f"{window[0]}:{window[-1] + 1}") == scores(*part)


def test_a_broken_truth_is_not_scored_against(folders):
    write_rows(folders[0] / "TRA" / "man_track.txt", cells().rows[:3])
    status, _, err, row = evaluate(*folders)
    assert (status, row and row["valid"]) == (1, False)
    assert err.count("man_track.txt lacks it") == len(FRAMES)


def test_a_truth_with_gaps_is_scored_for_seg_and_det_with_a_note(folders):
    (folders[0] / "TRA" / "man_track001.tif").unlink()
    (folders[0] / "SEG" / "man_seg001.tif").unlink()
    status, _, err, row = evaluate(*folders)
    assert (status, row and row["valid"]) == (0, True)
    assert row is not None
    assert defined(row) == {"DET", "SEG"}
    assert "man_track001.tif, frame 1: the file is missing" in err


@pytest.mark.parametrize(
    ("flags", "status", "text"),
    [
        (["--truth={0}"], 2, "result"),
        (["--truth={0}", "--result={1}", "--seg_slices=half"], 2, "seg_slices"),
        (["--truth={0}", "--result={1}", "--wrong=1"], 2, "wrong"),
        (
            ["--truth={0}/TRA/man_track.txt", "--result={1}", "--seg_slices=slice"],
            2,
            "--seg_slices: only with a folder as --truth",
        ),
        (["--truth={0}", "--result={1}", "--radii=3"], 2, "--radii: only with a table of points as --truth"),
        (["--workdir={0}", "--matches=m"], 2, "--matches: only with --truth"),
        (
            ["--truth={0}", "--result={1}", "--again", "--jobs=2"],
            2,
            "--again and --jobs: only with --workdir",
        ),
        (["--truth={0}", "--result={1}", "--frames=3"], 1, "--frames=3 is no range: write first:end"),
        (["--workdir={0}", "--frames=3:5"], 2, "--frames: only with --truth"),
        (["--workdir={0}", "--radius=3"], 2, "--radius: only with --truth"),
        (["--workdir={0}", "--jobs=2"], 2, "--jobs: only with --checkpoints=all"),
        (["--workdir={0}", "--curve=c.html", "--json=c.json"], 2, "--curve scores nothing: leave --json out"),
        (["--truth={0}/none", "--result={1}"], 1, "01_GT/none is not a folder"),
        (["--truth={0}", "--result={1}/none"], 1, "01_RES/none is not a folder"),
        (["--truth={1}", "--result={1}"], 1, "01_RES has neither TRA/man_track*.tif nor SEG/man_seg*.tif"),
        (["--truth={0}", "--result={1}", "--json={0}/TRA/man_track.txt/x.json"], 1, "cannot write"),
    ],
)
def test_wrong_flags_and_folders(folders, flags, status, text):
    done = mains.call("evaluate", *(flag.format(*folders) for flag in flags))
    assert done.returncode == status
    assert text in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")


FULL_DISK = """
import errno, os
from launch import cli, evaluate

def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

os.replace = full
cli.run(evaluate.main)
"""


def test_a_full_disk_is_one_line_and_leaves_the_old_json(folders, tmp_path):
    file = tmp_path / "scores.json"
    file.write_text("old")
    flags = [f"--truth={folders[0]}", f"--result={folders[1]}", f"--json={file}"]
    command = [sys.executable, "-c", FULL_DISK, *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "scores.json: No space left on device; free some space, or choose another --json" in done.stderr
    assert file.read_text() == "old"
    assert not list(tmp_path.glob("*.partial"))


def write_planes(folder: Path) -> tuple[Path, Path]:
    """One object of 10 pixels in three annotated planes of five, with the IoUs 1, 6/10 and 10/20."""
    truth = np.zeros((5, 4, 10), np.uint16)
    truth[1:4, 0] = 7
    result = truth.copy()
    result[0] = result[4] = 1  # not annotated: does not count
    result[2, 0, 6:] = 0
    result[3, 1] = 7
    for plane in (1, 2, 3):
        (folder / "01_GT" / "SEG").mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(folder / "01_GT" / "SEG" / f"man_seg_000_{plane:03d}.tif", truth[plane])
    write_masks(folder / "01_RES", "mask", {0: result})
    return folder / "01_GT", folder / "01_RES"


@pytest.mark.parametrize(("mode", "expected"), [("object", 26 / 40), ("slice", (1 + 6 / 10 + 10 / 20) / 3)])
def test_annotated_planes_of_a_volume(tmp_path, mode, expected):
    status, _, _, row = evaluate(*write_planes(tmp_path), f"--seg_slices={mode}")
    assert status == 0
    assert row is not None
    assert math.isclose(row["SEG"], expected)
    assert defined(row) == {"SEG"}


def test_planes_of_another_size_or_outside_the_volume_are_problems(tmp_path):
    truth, result = write_planes(tmp_path)
    write_masks(result, "mask", {0: np.zeros((3, 3, 10), np.uint16)})
    (problem,) = score_result(truth, result).problems
    assert "(3, 3, 10) where the truth has (4, 4, 10)" in str(problem)


@settings(deadline=None, max_examples=20)
@given(movies(min_frames=2), movies(min_frames=2), st.integers(0, 3))
def test_one_pass_finds_what_the_validators_find(tmp_path_factory, truth, result, frames_lost):
    """Two unrelated movies: the problems are those of validate_truth and validate_result, no more, no less."""
    folder = tmp_path_factory.mktemp("pass")
    write_truth(folder / "01_GT", truth)
    lost = sorted(result.masks)[:frames_lost]
    write_result(
        folder / "01_RES", Movie({t: m for t, m in result.masks.items() if t not in lost}, result.rows)
    )
    shape = next(iter(truth.masks.values())).shape
    expected = validate_truth(folder / "01_GT") + validate_result(folder / "01_RES", truth.masks, shape)
    found = score_result(folder / "01_GT", folder / "01_RES")
    assert sorted(map(str, found.problems)) == sorted(map(str, expected))
    assert bool(found.measures) == (not expected)


def test_scoring_a_result_does_without_jax():
    code = "import sys, launch.evaluate; raise SystemExit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_every_file_is_read_once(folders, monkeypatch):
    read = []
    original = ctc_scores.read_mask
    monkeypatch.setattr(
        ctc_scores, "read_mask", lambda path, frame: read.append(path) or original(path, frame)
    )
    scores(*folders)
    assert len(read) == len(set(read)) == 3 * len(FRAMES)


def test_frames_are_not_kept(folders, monkeypatch):
    """Of a frame only labels and counts are kept: nothing of its size."""
    frames = []
    original = ctc_scores._read_frame
    monkeypatch.setattr(ctc_scores, "_read_frame", lambda *args: frames.append(original(*args)) or frames[-1])
    scores(*folders)
    arrays = [
        mask.labels for frame in frames for mask in (*frame.result, *frame.markers, *frame.segmentation)
    ]
    arrays += [array for frame in frames for pair in (*frame.tra, *frame.seg) for array in pair[1:]]
    assert len(arrays) > len(frames)
    assert all(array.size < 10 and (array.base is None or array.base.size < 10) for array in arrays)


@pytest.mark.parametrize(
    ("sequence", "det", "tra"),
    [("01", 0.919891, 0.918984), ("02", 0.936992, 0.932231), ("03", 0.933494, 0.927246)],
)
def test_official_scores_of_a_real_tracker(real_data, sequence, det, tra):
    folder = real_data("iPSC-02")
    measures = scores(folder / f"{sequence}_GT", folder / f"{sequence}_RES")
    assert round(measures["DET"], 6) == det
    assert round(measures["TRA"], 6) == tra


def test_a_real_truth_with_gaps(real_data, tmp_path):
    """12 frames of this set have TRA, one other has SEG; more frames in the result are no problem."""
    truth = real_data("Fluo-N2DL-HeLa_partial") / "01_GT"
    empty = np.zeros((700, 1100), np.uint16)
    write_masks(tmp_path, "mask", dict.fromkeys(range(40), empty))
    for path in (truth / "TRA").glob("*.tif"):
        shutil.copy(path, tmp_path / path.name.replace("man_track", "mask"))
    found = score_result(truth, tmp_path)
    assert (found.problems, found.measures["DET"], found.measures["TRA"], len(found.notes)) == (
        [],
        1,
        None,
        1,
    )
