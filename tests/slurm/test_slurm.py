"""Training under a real SLURM of two nodes on this machine; skipped where SLURM cannot be installed or run."""

import csv
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from celltrack_jax.training import progress
from launch import cli
from launch.slurm import jobs
from tests import tiny_store

ROOT = Path(__file__).parents[2]
START = Path(__file__).with_name("start.sh")
STEPS = 50


def call(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("SLURM needs root to be installed and started")
    folder = tmp_path_factory.mktemp("celltrack-slurm")
    started = call(str(START), str(folder))
    if started.returncode:
        pytest.skip(f"no SLURM here: {started.stderr[-600:]}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        yield
    call(str(START), "stop", str(folder))


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    store = tiny_store.make(tmp_path_factory.mktemp("movie"))
    return [
        sys.executable, "-m", "launch.train", "--config=configs/ctc/segment.py:tiny",
        f"--config.data.store={store}", f"--config.train.steps={STEPS}", "--config.train.log_every=1",
        "--config.train.evaluate_every=50", "--config.train.save_every=50",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(command, tmp_path_factory):
    """A run of one process without SLURM, of which twenty checkpoints are kept."""
    workdir = tmp_path_factory.mktemp("alone")
    done = call(
        *command, f"--workdir={workdir}", "--config.train.save_every=2", "--config.train.keep_latest=20"
    )
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.fixture(scope="module")
def alone(run):
    """Its losses."""
    return losses(run)


def start(nodes: int, name: str, *command: str) -> subprocess.Popen:
    """Starts a job of one task per node."""
    step = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", f"--job-name={name}"]
    return subprocess.Popen(
        [*step, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(job: subprocess.Popen, status: int = 0) -> str:
    out, err = job.communicate(timeout=400)
    assert job.returncode == status, err[-3000:]
    return out


def losses(workdir: Path) -> dict[int, float]:
    log = workdir / "metrics.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return {row["step"]: row["loss"] for row in rows if row["kind"] == "train"}


def assert_same(found: dict[int, float], expected: dict[int, float], tolerance: float = 1e-4) -> None:
    assert sorted(found) == sorted(expected) == list(range(1, STEPS + 1))
    np.testing.assert_allclose(
        [found[step] for step in sorted(found)], [expected[step] for step in sorted(found)], rtol=tolerance
    )


def wait_for_steps(workdir: Path, steps: int, job: subprocess.Popen) -> None:
    deadline = time.monotonic() + 400
    while len(losses(workdir)) < steps:
        assert time.monotonic() < deadline, "the job does not train"
        assert job.poll() is None, job.communicate()
        time.sleep(0.2)


def runs(workdir: Path) -> dict[str, tuple[str, int]]:
    """Status and attempts of a sweep's runs, by arm."""
    rows = json.loads((workdir / "manifest.json").read_text())["runs"]
    return {row["arm"]: (row["status"], row["attempts"]) for row in rows}


@pytest.mark.slow
def test_slurm_training_over_two_nodes_equals_one_process(slurm, command, alone, tmp_path):
    finish(start(2, "whole", *command, f"--workdir={tmp_path}"))
    assert_same(losses(tmp_path), alone)


@pytest.mark.slow
def test_slurm_run_that_is_told_to_stop_goes_on_with_another_node_count(slurm, command, alone, tmp_path):
    job = start(2, "stopped", *command, f"--workdir={tmp_path}")
    wait_for_steps(tmp_path, 10, job)
    assert call("scancel", "--signal=TERM", "--name=stopped").returncode == 0
    assert f"of {STEPS}; the same command continues" in finish(job, cli.STOPPED)
    stopped = len(losses(tmp_path))
    assert 10 <= stopped < STEPS
    assert f"resumed at step {stopped} of {STEPS}" in finish(
        start(1, "resumed", *command, f"--workdir={tmp_path}")
    )
    assert_same(losses(tmp_path), alone)


@pytest.mark.slow
def test_slurm_training_over_two_nodes_equals_one_process_in_float64(slurm, command, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    precise = [*command, "--config.model.dtype=float64"]
    job = start(2, "precise", *precise, f"--workdir={tmp_path / 'two'}")
    done = call(*precise, f"--workdir={tmp_path / 'one'}")
    assert done.returncode == 0, done.stderr
    finish(job)
    assert_same(losses(tmp_path / "two"), losses(tmp_path / "one"), 1e-8)


@pytest.mark.slow
def test_slurm_run_that_is_told_to_stop_queues_again_and_goes_on_with_what_it_is_granted(
    slurm, command, alone, tmp_path
):
    """It begins on two nodes; when it is told to stop, one of them is taken away."""
    flags = [f"--workdir={tmp_path}", "--on=slurm", "--slurm=nodes=1-2"]
    job = subprocess.Popen(
        [*command, *flags], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for_steps(tmp_path, 10, job)
        assert call("scontrol", "update", "nodename=n1", "state=drain", "reason=test").returncode == 0
        assert call("scancel", "--signal=TERM", f"--name=train {tmp_path.name}").returncode == 0
        assert re.search(r"^job \d+, log .*_0_log.out$", finish(job), re.MULTILINE)
    finally:
        call("scontrol", "update", "nodename=n1", "state=resume")
    (log,) = (tmp_path / "slurm").glob("*_0_log.out")
    said = log.read_text()
    stopped = int(re.findall(r"stopped at step (\d+) of", said)[0])
    assert 10 <= stopped < STEPS
    assert f"resumed at step {stopped} of {STEPS}" in said
    assert re.findall(r"per device, (\d) x cpu", said) == ["2", "1"]
    assert_same(losses(tmp_path), alone)


def test_slurm_job_that_is_cancelled_is_not_queued_again(slurm, tmp_path):
    """Although its command saves and says, by its status, that it could go on."""
    stops = (
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(75)); print('up'); time.sleep(99)"
    )
    (job,) = jobs.submit([["-u", "-c", stops]], tmp_path, "cancelled", {})
    deadline = time.monotonic() + 60
    while not (jobs.log_file(tmp_path, job).exists() and "up" in jobs.log_file(tmp_path, job).read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    jobs.cancel([job])
    assert job not in (jobs.states() or {})
    assert jobs.outcome(tmp_path, job) is None
    assert jobs.vanished(tmp_path, job).status == 1


@pytest.mark.slow
def test_slurm_task_of_an_array_that_is_told_to_stop_queues_again_alone(slurm, tmp_path):
    """The last task of an array may have the array's number: what ended before it does not run again."""
    program = (
        "import os, pathlib, signal, sys, time; at = pathlib.Path(sys.argv[1]); again = at.exists();"
        "at.open('a').write('ran '); signal.signal(15, lambda *_: sys.exit(75)); time.sleep(0 if again else wait)"
    )
    seconds = {"short": 0, "long": 99}
    commands = [["-c", f"wait = {wait}; {program}", str(tmp_path / name)] for name, wait in seconds.items()]
    ids = jobs.submit(commands, tmp_path, "array", {})
    deadline = time.monotonic() + 120
    while jobs.outcome(tmp_path, ids[0]) is None or not (tmp_path / "long").exists():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(2)  # the signal's handler is set
    assert call("scancel", "--signal=TERM", ids[1]).returncode == 0
    while jobs.outcome(tmp_path, ids[1]) is None:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert [jobs.outcome(tmp_path, job).status for job in ids] == [0, 0]
    assert [(tmp_path / name).read_text() for name in seconds] == ["ran ", "ran ran "]


@pytest.mark.slow
def test_slurm_sweep_of_twelve_arms_tables_all_but_the_one_that_fails(slurm, command, tmp_path):
    store = next(flag for flag in command if flag.startswith("--config.data.store="))
    sweep = [sys.executable, "-m", "launch.sweep", "--config=tests/launch/twelve_arms.py", store]
    sweep += [f"--workdir={tmp_path}", "--on=slurm"]
    first = call(*sweep)
    assert first.returncode == 1, first.stderr
    names = list(runs(tmp_path))
    assert (len(names), names[-1]) == (12, "impossible")
    expected = {name: ("done", 1) for name in names[:-1]}
    assert runs(tmp_path) == expected | {"impossible": ("failed", 1)}
    rows = list(csv.DictReader((tmp_path / "sweep.csv").open()))
    assert [row["arm"] for row in rows] == names
    assert all(row["score"] and row["done"] == "1/1" for row in rows[:-1])
    assert "groups of space=16" in rows[-1]["problem"]
    second = call(*sweep)
    assert second.returncode == 1, second.stderr
    assert runs(tmp_path) == expected | {"impossible": ("failed", 2)}
    assert "11 of 12 runs are done already" in second.stdout


@pytest.mark.slow
def test_slurm_array_scores_every_checkpoint(slurm, run):
    (run / "evaluation.csv").unlink(missing_ok=True)
    evaluate = [sys.executable, "-m", "launch.evaluate", f"--workdir={run}", "--checkpoints=all"]
    done = call(*evaluate, "--on=slurm", f"--json={run / 'rows.json'}")
    assert done.returncode == 0, done.stderr
    steps = list(range(STEPS - 38, STEPS + 1, 2))
    assert len(list((run / "slurm").glob("*.status"))) == len(steps) == 20
    assert [row["step"] for row in json.loads((run / "rows.json").read_text())] == steps
    rows = list(csv.DictReader((run / "evaluation.csv").open()))
    assert [int(row["step"]) for row in rows] == steps
    curve = re.search(r"<figure>.{0,80}score.*?</figure>", (run / "evaluation.html").read_text(), re.DOTALL)
    assert curve is not None
    assert curve.group().count("<circle") == 20
    # The run's own evaluation of its last step says the same.
    own = [row for row in progress.read_history(run) if row["kind"] == "eval"][-1]
    assert float(rows[-1]["score"]) == pytest.approx(own["score"], rel=1e-6)
