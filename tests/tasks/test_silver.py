"""Judging where silver outlines are everywhere and gold ones in few frames, as in BF-C2DL-MuSC."""

from typing import Any

import numpy as np
import pytest

from celltrack_jax import tasks
from celltrack_jax.data import prepare, sources, synthetic
from celltrack_jax.data.synthetic.bright_field import silver_outlines
from celltrack_jax.models.functional import Variables
from configs.ctc import segment
from tests import tiny_store

GOLD = (0, 5)
NOTHING = Variables({}, {})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("silver")
    movie = synthetic.make_movie(tiny_store.SPEC, seed=1)
    silver = silver_outlines(movie.labels, 0)
    synthetic.write_ctc(folder / "ctc", "01", movie, outlined=GOLD, silver=silver)
    found = sources.open_sources(folder / "ctc", "ctc", None)
    prepare.prepare(
        folder / "store",
        found,
        layout="ctc",
        origin="ctc",
        spacing_um=None,
        advance=lambda name, frames: None,
    )
    return folder / "store"


@pytest.fixture
def task(store):
    config = segment.get_config("tiny")
    config.data.store, config.data.silver = str(store), True
    config.evaluation.holdout, config.evaluation.max_frames = 0.3, 10
    config.evaluation.contrasts = (1.0,)
    return tasks.build(config)


def masks(sequence, kind, t):
    return np.asarray(sequence.labels[kind][t, 0, 0].read().result(), np.int64)


def predicts(task, monkeypatch, answer):
    """Makes the task find the cells that `answer` says for each frame."""
    monkeypatch.setattr(task, "predictor", lambda model, variables: None)

    def segmented(sequence, frames, forward, contrast, stop):
        for t in frames:
            if stop():
                return
            yield int(sequence.frames[t]), answer(sequence, t)

    monkeypatch.setattr(task, "_segment", segmented)


def truth(sequence, t):
    return masks(sequence, "markers", t)


def test_frames_with_gold_and_with_silver_outlines_are_held_out(task):
    (sequence,) = task._sequences
    assert [t for t in range(10) if sequence.annotation[t] == "full"] == list(GOLD)
    assert set(sequence.annotation_silver) == {"full", "sparse"}, "silver outlines miss a small cell"
    assert task._split(sequence) == ([0, 1, 2, 3, 4, 6], [5, 7, 8, 9])
    task.config.data.silver = False
    assert 5 in task._split(sequence)[0]


def test_gold_frames_are_judged_beyond_the_first_held_out_ones(task):
    (sequence,) = task._sequences
    task.config.evaluation.holdout = 1.0
    for gold, most, expected in (
        ((0, 5), 4, ([0, 1, 2], [5])),
        ((8, 9), 4, ([0, 1], [8, 9])),
        ((7, 8, 9), 4, ([0, 1], [7, 8])),
        ((0, 1), 4, ([0, 1, 2, 3], [])),
        (range(10), 4, ([0, 1, 2, 3], [])),
        ((), 4, ([0, 1, 2, 3], [])),
        ((0, 5), 10, (list(range(10)), [])),
    ):
        task.config.evaluation.max_frames = most
        outlined = {**sequence.labelled, "segmentation": np.isin(np.arange(10), gold)}
        changed = sequence._replace(labelled=outlined)
        assert task._judged_frames(changed, task._split(changed)[1]) == expected


def test_the_truth_itself_scores_one_and_silver_tells_its_own_errors(task, monkeypatch):
    task.config.tracking.max_gap = 0
    predicts(task, monkeypatch, truth)
    scores = task.evaluate(None, NOTHING, lambda: False)
    ones = ("SEG", "DET", "IoU", "PQ", *(f"{x}_{t}" for x in "PR" for t in (25, 50, 75)))
    assert {key: scores[key] for key in ones} == pytest.approx(dict.fromkeys(ones, 1.0))
    assert 0.6 < scores["silver/SEG"] < 0.97
    assert 0.6 < scores["silver/IoU"] < 0.97
    assert scores["silver/R_25"] == 1
    assert scores["silver/P_25"] <= 1
    assert 0.97 < scores["score"] < 1, "frame 6 is not held out, so that tracks have a gap"


def test_measures_of_silver_and_of_gold_are_those_of_a_loop_over_cells(task, monkeypatch):
    def moved(sequence, t):
        return np.roll(truth(sequence, t), 2, axis=1)

    predicts(task, monkeypatch, moved)
    scores = task.evaluate(None, NOTHING, lambda: False)
    (sequence,) = task._sequences
    for prefix, kind, frames in (("", "segmentation", [5]), ("silver/", "silver", [5, 7, 8, 9])):
        pairs = [(masks(sequence, kind, t), moved(sequence, t)) for t in frames]
        both = sum(np.sum((ref > 0) & (found > 0)) for ref, found in pairs)
        either = sum(np.sum((ref > 0) | (found > 0)) for ref, found in pairs)
        assert scores[prefix + "IoU"] == pytest.approx(both / either)
        for threshold in (0.5, 0.75):
            hits = sum(
                np.sum((ref == a) & (found == b)) > threshold * np.sum((ref == a) | (found == b))
                for ref, found in pairs
                for a in np.unique(ref[ref > 0])
                for b in np.unique(found[found > 0])
            )
            cells, guesses = (sum(len(np.unique(pair[k][pair[k] > 0])) for pair in pairs) for k in (0, 1))
            name = f"{100 * threshold:.0f}"
            assert scores[f"{prefix}P_{name}"] == pytest.approx(hits / guesses)
            assert scores[f"{prefix}R_{name}"] == pytest.approx(hits / cells)


def test_where_only_silver_outlines_exist_they_decide(task, monkeypatch):
    (sequence,) = task._sequences
    bare = {**sequence.labelled, "segmentation": np.zeros(10, bool), "markers": np.zeros(10, bool)}
    task.__dict__.update(
        _own=[sequence._replace(labelled=bare, annotation=["none"] * 10)],
        _sequences=[sequence._replace(labelled=bare, annotation=["none"] * 10)],
    )
    predicts(task, monkeypatch, truth)
    scores = task.evaluate(None, NOTHING, lambda: False)
    assert scores["SEG"] is None
    assert "IoU" not in scores
    assert scores["score"] == scores["silver/SEG"]
    assert scores["score"] > 0.6


def test_silver_outlines_that_are_not_used_do_not_judge(task, monkeypatch):
    task.config.data.silver = False
    task.config.evaluation.holdout = 0.5
    predicts(task, monkeypatch, truth)
    assert not [key for key in task.evaluate(None, NOTHING, lambda: False) if key.startswith("silver/")]


def test_overlaps_are_those_that_are_scored(task, monkeypatch):
    predicts(task, monkeypatch, truth)
    model: Any = None
    found = task.overlaps(model, NOTHING, lambda: False)
    assert {kind: [one.frame for one in frames] for kind, frames in found.items()} == {
        "gold": [5],
        "silver": [5, 7, 8, 9],
    }
    assert isinstance(task, tasks.InstanceTask)
    assert task.overlaps(model, NOTHING, lambda: True) is None


def test_measures_of_a_movie_that_others_lack_are_kept(task, monkeypatch):
    """One sequence without gold outlines, then one with."""
    (sequence,) = task._sequences
    bare = {**sequence.labelled, "segmentation": np.zeros(10, bool)}
    none = sequence._replace(name="00", labelled=bare, annotation=["markers"] * 10)
    task.__dict__.update(_own=[none, sequence], _sequences=[none, sequence])
    predicts(task, monkeypatch, truth)
    scores = task.evaluate(None, NOTHING, lambda: False)
    assert scores["PQ"] == pytest.approx(1)
    assert scores["SEG"] == pytest.approx(1)


def test_an_empty_prediction_has_no_precision(task, monkeypatch):
    predicts(task, monkeypatch, lambda sequence, t: np.zeros_like(truth(sequence, t)))
    scores = task.evaluate(None, NOTHING, lambda: False)
    assert scores["P_50"] is None
    assert scores["R_50"] == scores["IoU"] == scores["silver/IoU"] == scores["silver/SEG"] == 0
    assert scores["score"] < 0.1
