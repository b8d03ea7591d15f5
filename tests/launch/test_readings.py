"""--config.<key>=<value> of commands that read a trained run."""

import json

import pytest

from celltrack_jax.errors import InputError
from launch import checkpoint_scores, judging, overrides, readings, segmenter
from launch.processes import Alone
from tests import mains

CONFIG = {
    "seed": 0,
    "train": {"steps": 5},
    "representation": {"name": "flow", "flow_threshold": 0.4, "min_size": 15, "fill_holes": True},
    "detection": {"per_class": {"cells": {"score": 0.5}}},
    "inference": {"tile": [512, 512]},
}


@pytest.fixture
def workdir(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def test_values_are_of_the_type_that_they_replace(workdir):
    changes = {
        "representation.flow_threshold": "1",
        "representation.fill_holes": "False",
        "detection.per_class.cells.score": "0.25",
        "inference.tile": "(64,128)",
        "representation.name": "1",
    }
    config = readings.load_config(workdir, changes)
    assert config.representation.to_dict() == {
        "name": "1",
        "flow_threshold": 1.0,
        "min_size": 15,
        "fill_holes": False,
    }
    assert isinstance(config.representation.flow_threshold, float)
    assert (config.detection.per_class.cells.score, config.inference.tile) == (0.25, [64, 128])
    assert readings.load_config(workdir, {}).to_dict() == CONFIG


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.steps=6", "only how it is read and judged can be changed"),
        ("evaluation.fold=1", "would be judged on what it has learned"),
        ("evaluation.store=", "would be judged on what it has learned"),
        ("representation.sigma=2", r"no such key \(fill_holes, flow_threshold, min_size, name\): correct it"),
        ("inference.tile.x=2", "no such key: correct it"),
        ("representation.min_size=1.5", "it is 15 now, give another int"),
        ("representation.fill_holes=1", "it is True now, give True or False"),
        ("inference.tile=many", r"it is \[512, 512\] now, give another list"),
    ],
)
def test_what_does_not_fit_is_an_error(workdir, change, message):
    with pytest.raises(InputError, match=message):
        readings.load_config(workdir, dict([change.split("=")]))


def test_each_of_several_runs_takes_what_it_has(workdir, monkeypatch):
    other = workdir / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"seed": 0, "inference": {"tile": [1, 1]}}))
    given = {"representation.min_size": "3", "inference.tile": "(2,2)"}
    monkeypatch.setattr(overrides, "given", lambda: given)
    assert readings.changes_for([workdir, other]) == {workdir: given, other: {"inference.tile": "(2,2)"}}
    given["model.norm"] = "batch"
    with pytest.raises(InputError, match=r"none of the runs has 'model\.norm'"):
        readings.changes_for([workdir, other])


@pytest.mark.parametrize(
    "opened",
    [
        lambda workdir: segmenter.restore(workdir, "best", 1),
        lambda workdir: segmenter.restore_for_images(workdir, "best"),
        lambda workdir: judging.open_run("", workdir),
        lambda workdir: checkpoint_scores.score_all(workdir, Alone(), again=False, at_once=0, slurm=None),
    ],
)
def test_whatever_opens_a_run_reads_it_by_them(workdir, monkeypatch, opened):
    monkeypatch.setattr(overrides, "given", lambda: {"representation.sigma": "2"})
    with pytest.raises(InputError, match=r"no such key \(fill_holes"):
        opened(workdir)


def test_processes_that_score_a_checkpoint_are_told_them(workdir, monkeypatch):
    monkeypatch.setattr(overrides, "given", lambda: {"inference.tile": "(2,2)"})
    assert checkpoint_scores._command(workdir, 3)[-1] == "--config.inference.tile=(2,2)"


def test_the_commands_take_them(workdir):
    done = mains.call("evaluate", f"--workdir={workdir}", "--config.representation.sigma=2")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "--config.representation.sigma: the config of" in done.stderr
    done = mains.call("evaluate", "--truth=a", "--result=b", "--config.representation.sigma=2")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--config.representation.sigma=2: only with --workdir" in done.stderr
