"""Results judged by boxes: what is in the right place, what is not, and what cannot be judged."""

import csv
import json

import numpy as np
import pytest

from celltrack_jax.errors import InputError
from celltrack_jax.inference import match_volumes
from celltrack_jax.inference.point_truth import score_points
from celltrack_jax.io import ctc, point_table, points, tif
from celltrack_jax.lineage import Lineage
from celltrack_jax.ops.balls import draw_balls
from tests import mains

FRAMES, SHAPE = (1, 2, 3), (60, 80)
PLACES = np.array([[12.0, 15.0], [30.0, 40.0], [45.0, 66.0]])
"""Of three cells that move by (1, 2) a frame."""


def place(frame: int) -> np.ndarray:
    return PLACES + np.array([1.0, 2.0]) * frame


@pytest.fixture
def truth(tmp_path):
    rows = [(frame, label, y, x) for frame in FRAMES for label, (y, x) in enumerate(place(frame), 1)]
    frame, label, y, x = np.array(rows).T
    position = np.column_stack([np.zeros(len(rows)), y, x])
    size = np.tile([1.0, 8.0, 8.0], (len(rows), 1))
    path = tmp_path / "gt.txt"
    points.write_mot(path, points.PointTable(frame.astype(int), label.astype(int), position, size))
    return path


def write_result(folder, cells=(0, 1, 2), shift=0.0):
    """Writes discs of some of the cells, moved to the right, as tracks 1, 2, ..."""
    with ctc.ResultWriter(folder, 3) as writer:
        for frame in FRAMES:
            at = place(frame)[list(cells)] + [0.0, shift]
            writer.write(frame, draw_balls(at, SHAPE, np.ones(2), 3.0).astype(np.uint32))
        writer.finish(Lineage.from_rows([(k + 1, 1, 3, 0) for k in range(len(cells))]))
    return folder


def test_the_truth_itself_scores_one(truth, tmp_path):
    scores, problems, notes = score_points(truth, write_result(tmp_path / "RES"), (3.0, 5.0), 5.0)
    assert not notes
    assert not problems
    assert scores["F1_3"] == scores["TRA"] == scores["LNK"] == 1
    assert scores["AOGM"] == scores["count_error"] == 0
    # Frames are numbered alike; nodes are perfect, and an edge lacks at all but the first ones.
    assert scores["helalab_cost"] is not None
    assert 0 < scores["helalab_cost"] < 1


def test_a_cell_that_lacks_costs_its_nodes_and_links(truth, tmp_path):
    scores, *_ = score_points(truth, write_result(tmp_path / "RES", cells=(0, 2)), (5.0,), 5.0)
    assert scores["recall_5"] == pytest.approx(2 / 3)
    assert scores["precision_5"] == 1
    assert (scores["AOGM_FN"], scores["AOGM_EA"], scores["AOGM"]) == (3, 2, 33)
    assert scores["count_bias"] == -1


def test_points_between_pixels_count_where_the_table_has_them(truth, tmp_path):
    folder = write_result(tmp_path / "RES", shift=4.0)
    coarse, *_ = score_points(truth, folder, (3.0, 5.0), 5.0)
    assert (coarse["F1_3"], coarse["F1_5"]) == (0, 1)
    at = np.concatenate([np.column_stack([np.zeros(3), place(frame) + 0.25]) for frame in FRAMES])
    nothing = np.full((9, 3), np.nan)
    frame, track = np.repeat(FRAMES, 3), np.tile([1, 2, 3], 3)
    point_table.write(
        folder / "points.csv",
        point_table.PointRows(frame, track, at, np.ones(9, np.float32), nothing),
        None,
        "",
    )
    fine, *_ = score_points(truth, folder, (3.0, 5.0), 5.0)
    assert fine["F1_3"] == 1
    assert fine["RMSE_3"] == pytest.approx(0.25 * np.sqrt(2))


def test_matches_are_drawn_and_listed(truth, tmp_path):
    score_points(
        truth, write_result(tmp_path / "RES", cells=(0, 2)), (5.0,), 5.0, matches=tmp_path / "matches"
    )
    kinds = {"found": match_volumes.FOUND, "missed": match_volumes.MISSED}
    with (tmp_path / "matches" / "matches.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == ["found", "found", "missed"] * len(FRAMES)
    for row in rows:
        image = tif.read_tif(tmp_path / "matches" / f"match{int(row['frame']):03d}.tif")
        assert image.shape == SHAPE
        assert image[round(float(row["y"])), round(float(row["x"]))] == kinds[row["kind"]]
        at = place(int(row["frame"]))[int(row["label"]) - 1]
        assert (float(row["y"]), float(row["x"])) == pytest.approx(tuple(at))


def test_frames_that_lack_are_named(truth, tmp_path):
    folder = write_result(tmp_path / "RES")
    (folder / "mask002.tif").unlink()
    with pytest.raises(InputError, match=r"lacks frame 2 .* predict them too"):
        score_points(truth, folder, (5.0,), 5.0)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match=r"give a folder that launch.predict wrote"):
        score_points(truth, empty, (5.0,), 5.0)


def test_the_command_writes_the_measures(truth, tmp_path):
    folder, scores = write_result(tmp_path / "RES"), tmp_path / "scores.json"
    words = [
        f"--truth={truth}",
        f"--result={folder}",
        f"--json={scores}",
        f"--matches={tmp_path / 'matches'}",
    ]
    done = mains.call("evaluate", *words)
    assert done.returncode == 0, done.stderr
    assert json.loads(scores.read_text())["F1_5"] == 1
    lines = done.stdout.splitlines()
    assert "F1_5 1" in [" ".join(line.split()) for line in lines]
    assert len({line.rindex(" ") for line in lines}) == 1, "values lie below each other"
    assert (tmp_path / "matches" / "match001.tif").is_file()
