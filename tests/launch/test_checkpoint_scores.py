"""Every checkpoint of a run through launch.evaluate: rows, what is used again, and what fails alone."""

import csv
import json
import os
import shutil
import subprocess

import pytest

from tests import mains, tiny_store


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    store = tiny_store.make(folder)
    settings = {"steps": 6, "save_every": 2, "evaluate_every": 6, "keep_latest": 3}
    flags = [f"--config.train.{key}={value}" for key, value in settings.items()]
    workdir = f"--workdir={folder / 'run'}"
    done = mains.call(
        "train",
        "--config=configs/ctc/segment.py:tiny",
        workdir,
        f"--config.data.store={store}",
        *flags,
    )
    assert done.returncode == 0, done.stderr
    return folder / "run"


def evaluate(run, *flags) -> tuple[subprocess.CompletedProcess, list]:
    file = run.parent / "rows.json"
    file.unlink(missing_ok=True)
    flags = ("--checkpoints=all", f"--json={file}", *flags)
    done = mains.call("evaluate", f"--workdir={run}", *flags)
    return done, json.loads(file.read_text()) if file.exists() else []


@pytest.mark.slow
def test_rows_are_kept_and_a_checkpoint_that_fails_is_named(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    first, rows = evaluate(run)
    assert first.returncode == 0, first.stderr
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert [line.split()[:2] for line in first.stdout.splitlines()] == [
        ["step", "2"],
        ["step", "4"],
        ["step", "6"],
    ]
    table = list(csv.DictReader((run / "evaluation.csv").open()))
    assert [float(row["score"]) for row in table] == [row["score"] for row in rows]
    measured = [key for key in rows[0] if key != "step" and any(row[key] is not None for row in rows)]
    assert (run / "evaluation.html").read_text().count("<svg") == len(measured) > 10

    # A row that is there serves again; one of other settings, or of a checkpoint written since, does not.
    old = json.loads((run / "evaluation" / "4.json").read_text())
    (run / "evaluation" / "4.json").write_text(json.dumps(old | {"saved_ns": 1, "scores": {"score": 9}}))
    shutil.rmtree(run / "checkpoints" / "2" / "ema")
    second, again = evaluate(run)
    assert second.returncode == 0, second.stderr
    assert "2 of 3 checkpoints are scored already" in second.stderr
    assert again == rows
    third, left = evaluate(run, "--again", "--jobs=2")
    assert third.returncode == 1
    assert left == rows[1:]
    assert third.stderr.splitlines()[-1].startswith("error: checkpoint 2 is not scored: ")
    assert "checkpoint 2 is not scored" in (run / "evaluation.html").read_text()


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--checkpoints=best", "--on=slurm"], 2, "--on=slurm goes with --checkpoints=all"),
        (["--checkpoints=all", "--slurm=nodes=2"], 2, "go with --on=slurm"),
        (
            ["--checkpoints=all", "--on=slurm", "--slurm=gpus=2"],
            2,
            "there is no setting 'gpus'; there are nodes, ",
        ),
        (["--checkpoints=all", "--on=slurm", "--slurm=nodes=x"], 2, "nodes is a number of nodes, or a range"),
        (["--checkpoints=3"], 1, "no checkpoint '3'"),
    ],
)
def test_wrong_flags_are_one_line(flat, flags, status, message):
    done = mains.call("evaluate", f"--workdir={flat}", *flags)
    assert (done.returncode, done.stderr.count("\n")) == (status, 1)
    assert message in done.stderr


def test_without_slurm_the_error_says_where_to_go(flat):
    flags = [f"--workdir={flat}", "--checkpoints=all", "--again", "--on=slurm"]
    done = mains.call("evaluate", *flags, environment=os.environ | {"PATH": "/none"})
    assert done.returncode == 1
    assert "--on=slurm needs sbatch, which is not here: call it on a login node" in done.stderr
