"""Training under a real SLURM of two nodes on this machine; skipped where SLURM cannot be installed."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from launch import cli
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
    running = shutil.which("scontrol") and "is UP" in call("scontrol", "ping").stdout
    started = call(str(START), str(tmp_path_factory.mktemp("slurm")))
    if started.returncode:
        pytest.skip(f"SLURM cannot be started here: {started.stderr[-300:]}")
    yield
    if not running:
        call(str(START), "stop")


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    store = tiny_store.make(tmp_path_factory.mktemp("movie"))
    return [
        sys.executable, "-m", "launch.train", "--config=configs/ctc/segment.py:tiny",
        f"--config.data.store={store}", f"--config.train.steps={STEPS}", "--config.train.log_every=1",
        "--config.train.evaluate_every=50", "--config.train.save_every=50",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def alone(command, tmp_path_factory):
    """Losses of one process without SLURM."""
    workdir = tmp_path_factory.mktemp("alone")
    done = call(*command, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return losses(workdir)


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


def assert_same(found: dict[int, float], expected: dict[int, float]) -> None:
    assert sorted(found) == sorted(expected) == list(range(1, STEPS + 1))
    np.testing.assert_allclose(
        [found[step] for step in sorted(found)], [expected[step] for step in sorted(found)], rtol=1e-4
    )


def test_slurm_training_over_two_nodes_equals_one_process(slurm, command, alone, tmp_path):
    finish(start(2, "whole", *command, f"--workdir={tmp_path}"))
    assert_same(losses(tmp_path), alone)


def test_slurm_run_that_is_told_to_stop_goes_on_with_another_node_count(slurm, command, alone, tmp_path):
    job = start(2, "stopped", *command, f"--workdir={tmp_path}")
    deadline = time.monotonic() + 400
    while len(losses(tmp_path)) < 10:
        assert time.monotonic() < deadline, "the job does not train"
        assert job.poll() is None, job.communicate()[1][-3000:]
        time.sleep(0.2)
    assert call("scancel", "--signal=TERM", "--name=stopped").returncode == 0
    assert f"of {STEPS}; the same command continues" in finish(job, cli.STOPPED)
    stopped = len(losses(tmp_path))
    assert 10 <= stopped < STEPS
    assert f"resumed at step {stopped} of {STEPS}" in finish(
        start(1, "resumed", *command, f"--workdir={tmp_path}")
    )
    assert_same(losses(tmp_path), alone)
