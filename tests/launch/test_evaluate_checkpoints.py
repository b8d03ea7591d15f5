"""launch.evaluate --checkpoints=all: a row per checkpoint, whoever makes it."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from celltrack_jax.errors import InputError
from launch import checkpoint_scores, cli
from launch.processes import Alone
from tests import mains, tiny_store

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of four checkpoints."""
    folder = tmp_path_factory.mktemp("run")
    store = tiny_store.make(folder / "movie")
    done = mains.call(
        "train", "--config=configs/ctc/segment.py:tiny", f"--config.data.store={store}",
        f"--workdir={folder / 'run'}", "--config.train.steps=4", "--config.train.save_every=1",
        "--config.train.evaluate_every=4", "--config.train.keep_latest=4",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "run"


def start(command, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", f"launch.{command}", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def evaluated(*arguments):
    done = mains.call("evaluate", *arguments)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_two_process_evaluation_shares_the_checkpoints(trained, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [f"--workdir={trained}", "--checkpoints=all", "--again", f"--coordinator=127.0.0.1:{port}"]
    pair = [
        start("evaluate", *command, "--processes=2", f"--process={rank}", f"--json={tmp_path}/{rank}.json")
        for rank in range(2)
    ]
    ends = [finish(process) for process in pair]
    for status, _, err in ends:
        assert status == 0, err
    assert [sum(line.startswith("step ") for line in out.splitlines()) for _, out, _ in ends] == [2, 2]
    rows = json.loads((tmp_path / "0.json").read_text())
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert not (tmp_path / "1.json").exists()
    with (trained / "evaluation.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2", "3", "4"]
    assert (trained / "evaluation.html").read_text().count("<svg") >= 1


@pytest.mark.parametrize(
    "more",
    [pytest.param((), id="here"), pytest.param(("--jobs=2",), id="in children", marks=pytest.mark.slow)],
)
def test_an_evaluation_that_is_told_to_stop_goes_on_with_the_rest(trained, more):
    command = [f"--workdir={trained}", "--checkpoints=all", *more]
    process = start("evaluate", *command, "--again")
    rows = trained / "evaluation"
    before = time.time_ns()
    while not any(path.stat().st_mtime_ns > before for path in rows.glob("*.json")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    status, out, err = finish(process)
    assert status == cli.STOPPED, err
    assert "the same command continues" in out
    kept = len(list(rows.glob("*.json")))
    assert 0 < kept < 4
    status, _, err = evaluated(*command)
    assert status == 0, err
    assert f"{kept} of 4 checkpoints are scored already" in err
    assert len(list(rows.glob("*.json"))) == 4


def test_two_process_evaluation_tells_what_failed_in_the_other_process(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    for part in (run / "checkpoints" / "2").rglob("*"):
        if part.is_file() and part.name != "_CHECKPOINT_METADATA":
            part.write_bytes(b"")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [f"--workdir={run}", "--checkpoints=all", "--again", f"--coordinator=127.0.0.1:{port}"]
    pair = [start("evaluate", *command, "--processes=2", f"--process={rank}") for rank in range(2)]
    (status, _, err), _ = [finish(process) for process in pair]
    assert status == 1
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: checkpoint 2 is not scored: checkpoint 2 in ")
    assert len((run / "evaluation.csv").read_text().splitlines()) == 1 + 3


def test_curves_of_precision_and_recall_are_a_page(trained, tmp_path):
    page = tmp_path / "curve.html"
    status, out, err = evaluated(f"--workdir={trained}", "--checkpoints=4", f"--curve={page}")
    assert (status, err) == (0, "")
    assert f"{page}: 1 gold frames" in out
    html = page.read_text()
    assert "step 4" in html
    assert html.count("<svg") == 1
    assert html.count("<tr") >= 21


def test_a_run_that_outlines_no_cells_has_no_such_curve(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_scores.tasks, "build", lambda config: object())
    with pytest.raises(
        InputError, match="is a run of the task 'dense', which outlines no cells: --curve needs"
    ):
        checkpoint_scores.write_curve(trained, "best", tmp_path / "curve.html", Alone())
    assert not (tmp_path / "curve.html").exists()


@pytest.mark.parametrize(
    "arguments", [["--workdir=runs/x", "--checkpoints=all"], ["--truth=01_GT", "--result=01_RES"]]
)
def test_a_curve_is_of_one_checkpoint(arguments):
    status, _, err = evaluated(*arguments, "--curve=x.html")
    assert status == 2
    assert "--curve goes with --workdir and one of its checkpoints" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--process=1"], "--coordinator=<host of process 0>:<port>"),
        (["--jobs=2", "--coordinator=localhost:1", "--processes=2"], "start it as one process, not as 2"),
    ],
)
def test_flags_that_would_score_everything_twice_are_wrong(trained, arguments, said):
    status, _, err = evaluated(f"--workdir={trained}", "--checkpoints=all", *arguments)
    assert status == 2
    assert said in err
