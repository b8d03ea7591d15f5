"""Detection from end to end: bursts, a run, and the curve of its checkpoints."""

import csv
import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from celltrack_jax.data import prepare, sources
from celltrack_jax.data.synthetic import bursts
from tests import mains
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on small bursts: its folder, and what it said."""
    path = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bursts, "CROWDED", replace(bursts.CROWDED, shape=(96, 112), cells=7))
        bursts.write_bursts(path, train=1, test=1, frames=4, seed=0)
    for split in ("train", "test"):
        prepare.prepare(
            path / f"store_{split}",
            sources.open_sources(path / split, "bursts", None),
            layout="bursts",
            origin=split,
            spacing_um=None,
            advance=lambda name, frames: None,
        )
    done = launch(
        "train",
        "--config=configs/hela/centroids.py:tiny",
        f"--config.data.store={path / 'store_train'}",
        f"--config.evaluation.store={path / 'store_test'}",
        "--config.representation.threshold=0.02",
        "--config.train.steps=4",
        "--config.train.evaluate_every=2",
        "--config.train.save_every=2",
        "--config.train.keep_latest=9",
        f"--workdir={path / 'run'}",
    )
    assert done.returncode == 0, done.stderr
    return path / "run", done


def launch(command, *flags):
    return subprocess.run(
        [sys.executable, "-m", f"launch.{command}", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"JAX_LOG_COMPILES": "1"},
    )


def test_a_run_from_end_to_end_compiles_each_program_once(run):
    folder, done = run
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [2, 4]
    compiled = re.findall(r"Finished XLA compilation of jit\((\w+)\)", done.stderr)
    for name in ("step", "_predict", "_points"):
        assert compiled.count(name) == 1, compiled


def test_checkpoints_make_a_curve_of_aogm_and_f1(run):
    folder, _ = run
    done = mains.call("evaluate", f"--workdir={folder}", "--checkpoints=all")
    assert done.returncode == 0, done.stderr
    with (folder / "evaluation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "4"]
    for row in rows:
        assert float(row["AOGM"]) > 0
        assert 0 <= float(row["F1_5"]) <= 1
    page = (folder / "evaluation.html").read_text()
    assert "AOGM" in page
    assert "F1_5" in page
